"""Frozen adapters in a base model's forward pass (layer L1).

The adapters of one site are concatenated, ``[A_1; …; A_K]`` and ``[B_1 … B_K]`` with scalings folded into B: however
many adapters there are, a site costs one pair of small matrix products, and no dense delta is ever formed. Sites of
one shape are stacked in one tensor, which penalties over past adapters read without another copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from clora_cli.backbone import linear_shape
from clora_cli.errors import MismatchError
from clora_cli.lora import Factor, concatenate

__all__ = ["AdapterBank"]


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
        self._stacks: dict[tuple[int, ...], tuple[list[str], Tensor, Tensor]] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that carry at least one adapter."""
        return tuple(self._factors)

    def activate(self, adapters: Sequence[Mapping[str, Factor]], *, forward: bool = True) -> None:
        """Replace the adapters in use.

        Args:
            adapters: For each adapter its factors by site. Ranks and sites may differ; an empty list gives the bare base model.
            forward: Whether they take part in the forward pass; False keeps them for penalties alone.

        Raises:
            MismatchError: If a site does not exist in the model or has another shape.
        """
        self.clear()
        by_site: dict[str, list[Factor]] = defaultdict(list)
        for adapter in adapters:
            for site, factor in adapter.items():
                self._check(site, factor)
                by_site[site].append(factor)
        self._stack({site: concatenate(factors) for site, factors in by_site.items()})
        if forward:
            self._handles = [self._module(site).register_forward_hook(self._hook(site)) for site in self._factors]

    def clear(self) -> None:
        """Remove every adapter: the model computes what the base model computes."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._factors, self._stacks = [], {}, {}

    def past(self, site: str) -> tuple[Tensor, Tensor] | None:
        """Return a site's concatenated factors, (total rank, in) and (out, total rank), or None if it has none."""
        return self._factors.get(site)

    def past_of(self, sites: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Return the factors of several sites of one shape and total rank, or None if they have none.

        Returns:
            Shapes (site, total rank, in) and (site, out, total rank); the bank's own storage where the sites are one stack.
        """
        for names, a, b in self._stacks.values():
            if names == list(sites):
                return a, b
        pairs = [self._factors[site] for site in sites if site in self._factors]
        return (torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])) if pairs else None

    def total_rank(self, site: str) -> int:
        """Return the sum of the ranks of a site's adapters; 0 if it has none."""
        return self._factors[site][0].shape[0] if site in self._factors else 0

    def _stack(self, factors: Mapping[str, Factor]) -> None:
        groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for site, factor in factors.items():
            groups[(*factor.shape, factor.rank)].append(site)
        for shape, sites in groups.items():
            sites.sort()
            like = self._module(sites[0]).weight
            dtype = like.dtype if like.is_floating_point() and like.element_size() > 1 else torch.bfloat16
            a = torch.stack([factors[site].a for site in sites]).to(device=like.device, dtype=dtype)
            b = torch.stack([factors[site].b for site in sites]).to(device=like.device, dtype=dtype)
            self._stacks[shape] = (sites, a, b)
            self._factors.update({site: (a[i], b[i]) for i, site in enumerate(sites)})

    def _check(self, site: str, factor: Factor) -> None:
        try:
            shape = linear_shape(self._module(site))
        except AttributeError:
            raise MismatchError(
                f"the base model has no layer '{site}', which an adapter changes; was it trained on another model?"
            ) from None
        if shape != factor.shape:
            raise MismatchError(
                f"layer '{site}' is {shape} in the base model and {factor.shape} in an adapter; was it trained on another model?"
            )

    def _module(self, site: str) -> Any:
        return self._model.get_submodule(site)

    def _hook(self, site: str) -> Any:
        a, b = self._factors[site]

        def add_deltas(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + functional.linear(functional.linear(inputs[0].to(a.dtype), a), b).to(output.dtype)

        return add_deltas
