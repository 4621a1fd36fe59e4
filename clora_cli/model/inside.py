"""Adapters of weights that a module multiplies internally, where no hook sees the product (layer L1).

A mixture-of-experts layer keeps its experts in one tensor and computes their products, and a router its own. What adapters
add to such weights is added for the length of a forward pass, and for no longer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import MismatchError
from clora_cli.model.place import Place

__all__ = ["Inside"]

_Held = Sequence[tuple[int, Place, Factor | Tensor]]


class Inside:
    """What adapters add to the parameters of one module.

    Inputs of equal weights go through the module once together. Where the inputs of a batch have different weights, each
    group goes through by itself, after the pass of the base module that all of them share.

    Args:
        module: The module; its forward takes tokens in the order of the inputs, one row for each.
        held: The adapters' numbers, places of their weights in the module, and deltas.

    Raises:
        MismatchError: If the module's weights are quantised.
    """

    def __init__(self, module: nn.Module, held: _Held) -> None:
        self._module = module
        self._held = [
            (number, place, _on(getattr(module, _name(place)), place, delta)) for number, place, delta in held
        ]
        self._weights: Tensor | None = None
        self._before: dict[str, nn.Parameter | None] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        deltas = (delta for _, _, delta in self._held)
        return sum(d.a.nbytes + d.b.nbytes if isinstance(d, Factor) else d.nbytes for d in deltas)

    def gate(self, weights: Tensor | None) -> None:
        """Weigh the bank's adapters, (input, adapter), or add them up."""
        self._weights = weights

    def hook(self, choose: Callable[[], None], number: int | None = None) -> list[RemovableHandle]:
        """Let the adapters act.

        Args:
            choose: Called before each forward pass; it may call ``gate``.
            number: The one adapter that acts, whatever the weights; None for all of them.
        """

        def before(module: nn.Module, inputs: Any) -> None:
            choose()
            alike = self._alike(number)
            if alike is not None:
                self._before = self._put(self._changed(alike))

        def after(module: nn.Module, inputs: Any, named: Any, output: Any) -> Any:
            self._put(self._before)
            self._before = {}
            return None if self._alike(number) is not None or output is None else self._apart(inputs, named, output)

        return [
            self._module.register_forward_pre_hook(before),
            self._module.register_forward_hook(after, with_kwargs=True, always_call=True),
        ]

    def _alike(self, number: int | None) -> Sequence[float] | None:
        """Return the weights of all inputs by adapter, if they are the same; else None."""
        most = 1 + max(held for held, _, _ in self._held)
        if number is not None:
            return [float(held == number) for held in range(most)]
        if self._weights is None:
            return [1.0] * most
        alike = bool((self._weights == self._weights[:1]).all())
        return [float(weight) for weight in self._weights[0].tolist()] if alike else None

    def _changed(self, weights: Sequence[float]) -> dict[str, nn.Parameter | None]:
        """Return the parameters with the weighed deltas added."""
        changed: dict[str, Tensor] = {}
        for number, place, delta in self._held:
            if weights[number]:
                name = _name(place)
                if name not in changed:
                    changed[name] = self._module._parameters[name].detach().clone()  # type: ignore[union-attr]
                change = delta.delta() if isinstance(delta, Factor) else delta
                view = place.view(changed[name])
                view.add_(change.to(view.dtype), alpha=weights[number])
        return {name: nn.Parameter(weight, requires_grad=False) for name, weight in changed.items()}

    def _put(self, parameters: dict[str, nn.Parameter | None]) -> dict[str, nn.Parameter | None]:
        """Put parameters into the module; return those that were there."""
        own = self._module._parameters
        before = {name: own[name] for name in parameters}
        own.update(parameters)
        return before

    @contextlib.contextmanager
    def _with(self, weights: Sequence[float]) -> Iterator[None]:
        before = self._put(self._changed(weights))
        try:
            yield
        finally:
            self._put(before)

    def _apart(self, inputs: Any, named: Any, output: Any) -> Any:
        """Run each group of inputs with the same weights separately."""
        if self._weights is None:
            return output
        rows = next(given.shape[0] for given in (*inputs, *named.values()) if isinstance(given, Tensor))
        each, left = divmod(rows, len(self._weights))
        if left:
            raise MismatchError(
                f"a layer got {rows} tokens where {len(self._weights)} gated inputs were expected",
                code="gated-inputs-differ",
            )
        groups, member = torch.unique(self._weights, dim=0, return_inverse=True)
        member = member.repeat_interleave(each)
        for number, weights in enumerate(groups.tolist()):
            mine = (member == number).nonzero()[:, 0]
            some = [_picked(given, mine, rows) for given in inputs]
            others = {name: _picked(given, mine, rows) for name, given in named.items()}
            with self._with(weights):
                part = self._module.forward(*some, **others)
            output = _copied(output, part, mine)
        return output


def _picked(given: Any, mine: Tensor, rows: int) -> Any:
    return given[mine] if isinstance(given, Tensor) and given.ndim and len(given) == rows else given


def _copied(output: Any, part: Any, rows: Tensor) -> Any:
    """Return an output, or several, with some rows replaced."""
    if isinstance(output, tuple):
        return tuple(_copied(one, other, rows) for one, other in zip(output, part, strict=True))
    return output.index_copy(0, rows, part) if isinstance(output, Tensor) else output


def _name(place: Place) -> str:
    return place.parameter.rpartition(".")[2]


def _on(weight: Tensor, place: Place, delta: Factor | Tensor) -> Factor | Tensor:
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise MismatchError(
            f"layer '{place.site}' of the base model is quantised; adapters of it cannot act",
            code="base-weight-quantised",
        )
    if isinstance(delta, Factor):
        return Factor(delta.a.to(weight.device), delta.b.to(weight.device), delta.scaling)
    return delta.to(weight)
