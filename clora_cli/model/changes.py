"""What frozen adapters add to one layer's output, weighed input by input (layer L1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.lora import Factor, sharing
from clora_cli.base.errors import MismatchError

__all__ = ["Change", "Dense", "LowRank", "Shared", "Subspaces", "find_shared"]

_Held = Sequence[tuple[int, Factor]]


class Change(Protocol):
    """What adapters add to one layer's output."""

    def gate(self, weights: Tensor | None) -> None:
        """Weigh the bank's adapters, (input, adapter), or add them up."""

    def added(self, output: Tensor, inputs: Tensor) -> Tensor:
        """Return the layer's output with the change of its inputs added."""


class LowRank:
    """Concatenated factors, each row of which belongs to one adapter of the bank.

    Args:
        a: Shape (total rank, in).
        b: Shape (out, total rank), scalings included.
        owners: The adapter's number of each row of ``a``.
    """

    def __init__(self, a: Tensor, b: Tensor, owners: Sequence[int]) -> None:
        self._a, self._b = a, b
        self._owners = torch.tensor(owners, device=a.device)
        self._now: tuple[Tensor, Tensor, Tensor | None] | None = (a, b, None)

    def gate(self, weights: Tensor | None) -> None:
        """Weigh the adapters; rows that no input asks for stay out of the products."""
        if weights is None:
            self._now = (self._a, self._b, None)
            return
        by_row = weights.to(self._a)[:, self._owners]  # (input, rank)
        used = by_row.any(dim=0).nonzero()[:, 0]
        if not len(used):
            self._now = None
        elif len(used) == len(self._owners):
            self._now = (self._a, self._b, by_row)
        else:
            self._now = (self._a[used], self._b[:, used], by_row[:, used])

    def added(self, output: Tensor, inputs: Tensor) -> Tensor:
        """Return the output with the change added."""
        if self._now is None:
            return output
        a, b, gate = self._now
        inner = _inner(inputs, a)
        if gate is not None:
            inner = inner * _for_copies(gate, inner)[:, None]
        return _plus(output, inner, b)


class Dense:
    """One adapter's dense delta.

    Args:
        delta: Shape (out, in).
        number: The adapter's.
    """

    def __init__(self, delta: Tensor, number: int) -> None:
        self._delta, self._number = delta, number
        self._weights: Tensor | None = None

    def gate(self, weights: Tensor | None) -> None:
        """Weigh the adapter."""
        self._weights = None if weights is None else weights.to(self._delta)[:, self._number]

    def added(self, output: Tensor, inputs: Tensor) -> Tensor:
        """Return the output with the change added."""
        change = _inner(inputs, self._delta)
        if self._weights is not None:
            change = change * _for_copies(self._weights, change)[:, None, None]
        return output + change.to(output.dtype)


@dataclass(frozen=True, eq=False)
class Shared:
    """Adapters that are parts of one LoRA at a site: no two of them own the same entry of its B.

    Attributes:
        a: Their one ``lora_A``, shape (rank, in).
        b: The sum of their ``lora_B`` times their one scaling, shape (out, rank).
        owner: Who owns each entry of the transposed ``b``, shape (rank, out), uint8 or int16: 0 for no adapter, else a place in
            ``numbers`` from 1.
        numbers: The adapters' numbers.
    """

    a: Tensor
    b: Tensor
    owner: Tensor
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, held: _Held, like: Tensor) -> Shared:
        """Add up numbered factors that share, in the type and on the device of a tensor."""
        (_, first), *_ = held
        owner = torch.zeros(first.b.mT.shape, dtype=torch.uint8 if len(held) < 256 else torch.int16)
        total = torch.zeros_like(first.b)
        for place, (_, factor) in enumerate(held, start=1):
            total += factor.b  # exact: all but one of an entry's terms are zero
            owner += (factor.b.mT != 0).to(owner.dtype) * place
        b = (total.to(torch.promote_types(total.dtype, torch.float32)) * first.scaling).to(like)
        return cls(first.a.to(like), b, owner.to(like.device), tuple(number for number, _ in held))

    @property
    def owners(self) -> tuple[int, ...]:
        """The adapter's number of each row of ``factors``' first."""
        return tuple(number for number in self.numbers for _ in range(len(self.a)))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.a.nbytes + self.b.nbytes + self.owner.nbytes

    def part(self, number: int) -> Tensor:
        """Return one adapter's own ``b``, shape (out, rank)."""
        return self.b * (self.owner == self.numbers.index(number) + 1).to(self.b).mT

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return all adapters' factors, concatenated as if each had its own: (total rank, in) and (out, total rank)."""
        parts = [self.part(number) for number in self.numbers]
        return self.a.repeat(len(parts), 1), torch.cat(parts, dim=1)


class Subspaces:
    """Parts of one LoRA: their mixture is that LoRA with each entry of B times the weight of its owner.

    ``sum_k alpha_k (B * M_k) A = (B * alpha[owner]) A`` for masks M_k that do not overlap (CAST, eq. 12-13). The weighed B is
    made once when the gate is set. Inputs of equal weights go through one matrix product, others through a batch of them;
    neither grows with the number of adapters.

    Args:
        shared: The LoRA.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._owner = shared.owner.flatten()
        self._numbers = torch.tensor(shared.numbers, device=shared.b.device)
        self._inputs = 0  # the number of inputs with weights; 0 without any
        self._now: Tensor | None = shared.b  # (out, rank) for all inputs alike, or (input, rank, out)

    def gate(self, weights: Tensor | None) -> None:
        """Weigh the adapters."""
        b = self._shared.b
        if weights is None:
            self._inputs, self._now = 0, b
            return
        mine = weights.to(b)[:, self._numbers]
        self._inputs = len(mine)
        if not bool(mine.any()):
            self._now = None
            return
        alike = bool((mine == mine[:1]).all())
        table = functional.pad(mine[:1] if alike else mine, (1, 0))  # an entry without an owner stays zero
        weighed = table.index_select(1, self._owner.int()).view(-1, *self._shared.owner.shape).mul_(b.mT)
        # For one product B lies in memory as a single adapter's would, so that the same kernel gives the same bits.
        self._now = weighed[0].mT.contiguous() if alike else weighed

    def added(self, output: Tensor, inputs: Tensor) -> Tensor:
        """Return the output with the change added."""
        if self._now is None:
            return output
        inner = _inner(inputs, self._shared.a)
        if self._inputs:
            _copies(self._inputs, inner)
        if self._now.ndim == 2:
            return _plus(output, inner, self._now)
        # The copies of an input follow one another: together they are one longer input.
        small = inner.reshape(self._inputs, -1, inner.shape[-1])
        if output.dtype != inner.dtype:
            return output + torch.bmm(small, self._now).view(output.shape).to(output.dtype)
        large = output.reshape(self._inputs, -1, output.shape[-1])
        add = torch.baddbmm if torch.is_grad_enabled() else Tensor.baddbmm_
        return add(large, small, self._now).view(output.shape)


def find_shared(held: _Held) -> tuple[list[_Held], _Held]:
    """Find the adapters at a site that are parts of one LoRA.

    Args:
        held: Numbers and factors of the adapters that have the site.

    Returns:
        Groups of two or more with bit-identical ``a``, equal scalings, and no entry of ``b`` that two of them use; and all
        others. Both in the order given.
    """
    groups: list[_Held] = []
    rest: list[tuple[int, Factor]] = []
    for places in sharing([factor for _, factor in held]):
        group = [held[place] for place in places]
        parts, others = _disjoint(group) if len(group) > 1 else (group, [])
        if len(parts) > 1:
            groups.append(parts)
            rest += others
        else:
            rest += [*parts, *others]
    return groups, sorted(rest, key=lambda one: one[0])


def _disjoint(held: _Held) -> tuple[list[tuple[int, Factor]], list[tuple[int, Factor]]]:
    parts: list[tuple[int, Factor]] = []
    others: list[tuple[int, Factor]] = []
    taken = torch.zeros_like(held[0][1].b, dtype=torch.bool)
    for number, factor in held:
        mine = factor.b != 0
        # What is not finite would not vanish under a weight of 0.
        fits = bool(factor.b.isfinite().all()) and not bool((taken & mine).any())
        (parts if fits else others).append((number, factor))
        if fits:
            taken |= mine
    return parts, others


def _inner(inputs: Tensor, matrix: Tensor) -> Tensor:
    """Multiply inputs by a matrix; tokens, which are columns of it by their numbers, choose those."""
    return functional.linear(inputs, matrix) if inputs.is_floating_point() else functional.embedding(inputs, matrix.mT)


def _plus(output: Tensor, inner: Tensor, b: Tensor) -> Tensor:
    if output.dtype != inner.dtype:
        return output + functional.linear(inner, b).to(output.dtype)
    # One pass over the output instead of three: the product is added where it is made.
    flat, small = output.reshape(-1, output.shape[-1]), inner.reshape(-1, inner.shape[-1])
    add = torch.addmm if torch.is_grad_enabled() else Tensor.addmm_
    return add(flat, small, b.mT).view(output.shape)


def _copies(inputs: int, batch: Tensor) -> int:
    copies, left = divmod(len(batch), inputs)
    if left or batch.ndim != 3:
        raise MismatchError(
            f"a layer got {tuple(batch.shape)} where {inputs} gated inputs were expected", code="gated-inputs-differ"
        )
    return copies


def _for_copies(weights: Tensor, batch: Tensor) -> Tensor:
    """Repeat each input's weights for its copies; shapes (input, …) and (input * copies, token, …)."""
    copies = _copies(len(weights), batch)
    return weights if copies == 1 else weights.repeat_interleave(copies, dim=0)
