"""Penalties of the new adapter's factors, added to its gradients (layer L3)."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from clora_cli.algebra.lora import Factor
from clora_cli.methods import Factors, Method, Penalty, Probe
from clora_cli.model.bank import AdapterBank
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.tensors import read_tensors, save_tensors

__all__ = ["Penalties", "recall"]

Recalled = Mapping[str, Mapping[str, Tensor]]

_RELATIONS = "relations.safetensors"


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

    def factors(self) -> Factors:
        past_a, past_b = self.past or (None, None)
        a, b = (torch.stack([p.detach().float() for p in side]) for side in (self.a, self.b))
        known = {"past_delta": self.dense, "past_owner": self.owner, "recalled": self.recalled}
        return Factors(a, b, self.scaling, past_a, past_b, self.total_sites, **known)  # type: ignore[arg-type]


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
        self._relations: dict[str, Tensor] = {}
        self._new: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def inactive(self) -> list[str]:
        """Return the names of the methods that act on no site, such as an orthogonality term without a past."""
        return [
            n for n, m in self._methods.items() if all(m.penalty(stack.factors()) is None for stack in self._stacks)
        ]

    @torch.no_grad()
    def add_gradients(self, scale: float = 1.0) -> None:
        """Add every penalty's gradient to the adapter's ``.grad``.

        Args:
            scale: The loss scale of mixed precision that the gradients carry at this moment.
        """
        self._steps += 1
        for stack in self._stacks:
            factors = stack.factors()
            for name, method in self._methods.items():
                penalty = method.penalty(dataclasses.replace(factors, relations=self._relations.get(name)))
                if penalty is not None:
                    self._sums[name] = penalty.value + self._sums[name] if name in self._sums else penalty.value
                    _accumulate(stack, penalty, scale)

    def relate(self, probe: Probe, step: int, steps: int) -> None:
        """Let the methods for which it is time relate the new adapter to earlier ones.

        Args:
            probe: What they may ask of the model.
            step: The optimizer step that is under way, from 0.
            steps: Optimizer steps of the run.
        """
        due = [name for name, method in self._methods.items() if method.relates_at(step, steps)]
        if not probe.past or not due:
            return
        idle = self.inactive()  # computes the penalties: too dear for every step
        for name in due:
            if name not in idle:
                self._new[name] = self._relations[name] = self._methods[name].relate(probe)

    def relations(self) -> dict[str, list[float]]:
        """Return, by method, the relations in use: one number per earlier adapter."""
        return {name: numbers.tolist() for name, numbers in self._relations.items()}

    def take_relations(self) -> dict[str, list[float]]:
        """Return, by method, the relations found since the last call."""
        new, self._new = self._new, {}
        return {name: numbers.tolist() for name, numbers in new.items()}

    def save(self, folder: Path) -> None:
        """Write what cannot be computed again into a checkpoint's folder, if there is anything.

        Raises:
            CloraError: If it cannot be written.
        """
        if self._relations:
            save_tensors(folder / _RELATIONS, self._relations)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote.

        Raises:
            ArtifactError: If it is damaged.
        """
        if (folder / _RELATIONS).exists():
            self._relations = read_tensors(folder / _RELATIONS)

    def take(self) -> dict[str, float]:
        """Return each penalty's mean value per step since the last call, and start afresh."""
        means = {name: total.item() / max(1, self._steps) for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means


def recall(names: Collection[str], adapter: AdapterFolder | None) -> Recalled:
    """Read what methods recall of an adapter: by name, site to tensor; nothing of none.

    Args:
        names: ``lora_A``, ``lora_B``, or names of what its method kept; all of them are there.
        adapter: The last earlier adapter, if there is one.
    """
    if adapter is None or not names:
        return {}
    factors, state = adapter.factors(), adapter.state()
    own = {"lora_A": {s: f.a for s, f in factors.items()}, "lora_B": {s: f.b for s, f in factors.items()}}
    return {name: own[name] if name in own else {s: state[f"{name}/{s}"] for s in factors} for name in names}


def _accumulate(stack: _Stack, penalty: Penalty, scale: float) -> None:
    for parameters, gradient in ((stack.a, penalty.grad_a), (stack.b, penalty.grad_b)):
        if gradient is None:
            continue
        for parameter, own in zip(parameters, gradient, strict=True):
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
    )
