"""Frozen adapters in a base model's forward pass (layer L1).

The adapters of one site are concatenated, ``[A_1; …; A_K]`` and ``[B_1 … B_K]`` with scalings folded into B: however
many adapters there are, a site costs one pair of small matrix products, and no dense delta is ever formed. Sites of
one shape are stacked in one tensor, which penalties over past adapters read without another copy. A dense delta, such
as a merge that no low rank holds, is added as it is.

Adapters that are parts of one LoRA at a site, with one A and disjoint entries of B, are held as that LoRA and a map of each entry's
owner: they take the memory and the time of one.

A gate weighs the adapters input by input: it multiplies the concatenated ``A``'s output, or the entries of a LoRA's B by
their owners' weights, so that a mixture costs no more than the sum, and adapters that no input of a batch asks for are left
out of the products.
"""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clora_cli.algebra.lora import Factor, concatenate
from clora_cli.model.changes import Change, Dense, LowRank, Shared, Subspaces, find_shared
from clora_cli.model.inside import Inside
from clora_cli.model.place import Place
from clora_cli.model.placement import check_placement
from clora_cli.model.places import Places

__all__ = ["AdapterBank", "Choose"]

Choose = Callable[[str, Tensor | None], Tensor]
_TOKENS = 3  # axes of a layer's output: input, token, feature


class AdapterBank:
    """Adds a set of frozen adapters to a base model through forward hooks; the model itself stays untouched.

    Works on every layer type whose forward takes one input (linear, GPT-2's Conv1D, quantised linear, tables of embeddings), and
    on experts that are kept in one tensor.

    Args:
        model: The base model, before any PEFT wrapper is put around it. Its hooks survive the wrapping. See ``check_placement``.

    Attributes:
        places: The model's layers.
        holder: Whoever put the adapters there and says so, to know later whether they still are; nobody after ``activate``
            and ``clear``.

    Example:
        >>> bank = AdapterBank(nn.Sequential(nn.Linear(3, 2)))
        >>> bank.activate([{"0": Factor(torch.ones(1, 3), torch.ones(2, 1), 0.5)}])
        >>> bank.past("0")[0].shape
        torch.Size([1, 3])
    """

    def __init__(self, model: nn.Module) -> None:
        check_placement(model)
        self._model = model
        self.places = Places(model)
        self.holder: object | None = None
        self._handles: list[RemovableHandle] = []
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        self._owners: dict[str, tuple[int, ...]] = {}
        self._stacks: dict[tuple[int, ...], tuple[list[str], Tensor, Tensor]] = {}
        self._shared: dict[str, list[Shared]] = {}
        self._dense: dict[str, list[tuple[int, Tensor]]] = {}
        self._inside: dict[str, Inside] = {}
        self._changes: dict[str, list[Change | Inside]] = {}
        self._count = 0
        self._weights: Mapping[str, Tensor] | None = None
        self._choose: Choose | None = None
        self._chosen: set[str] = set()

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that carry at least one adapter; of experts in one tensor, and of routers, the modules."""
        return tuple(dict.fromkeys((*self._factors, *self._shared, *self._dense, *self._inside)))

    @property
    def nbytes(self) -> int:
        """Bytes of the adapters' tensors, without what a gate weighs."""
        dense = (delta.nbytes for held in self._dense.values() for _, delta in held)
        shared = (one.nbytes for held in self._shared.values() for one in held)
        inside = (one.nbytes for one in self._inside.values())
        return sum(chain(dense, shared, inside, (a.nbytes + b.nbytes for _, a, b in self._stacks.values())))

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
        by_site: dict[str, list[tuple[int, Factor]]] = defaultdict(list)
        inside: dict[str, list[tuple[int, Place, Factor | Tensor]]] = defaultdict(list)
        for number, adapter in enumerate(adapters):
            for site, delta in self.places.reconcile(adapter).items():
                place = self.places.place(site)
                if not place.hooked:
                    inside[place.module].append((number, place, delta))
                elif isinstance(delta, Factor):
                    by_site[site].append((number, delta))
                else:
                    self._add_dense(site, number, delta)
        self._inside = {module: Inside(self._module(module), held) for module, held in inside.items()}
        alone = {site: rest for site, held in by_site.items() if (rest := self._share(site, held))}
        self._owners = {site: tuple(n for n, one in rest for _ in range(one.rank)) for site, rest in alone.items()}
        self._stack({site: concatenate([one for _, one in rest]) for site, rest in alone.items()})
        self._hook_up()

    def clear(self) -> None:
        """Remove every adapter: the model computes what the base model computes."""
        self._unhook()
        self._factors, self._owners, self._stacks, self._shared, self._dense, self._inside = {}, {}, {}, {}, {}, {}
        self._count, self._weights, self.holder = 0, None, None

    def gate(self, weights: Mapping[str, Tensor] | None) -> None:
        """Weigh the adapters input by input in all forward passes until the next call of ``gate`` or ``gate_by``.

        Args:
            weights: Site to weights, shape (input, adapter), in the order of ``activate``; None adds all adapters up
                again. A forward pass over several copies of each input, one after the other, as beam search makes them,
                gives all copies their input's weights.

        Raises:
            ValueError: If an adapted site has no weights, or not one for each adapter.
        """
        self._choose = None
        if weights is not None and (missing := next((site for site in self._changes if site not in weights), None)):
            raise ValueError(f"no weights for site '{missing}'")
        self._weights = weights
        self._gate_all()

    def gate_by(self, choose: Choose) -> None:
        """Weigh the adapters by the next forward pass's own features, until the next call of ``gate`` or ``gate_by``.

        Args:
            choose: Called in that pass, once for each adapted site, with the site and the base layer's output, shape
                (input, token, out), or None where a module hides it; returns weights, shape (input, adapter).
        """
        self._choose, self._chosen = choose, set()

    @contextlib.contextmanager
    def only(self, adapter: int | None) -> Iterator[None]:
        """For a while, let one adapter of low rank act alone, or none; gates, and what ``past_of`` returns, stay as they are.

        Args:
            adapter: Its number in the order of ``activate``, from 0; None for the bare base model.
        """
        self._unhook()
        try:
            if adapter is not None:
                for site, (a, b) in self._factors.items():
                    mine = [row for row, owner in enumerate(self._owners[site]) if owner == adapter]
                    if mine:
                        self._hook(site, LowRank(a[mine], b[:, mine], [0] * len(mine)))
                for site, held in self._shared.items():
                    for one in held:
                        if adapter in one.numbers:
                            self._hook(site, LowRank(one.a, one.part(adapter), [0] * len(one.a)))
                for inside in self._inside.values():
                    self._handles += inside.hook(lambda: None, adapter)
            yield
        finally:
            self._unhook()
            self._hook_up()
            self._gate_all()

    def owners(self, site: str) -> tuple[int, ...]:
        """Return, for each row of a site's concatenated ``a``, the number of the adapter that it came from."""
        shared = (one.owners for one in self._shared.get(site, ()))
        return tuple(chain(self._owners.get(site, ()), *shared))

    def past(self, site: str) -> tuple[Tensor, Tensor] | None:
        """Return a site's concatenated factors, (total rank, in) and (out, total rank), or None if it has none.

        Parts of one LoRA are separated for it, each with a copy of A and its own entries of B.
        """
        if site not in self._shared:
            return self._factors.get(site)
        pairs = [one.factors() for one in self._shared[site]]
        pairs = [self._factors[site], *pairs] if site in self._factors else pairs
        return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)

    def past_of(self, sites: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Return the factors of several sites of one shape and the same ``owners``, or None if they have none.

        Returns:
            Shapes (site, total rank, in) and (site, out, total rank); the bank's own storage where the sites are one stack.
        """
        for names, a, b in self._stacks.values():
            if names == list(sites) and not self._shared.keys() & names:
                return a, b
        pairs = [pair for site in sites if (pair := self.past(site)) is not None]
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

    def _gate_all(self) -> None:
        for site in self._changes:
            self._gate(site, None if self._weights is None else self._weights[site])

    def _gate(self, site: str, weights: Tensor | None) -> None:
        if weights is not None and weights.shape[1] != self._count:
            raise ValueError(f"{weights.shape[1]} weights for {self._count} adapters")
        for change in self._changes[site]:
            change.gate(weights)

    def _share(self, site: str, held: Sequence[tuple[int, Factor]]) -> Sequence[tuple[int, Factor]]:
        """Keep those that are parts of one LoRA as that LoRA; return the others."""
        groups, rest = find_shared(held)
        like = torch.empty(0, **self._like(site))
        if groups:
            self._shared[site] = [Shared.of(group, like) for group in groups]
        return rest

    def _stack(self, factors: Mapping[str, Factor]) -> None:
        groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for site, factor in factors.items():
            groups[(*factor.shape, factor.rank)].append(site)
        for shape, sites in groups.items():
            sites.sort()
            like = self._like(sites[0])
            a = torch.stack([factors[site].a for site in sites]).to(**like)
            b = torch.stack([factors[site].b for site in sites]).to(**like)
            self._stacks[shape] = (sites, a, b)
            self._factors.update({site: (a[i], b[i]) for i, site in enumerate(sites)})

    def _add_dense(self, site: str, number: int, delta: Tensor) -> None:
        kept = delta.to(**self._like(site))
        self._dense.setdefault(site, []).append((number, kept))

    def _like(self, site: str) -> dict[str, Any]:
        return {"device": self._module(site).weight.device, "dtype": self._dtype(site)}

    def _dtype(self, site: str) -> torch.dtype:
        weight = self._module(site).weight
        # Quantised weights are integers; their layers compute in half precision.
        return weight.dtype if weight.is_floating_point() and weight.element_size() > 1 else torch.bfloat16

    def _module(self, site: str) -> Any:
        module = self._model.get_submodule(site)
        return getattr(module, "base_layer", module)  # once PEFT has wrapped it, the same layer is below

    def _hook_up(self) -> None:
        for site, (a, b) in self._factors.items():
            self._hook(site, LowRank(a, b, self._owners[site]))
        for site, held in self._shared.items():
            for one in held:
                self._hook(site, Subspaces(one))
        for site, deltas in self._dense.items():
            for number, delta in deltas:
                self._hook(site, Dense(delta, number))
        for module, inside in self._inside.items():
            self._changes[module] = [inside]
            self._handles += inside.hook(functools.partial(self._decide, module))

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._changes = [], {}

    def _hook(self, site: str, change: Change) -> None:
        dtype = self._dtype(site)

        def add_change(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            self._decide(site, output)
            given = inputs[0].to(dtype) if inputs[0].is_floating_point() else inputs[0]
            if scale is not None:
                return output + change.added(torch.zeros_like(output), given) * torch.as_tensor(scale).to(output)
            if output.ndim > _TOKENS:  # DeepSeek keeps an axis of one head between inputs and tokens
                return change.added(output.flatten(1, -2), given.flatten(1, -2)).view(output.shape)
            return change.added(output, given)

        # Gemma's and BART's tables of embeddings scale what they look up, and PEFT what an adapter adds to it.
        scale: Tensor | float | None = getattr(self._module(site), "embed_scale", None)
        self._handles.append(self._module(site).register_forward_hook(add_change))
        self._changes.setdefault(site, []).append(change)

    def _decide(self, site: str, output: Tensor | None = None) -> None:
        """Let this pass's features weigh a site's adapters, if ``gate_by`` asked for it."""
        if self._choose is not None and site not in self._chosen:
            self._chosen.add(site)
            self._gate(site, self._choose(site, output))
