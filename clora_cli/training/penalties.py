"""Penalties of the new adapter's factors, added to its gradients (layer L3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import CloraError
from clora_cli.methods import Factors, Method, Penalty
from clora_cli.model.bank import AdapterBank
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Penalties", "recall"]


Recalled = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class _Stack:
    """The trainable factors of all sites of one shape, and the stacked past of those sites."""

    a: list[nn.Parameter]
    b: list[nn.Parameter]
    scaling: float
    past: tuple[Tensor, Tensor] | None
    total_sites: int
    dense: Tensor | None
    owner: Tensor
    recalled: Mapping[str, Tensor]
    sites: Sequence[str]
    now: list[Tensor] = field(default_factory=list)  # shared by all methods' penalties in one step

    def factors(self, kept: Mapping[str, Tensor]) -> Factors:
        past_a, past_b = self.past or (None, None)
        if not self.now:
            self.now.extend(torch.stack([p.detach().float() for p in side]) for side in (self.a, self.b))
        a, b = self.now
        known: dict[str, Any] = {"past_delta": self.dense, "past_owner": self.owner, "kept": kept}
        known |= {"recalled": self.recalled, "sites": self.sites}
        return Factors(a, b, self.scaling, past_a, past_b, self.total_sites, **known)


class Penalties:
    """All penalties of a run.

    They depend on adapter tensors alone, so they are computed once per optimizer step and added to ``.grad`` after the
    backward pass: outside of autograd, of gradient accumulation and of the reduction over processes, each of which
    would otherwise scale them or pay for them several times.

    Args:
        methods: Name to method, for every method that has a penalty.
        trainable: The new adapter: site to its trainable factors.
        bank: The earlier adapters.
        recalled: Of the last earlier adapter, what ``recall`` found.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        trainable: Mapping[str, Factor],
        bank: AdapterBank,
        recalled: Recalled | None = None,
    ) -> None:
        self._methods = methods
        self._stacks = _stacks(trainable, bank, recalled or {})
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def inactive(self) -> dict[str, bool]:
        """Return the names of the methods that act on no site, such as an orthogonality term without a past.

        Returns:
            Name to whether there is a penalty, of factors that this run does not train.
        """
        found = {}
        for name, method in self._methods.items():
            terms = [(stack, method.penalty(stack.factors({}))) for stack in self._stacks]
            if not any(_acts(stack, term) for stack, term in terms):
                found[name] = any(term is not None for _, term in terms)
        self._forget()
        return found

    @torch.no_grad()
    def add(self, name: str, kept: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """Add one method's gradient to the adapter's ``.grad``, if the method has a penalty.

        Args:
            name: The method's.
            kept: What it keeps from step to step.
            scale: The loss scale of mixed precision that the gradients carry at this moment.
        """
        if name not in self._methods:
            return
        for stack in self._stacks:
            penalty = self._methods[name].penalty(stack.factors(kept))
            if penalty is not None:
                _check(name, penalty, stack.factors(kept))
                self._sums[name] = penalty.value + self._sums[name] if name in self._sums else penalty.value
                _accumulate(stack, penalty, scale)

    def end_step(self) -> None:
        """Drop this optimizer step's stacks."""
        self._steps += 1
        self._forget()

    def _forget(self) -> None:
        for stack in self._stacks:
            stack.now.clear()

    def take(self) -> dict[str, float]:
        """Return each penalty's mean value per step since the last call, and start afresh."""
        means = {name: total.item() / max(1, self._steps) for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means


def recall(names: Collection[str], adapter: AdapterFolder | None) -> Recalled:
    """Read what methods recall of an adapter: by name, site to tensor; empty without an adapter.

    Args:
        names: ``lora_A``, ``lora_B``, or names of what its method kept; all of them are there.
        adapter: The last earlier adapter, if there is one.
    """
    if adapter is None or not names:
        return {}
    factors, state = adapter.factors(), adapter.state()
    own = {"lora_A": {s: f.a for s, f in factors.items()}, "lora_B": {s: f.b for s, f in factors.items()}}
    return {name: own[name] if name in own else {s: state[f"{name}/{s}"] for s in factors} for name in names}


def _check(name: str, penalty: Penalty, given: Factors) -> None:
    """Refuse what would be added to other entries than it is meant for: tensors of other shapes broadcast."""
    if not isinstance(penalty, Penalty):
        raise CloraError(
            f"method {name}: penalty() returns {type(penalty).__name__}, not a Penalty", code="hook-returns-wrong"
        )
    wanted = {"value": given.a.new_zeros(()), "grad_a": given.a, "grad_b": given.b}
    for field_name, like in wanted.items():
        value = getattr(penalty, field_name)
        if value is None and field_name != "value":
            continue
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape != tuple(like.shape):
            raise CloraError(
                f"method {name}: penalty() returns {field_name} of {shape}; it is to be a tensor of {tuple(like.shape)}",
                code="hook-returns-wrong",
            )


def _acts(stack: _Stack, penalty: Penalty | None) -> bool:
    """Tell whether a penalty has a gradient for anything that is trained."""
    sides = [] if penalty is None else [(stack.a, penalty.grad_a), (stack.b, penalty.grad_b)]
    return any(gradient is not None and any(own.requires_grad for own in side) for side, gradient in sides)


def _accumulate(stack: _Stack, penalty: Penalty, scale: float) -> None:
    for parameters, gradient in ((stack.a, penalty.grad_a), (stack.b, penalty.grad_b)):
        if gradient is None:
            continue
        for parameter, own in zip(parameters, gradient, strict=True):
            if not parameter.requires_grad:  # no step would take it, and yet it would count when gradients are clipped
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(own.to(parameter.grad.dtype), alpha=scale)


def _stacks(trainable: Mapping[str, Factor], bank: AdapterBank, recalled: Recalled) -> Sequence[_Stack]:
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for site in sorted(trainable):
        factor = trainable[site]
        groups[(*factor.shape, factor.rank, bank.owners(site))].append(site)
    return [_stack(sites, trainable, bank, recalled) for sites in groups.values()]


def _stack(sites: list[str], trainable: Mapping[str, Factor], bank: AdapterBank, recalled: Recalled) -> _Stack:
    first = trainable[sites[0]]
    return _Stack(
        a=[trainable[site].a for site in sites],  # type: ignore[misc]  # a trainable factor holds parameters
        b=[trainable[site].b for site in sites],  # type: ignore[misc]
        scaling=first.scaling,
        past=bank.past_of(sites),
        total_sites=len(trainable),
        dense=bank.dense_of(sites),
        owner=torch.tensor(bank.owners(sites[0]), dtype=torch.long, device=first.a.device),
        recalled={name: torch.stack([found[s] for s in sites]).to(first.a.device) for name, found in recalled.items()},
        sites=sites,
    )
