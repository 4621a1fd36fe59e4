"""Frozen adapters in a base model's forward pass (layer L1).

The adapters of one site are concatenated, ``[A_1; …; A_K]`` and ``[B_1 … B_K]`` with scalings folded into B: however
many adapters there are, a site costs one pair of small matrix products, and no dense delta is ever formed. Sites of
one shape are stacked in one tensor, which penalties over past adapters read without another copy. A dense delta, such
as a merge that no low rank holds, is added as it is.

A gate weighs the adapters input by input: it multiplies the concatenated ``A``'s output, so that a mixture costs no more
than the sum, and adapters that no input of a batch asks for are left out of the products.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from clora_cli.backbone import linear_shape
from clora_cli.errors import MismatchError
from clora_cli.lora import Factor, concatenate

__all__ = ["AdapterBank", "Choose"]

Choose = Callable[[str, Tensor], Tensor]


class AdapterBank:
    """Adds a set of frozen adapters to a base model through forward hooks; the model itself stays untouched.

    Works on every layer type whose forward takes one input (linear, GPT-2's Conv1D, quantised linear).

    Args:
        model: The base model, before any PEFT wrapper is put around it. Its hooks survive the wrapping.

    Example:
        >>> bank = AdapterBank(nn.Sequential(nn.Linear(3, 2)))
        >>> bank.activate([{"0": Factor(torch.ones(1, 3), torch.ones(2, 1), 0.5)}])
        >>> bank.past("0")[0].shape
        torch.Size([1, 3])
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[RemovableHandle] = []
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        self._owners: dict[str, tuple[int, ...]] = {}
        self._stacks: dict[tuple[int, ...], tuple[list[str], Tensor, Tensor]] = {}
        self._dense: dict[str, list[tuple[int, Tensor]]] = {}
        self._changes: dict[str, list[_Change]] = {}
        self._count = 0
        self._choose: Choose | None = None
        self._chosen: set[str] = set()

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that carry at least one adapter."""
        return tuple(dict.fromkeys((*self._factors, *self._dense)))

    def activate(self, adapters: Sequence[Mapping[str, Factor | Tensor]]) -> None:
        """Replace the adapters in use.

        Args:
            adapters: For each adapter its factors, or its dense deltas of shape (out, in), by site. Ranks and sites may
                differ; an empty list gives the bare base model.

        Raises:
            MismatchError: If a site does not exist in the model or has another shape.
        """
        self.clear()
        self._count = len(adapters)
        by_site: dict[str, list[Factor]] = defaultdict(list)
        owners: dict[str, list[int]] = defaultdict(list)
        for number, adapter in enumerate(adapters):
            for site, delta in adapter.items():
                self._check(site, tuple(delta.shape))
                if isinstance(delta, Factor):
                    by_site[site].append(delta)
                    owners[site] += [number] * delta.rank
                else:
                    self._add_dense(site, number, delta)
        self._owners = {site: tuple(numbers) for site, numbers in owners.items()}
        self._stack({site: concatenate(factors) for site, factors in by_site.items()})
        self._hook_up()

    def clear(self) -> None:
        """Remove every adapter: the model computes what the base model computes."""
        self._unhook()
        self._factors, self._owners, self._stacks, self._dense = {}, {}, {}, {}
        self._count = 0

    def gate(self, weights: Mapping[str, Tensor] | None) -> None:
        """Weigh the adapters input by input in all forward passes from now on, until told otherwise.

        Args:
            weights: Site to weights, shape (input, adapter), in the order of ``activate``; None adds all adapters up
                again. A forward pass over several copies of each input, one after the other, as beam search makes them,
                gives all copies their input's weights.

        Raises:
            ValueError: If an adapted site has no weights, or there are as many weights as there are not adapters.
        """
        self._choose = None
        for site in self._changes:
            self._gate(site, None if weights is None else weights[site])

    def gate_by(self, choose: Choose) -> None:
        """Weigh the adapters by what a forward pass itself shows: the next one's features decide, until told otherwise.

        Args:
            choose: Called in that pass, once for each adapted site, with the site and the base layer's output, shape
                (input, token, out); returns weights, shape (input, adapter).
        """
        self._choose, self._chosen = choose, set()

    @contextlib.contextmanager
    def only(self, adapter: int | None) -> Iterator[None]:
        """For a while, let one adapter of low rank act alone, or none; what ``past_of`` returns stays as it is.

        Args:
            adapter: Its number in the order of ``activate``, from 0; None for the bare base model.
        """
        self._unhook()
        try:
            if adapter is not None:
                for site, (a, b) in self._factors.items():
                    mine = [row for row, owner in enumerate(self._owners[site]) if owner == adapter]
                    if mine:
                        self._hook(site, _LowRank(a[mine], b[:, mine], [0] * len(mine)))
            yield
        finally:
            self._unhook()
            self._hook_up()

    def owners(self, site: str) -> tuple[int, ...]:
        """Return, for each row of a site's concatenated ``a``, the number of the adapter that it came from."""
        return self._owners.get(site, ())

    def past(self, site: str) -> tuple[Tensor, Tensor] | None:
        """Return a site's concatenated factors, (total rank, in) and (out, total rank), or None if it has none."""
        return self._factors.get(site)

    def past_of(self, sites: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Return the factors of several sites of one shape and the same ``owners``, or None if they have none.

        Returns:
            Shapes (site, total rank, in) and (site, out, total rank); the bank's own storage where the sites are one stack.
        """
        for names, a, b in self._stacks.values():
            if names == list(sites):
                return a, b
        pairs = [self._factors[site] for site in sites if site in self._factors]
        return (torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])) if pairs else None

    def dense_of(self, sites: Sequence[str]) -> Tensor | None:
        """Return the dense deltas of several sites of one shape, (site, out, in); None if none of them has one."""
        if not any(site in self._dense for site in sites):
            return None
        found = {
            site: torch.stack([delta for _, delta in self._dense[site]]).sum(0) for site in sites if site in self._dense
        }
        like = next(iter(found.values()))
        return torch.stack([found.get(site, torch.zeros_like(like)) for site in sites])

    def _gate(self, site: str, weights: Tensor | None) -> None:
        if weights is not None and weights.shape[1] != self._count:
            raise ValueError(f"{weights.shape[1]} weights for {self._count} adapters")
        for change in self._changes[site]:
            change.gate(weights)

    def _stack(self, factors: Mapping[str, Factor]) -> None:
        groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for site, factor in factors.items():
            groups[(*factor.shape, factor.rank)].append(site)
        for shape, sites in groups.items():
            sites.sort()
            like = {"device": self._module(sites[0]).weight.device, "dtype": self._dtype(sites[0])}
            a = torch.stack([factors[site].a for site in sites]).to(**like)
            b = torch.stack([factors[site].b for site in sites]).to(**like)
            self._stacks[shape] = (sites, a, b)
            self._factors.update({site: (a[i], b[i]) for i, site in enumerate(sites)})

    def _add_dense(self, site: str, number: int, delta: Tensor) -> None:
        kept = delta.to(device=self._module(site).weight.device, dtype=self._dtype(site))
        self._dense.setdefault(site, []).append((number, kept))

    def _dtype(self, site: str) -> torch.dtype:
        weight = self._module(site).weight
        # Quantised weights are integers; their layers compute in half precision.
        return weight.dtype if weight.is_floating_point() and weight.element_size() > 1 else torch.bfloat16

    def _check(self, site: str, given: tuple[int, ...]) -> None:
        try:
            shape = linear_shape(self._module(site))
        except AttributeError:
            raise MismatchError(
                f"the base model has no layer '{site}', which an adapter changes; was it trained on another model?"
            ) from None
        if shape != given:
            raise MismatchError(
                f"layer '{site}' is {shape} in the base model and {given} in an adapter; was it trained on another model?"
            )

    def _module(self, site: str) -> Any:
        module = self._model.get_submodule(site)
        return getattr(module, "base_layer", module)  # once PEFT has wrapped it, the same layer is below

    def _hook_up(self) -> None:
        for site, (a, b) in self._factors.items():
            self._hook(site, _LowRank(a, b, self._owners[site]))
        for site, deltas in self._dense.items():
            for number, delta in deltas:
                self._hook(site, _Dense(delta, number))

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._changes = [], {}

    def _hook(self, site: str, change: _Change) -> None:
        dtype = self._dtype(site)

        def add_change(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self._choose is not None and site not in self._chosen:
                self._chosen.add(site)
                self._gate(site, self._choose(site, output))
            return change.added(output, inputs[0].to(dtype))

        self._handles.append(self._module(site).register_forward_hook(add_change))
        self._changes.setdefault(site, []).append(change)


class _Change(Protocol):
    """What adapters add to one layer's output."""

    def gate(self, weights: Tensor | None) -> None:
        """Weigh the bank's adapters, (input, adapter), or add them up."""

    def added(self, output: Tensor, inputs: Tensor) -> Tensor:
        """Return the layer's output with the change of its inputs added."""


class _LowRank:
    """Concatenated factors, each row of which belongs to one adapter of the bank."""

    def __init__(self, a: Tensor, b: Tensor, owners: Sequence[int]) -> None:
        self._a, self._b = a, b
        self._owners = torch.tensor(owners, device=a.device)
        self._now: tuple[Tensor, Tensor, Tensor | None] | None = (a, b, None)

    def gate(self, weights: Tensor | None) -> None:
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
        if self._now is None:
            return output
        a, b, gate = self._now
        inner = functional.linear(inputs, a)
        if gate is not None:
            inner = inner * _for_copies(gate, inner)[:, None]
        if output.dtype != inner.dtype:
            return output + functional.linear(inner, b).to(output.dtype)
        # One pass over the output instead of three: the product is added where it is made.
        flat, small = output.reshape(-1, output.shape[-1]), inner.reshape(-1, inner.shape[-1])
        add = torch.addmm if torch.is_grad_enabled() else Tensor.addmm_
        return add(flat, small, b.mT).view(output.shape)


class _Dense:
    """One adapter's dense delta."""

    def __init__(self, delta: Tensor, number: int) -> None:
        self._delta, self._number = delta, number
        self._weights: Tensor | None = None

    def gate(self, weights: Tensor | None) -> None:
        self._weights = None if weights is None else weights.to(self._delta)[:, self._number]

    def added(self, output: Tensor, inputs: Tensor) -> Tensor:
        change = functional.linear(inputs, self._delta)
        if self._weights is not None:
            change = change * _for_copies(self._weights, change)[:, None, None]
        return output + change.to(output.dtype)


def _for_copies(weights: Tensor, batch: Tensor) -> Tensor:
    """Repeat each input's weights for its copies; shapes (input, …) and (input * copies, token, …)."""
    copies, left = divmod(len(batch), len(weights))
    if left or batch.ndim != 3:
        raise MismatchError(f"a layer got {tuple(batch.shape)} where {len(weights)} gated inputs were expected")
    return weights if copies == 1 else weights.repeat_interleave(copies, dim=0)
