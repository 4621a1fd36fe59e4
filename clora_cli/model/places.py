"""Where a model keeps the weights that adapters change (layer L1): the one place that resolves other names of a layer.

An adapter file and a checkpoint spell layers as the library of their day did. Transformers keeps lists of what it has
renamed and fused since; a name that is not the model's own goes through them, as the base model's own files do when they
are loaded. What is still unknown then is refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from clora_cli.base.errors import MismatchError
from clora_cli.model.backbone import load_skeleton
from clora_cli.model.base_model import ModelReference
from clora_cli.model.checkpoint import Checkpoint
from clora_cli.model.linear_layers import linear_shape
from clora_cli.model.place import Place
from clora_cli.model.spelling import Spelled, Spelling

__all__ = ["Places", "places_of"]

_WEIGHT = ".weight"
_PEFTS = re.compile(r"\.(base_layer|lora_)")  # modules that PEFT puts into a model
_Delta = TypeVar("_Delta", bound="_Shaped")
_NESTED = re.compile(r"(\.base_layer)+$")
_FUSED = 3  # axes of a tensor of several experts' matrices
_MOST = 4000  # names at most among which the nearest is looked for


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


class Places:
    """The layers of a base model, by their present and their former names.

    Args:
        model: The base model, with or without its weights, under PEFT or not.
        checkpoint: Its files, where it is without.

    Example:
        >>> Places(nn.Sequential(nn.Linear(3, 2))).place("0").shape
        (2, 3)
    """

    def __init__(self, model: nn.Module, checkpoint: Checkpoint | None = None) -> None:
        self.model, self._checkpoint = model, checkpoint
        self._layers = {name: module for name, module in model.named_modules() if not _PEFTS.search(name)}
        self._known: dict[str, Place] = {}
        self._spelling = Spelling(model)

    def place(self, written: str, where: Path | None = None) -> Place:
        """Return where a site is.

        Args:
            written: The site, as an adapter file spells it after ``parse_name``.
            where: The adapter, for messages.

        Raises:
            MismatchError: If the model has no such layer, or one of a kind that no low-rank delta can be added to.
        """
        if written not in self._known:
            self._known[written] = self._own(written) or self._renamed(written, where)
        return self._known[written]

    def is_layer(self, site: str) -> bool:
        """Tell whether a site is, by this very name, a module whose weight is a matrix."""
        return self._own(site) is not None

    def experts(self, module: str, shape: tuple[int, int], where: Path | None = None) -> list[Place]:
        """Return the places of all experts' layers within the one tensor of a module whose matrices have a shape.

        Args:
            module: The module's path; one below PEFT's wrappers, one for each of its tensors, is meant too.
            shape: (out, in) of one expert's matrix.
            where: The adapter, for messages.

        Raises:
            MismatchError: If there is no such tensor, or its experts' layers have no names.
        """
        path = _NESTED.sub("", module)
        holder = self._layers.get(path, nn.Module())
        turned = -1 if getattr(holder, "is_transposed", False) else 1
        own = [name for name, one in holder.named_parameters(recurse=False) if one.ndim == _FUSED]
        fitting = [name for name in own if tuple(getattr(holder, name).shape[1:])[::turned] == shape]
        if len(fitting) != 1:
            raise MismatchError(
                f"the base model has no single tensor of {shape} matrices in '{path}', which {_adapter(where)} changes; "
                "was it trained on another model?",
                code="expert-tensor-missing",
            )
        parameter, count = f"{path}.{fitting[0]}", len(getattr(holder, fitting[0]))
        if not (leaves := self._spelling.leaves(parameter)):
            raise MismatchError(
                f"{_adapter(where)} changes '{parameter}', whose experts cannot be told apart by name",
                code="experts-without-names",
            )
        return [self.place(f"{path}.{number}.{leaf}", where) for number in range(count) for leaf in leaves]

    def reconcile(self, deltas: Mapping[str, _Delta], where: Path | None = None) -> dict[str, _Delta]:
        """Return an adapter's deltas under the model's own names, in the order given.

        Args:
            deltas: Site, as the adapter's file spells it, to factors or dense deltas of shape (out, in).
            where: The adapter, for messages.

        Raises:
            MismatchError: If the model has no such layer or one of another shape, or two sites are one layer.
        """
        reconciled: dict[str, _Delta] = {}
        spelled: dict[str, str] = {}
        for written, delta in deltas.items():
            place = self.place(written, where)
            if tuple(delta.shape) != place.shape:
                raise MismatchError(
                    f"layer '{place.site}' is {place.shape} in the base model and {tuple(delta.shape)} in {_adapter(where)}; "
                    "was it trained on another model?",
                    code="layer-shapes-differ",
                )
            if place.site in reconciled:
                raise MismatchError(
                    f"'{spelled[place.site]}' and '{written}' in {_adapter(where)} are one layer of the base model",
                    code="layer-named-twice",
                )
            reconciled[place.site], spelled[place.site] = delta, written
        return reconciled

    def has(self, site: str, tensor: str, copy: Tensor) -> bool:
        """Tell whether a tensor of a site equals the base model's, to the precision of the coarser type.

        Args:
            site: The layer, in any spelling.
            tensor: ``weight`` or ``bias``.
            copy: What it is said to be.
        """
        own = self._tensor(f"{self.place(site).module}.{tensor}")
        if own is None or own.shape != copy.shape:
            return False
        own = own.detach().to(copy.device)
        return torch.equal(copy.to(own.dtype), own) or torch.equal(copy, own.to(copy.dtype))

    def stored(self, sites: Iterable[str], keys: Iterable[str]) -> dict[str, Place]:
        """Return under which names a checkpoint's files hold sites' weights.

        Args:
            sites: The sites, in any spelling.
            keys: Names of all tensors in the files.

        Returns:
            Site, as given, to its place in the files: ``parameter`` is one of the keys, and ``view`` takes that tensor.

        Raises:
            MismatchError: If the model has no such layer, or the files hold its weight in another layout or not at all.
        """
        whole, single = self._stored(keys)
        places = {}
        for site in sites:
            place = self.place(site)
            if place.site in single:  # an expert's own tensor, which loading would put among the others
                places[site] = Place(place.site, single[place.site], place.shape)
            elif place.parameter in whole:
                places[site] = dataclasses.replace(place, parameter=whole[place.parameter])
            else:
                other = self.tied(place.site)
                mend = "load the model and save it again with Transformers' save_pretrained"
                if other:
                    mend = f"the model uses '{other}' for it, which would change too: keep the change in an adapter"
                raise MismatchError(
                    f"the base model's files have no separate weight for '{place.site}'; {mend}",
                    code="weight-not-stored-alone",
                )
        return places

    def key_of(self, parameter: str, keys: Iterable[str]) -> str | None:
        """Return the files' name of a parameter of the model; None if they have none."""
        return self._stored(keys)[0].get(parameter)

    def tied(self, site: str) -> str | None:
        """Return the parameter that a site's weight is tied to, as an output layer's may be to the embeddings."""
        return self._tied_to(self.place(site).parameter)

    def _tied_to(self, parameter: str) -> str | None:
        pairs: Mapping[str, str] = getattr(self.model, "all_tied_weights_keys", None) or {}
        if parameter in pairs:
            return pairs[parameter]
        return next((target for target, source in pairs.items() if source == parameter), None)

    def _own(self, site: str) -> Place | None:
        """Return a module's own weight; None if there is no such module, or its weight is no matrix."""
        module = self._layers.get(site)
        if module is None:
            return None
        base = getattr(module, "base_layer", module)
        if (shape := linear_shape(base)) is not None:
            return Place(site, site + _WEIGHT, shape, _is_transposed(base))
        weight = getattr(base, "weight", None)
        if isinstance(base, nn.Embedding):
            return Place(site, site + _WEIGHT, (base.embedding_dim, base.num_embeddings), transposed=True)
        if isinstance(weight, nn.Parameter) and weight.ndim == 2:  # a router that multiplies for itself
            return Place(site, site + _WEIGHT, (weight.shape[0], weight.shape[1]), hooked=False)
        return None

    def _renamed(self, written: str, where: Path | None) -> Place:
        target = self._spelling.now(written + _WEIGHT)
        site = target.renamed.removesuffix(_WEIGHT)
        place = self._own(target.parameter.removesuffix(_WEIGHT)) if target.part is None else self._expert(site, target)
        if place is not None:
            return place
        if site in self._layers:
            kind = type(self._layers[site]).__name__
            raise MismatchError(
                f"layer '{site}' is {kind} in the base model, which takes no low-rank change, and {_adapter(where)} has one",
                code="layer-kind-unsupported",
            )
        raise MismatchError(
            f"the base model has no layer '{written}', which {_adapter(where)} changes{self._nearest(site)}; "
            "was it trained on another model?",
            code="base-model-lacks-layer",
        )

    def _expert(self, site: str, found: Spelled) -> Place | None:
        """Return the place of one expert's layer in the tensor that fuses them."""
        holder, _, name = found.parameter.rpartition(".")
        part, parts = found.part or (0, 0)
        number, _, _ = site.removeprefix(f"{holder}.").partition(".")
        weight = getattr(self._layers.get(holder), name, None)
        if not (isinstance(weight, nn.Parameter) and weight.ndim == _FUSED and number.isdecimal() and parts):
            return None
        experts, rows, columns = weight.shape
        if int(number) >= experts or rows % parts:
            return None
        rows //= parts
        return Place(site, found.parameter, (rows, columns), False, int(number), part * rows, hooked=False)

    def _stored(self, keys: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the files' names of whole parameters, by parameter, and of single experts' layers, by site."""
        whole, single = {}, {}
        for key in keys:
            target = self._spelling.now(key)
            if target.part is None:
                whole[target.parameter] = key
            elif target.part[1]:
                single[target.renamed.removesuffix(_WEIGHT)] = key
        return whole, single

    def _tensor(self, parameter: str) -> Tensor | None:
        """Return a parameter's numbers; None if the model or its files have none of that name."""
        module, _, name = parameter.rpartition(".")
        layer = self._layers[module]
        own = getattr(getattr(layer, "base_layer", layer), name, None)
        if own is None or not own.is_meta:
            return own
        if self._checkpoint is None:
            return None
        whole, _ = self._stored(self._checkpoint.keys)
        key = whole.get(parameter) or whole.get(self._tied_to(parameter) or "")
        return None if key is None else self._checkpoint.tensor(key)

    def _nearest(self, site: str) -> str:
        """Name the model's layer whose name is most like one that it lacks."""
        ending = site.rpartition(".")[2]
        linear = [name for name in self._layers if self._own(name) is not None]
        alike = [name for name in linear if name.rpartition(".")[2] == ending] or linear
        close = difflib.get_close_matches(site, alike[:_MOST], n=1, cutoff=0.0)
        return f"; the nearest of its layers is '{close[0]}'" if close else ""


def _is_transposed(module: nn.Module) -> bool:
    return not isinstance(module, nn.Linear)  # of the layers that have a shape, Conv1D


@functools.lru_cache(maxsize=4)
def places_of(reference: ModelReference) -> Places:
    """Return the layers of a base model from its configuration alone, without its weights.

    Raises:
        ArtifactError: If Transformers cannot make the model from it.
    """
    return Places(load_skeleton(reference), Checkpoint(reference.path))


def _adapter(where: Path | None) -> str:
    return "an adapter" if where is None else f"adapter {where}"
