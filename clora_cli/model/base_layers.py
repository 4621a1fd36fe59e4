"""A base model's layers and their weights on disk (layer L1): check that adapters fit, read one weight at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clora_cli.algebra.head_names import head_modules, in_head
from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.base.files import read_json
from clora_cli.model.base_model import HEADS, ModelReference
from clora_cli.model.checkpoint import CONFIG, Checkpoint
from clora_cli.model.loading import load_skeleton
from clora_cli.model.names import parse_name
from clora_cli.model.place import Place
from clora_cli.model.places import Places, places_of
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.tensors import read_header

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BaseLayers", "Head"]

_MATRIX = 2


@dataclass(frozen=True)
class Head:
    """An output layer whose weight is tied to the table of embeddings.

    Attributes:
        parameter: The model's name of the output layer's weight, by which files may have it too.
        table: The model's name of the table's.
        key: The files' name of the table's.
    """

    parameter: str
    table: str
    key: str

    @property
    def site(self) -> str:
        """The output layer's path."""
        return self.parameter.removesuffix(".weight")


class BaseLayers:
    """The layers of a base model, as its files and, where these do not settle it, Transformers know them.

    Args:
        reference: The base model.
        transposed: Whether layers keep their weights as (in, out) if neither says so: what the adapters say.

    Raises:
        ArtifactError: As ``read_parts``.
    """

    def __init__(self, reference: ModelReference, *, transposed: bool = False) -> None:
        self.reference = reference
        self.checkpoint = Checkpoint(reference.path)
        self._transposed = transposed
        self._stored: dict[str, Place] = {}

    @cached_property
    def places(self) -> Places:
        """The model's own account of its layers: it takes Transformers, but no weight."""
        return places_of(self.reference)

    def fitted(self, members: Sequence[AdapterFolder]) -> Sequence[AdapterFolder]:
        """Return adapters under the model's own names; that all their sites are its layers shows when they are read.

        Experts that the model keeps in one tensor have no names of their own there that PEFT takes: adapters that spell them
        alike keep their spelling.

        Raises:
            MismatchError: If the model has no such layer.
            ArtifactError: If the files do not have these names, and Transformers cannot make the model.
        """
        shapes = [_shapes(member) for member in members]
        together = any(member.config.get("target_parameters") for member in members)  # named when they are read
        if not together and all(self._settled(one) for one in shapes):
            return members
        placed = [member.on(self.places) for member in members]
        if together:
            return placed
        for member, one in zip(members, shapes, strict=True):
            for site in one:
                self.places.place(site, member.path)
        if self._fused(shapes[0]) and all(one.keys() == shapes[0].keys() for one in shapes):
            for member in placed:
                member.deltas()  # compares their shapes with the model's
            return members
        return placed

    def are_modules(self, shapes: Mapping[str, tuple[int, int]]) -> bool:
        """Tell whether sites are paths of the model's modules, which PEFT's configuration can name one by one."""
        return self._settled(shapes) or not self._fused(shapes)

    def stored(self, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Place]:
        """Return under which names the files hold sites' weights, and which way round.

        Args:
            shapes: Site to (out, in).

        Raises:
            MismatchError: If they hold one under no name, or quantised.
            ArtifactError: If they do not have these names, and Transformers cannot make the model.
        """
        new = {site: shape for site, shape in shapes.items() if site not in self._stored}
        if new:
            self.checkpoint.check_whole(new)
            self._stored |= self._found(new)
        return {site: self._stored[site] for site in shapes}

    def tied(self, site: str) -> str | None:
        """Return the parameter that a site's weight is tied to, where Transformers knows of it.

        It takes none for one that the files have both of, with other numbers.
        """
        try:
            other = self.places.tied(site)
        except ArtifactError:
            return None
        if other is None:
            return None
        own, its = (
            self.places.key_of(name, self.checkpoint.keys) for name in (self.places.place(site).parameter, other)
        )
        apart = own and its and not self.checkpoint.tensor(own).equal(self.checkpoint.tensor(its))
        return None if apart else other

    @cached_property
    def head(self) -> Head | None:
        """The output layer whose weight is tied to the table of embeddings, if it could have its own; else None.

        An encoder-decoder's is one with the tables of both its sides, and scaled otherwise where it is.
        """
        try:
            pairs = dict(getattr(self.places.model, "all_tied_weights_keys", None) or {})
            if self.reference.kind != "causal" or len(pairs) != 1:
                return None
            if getattr(load_skeleton(self.reference, untied=True), "all_tied_weights_keys", None):
                return None
        except ArtifactError:
            return None
        ((head, table),) = pairs.items()
        key = self.places.key_of(table, self.checkpoint.keys)
        return Head(head, table, key) if key is not None else None

    def weight(self, site: str, shape: tuple[int, int]) -> Tensor:
        """Read a site's weight, shape (out, in), float32.

        Raises:
            CloraError: As ``stored``, or if the file cannot be read.
        """
        place = self.stored({site: shape})[site]
        return place.view(self.checkpoint.tensor(place.parameter)).float()

    def _found(self, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Place]:
        try:
            tied = {site: self._of_table(site, self.head) for site in shapes if self.tied(site) and self.head}
            stored = tied | self.places.stored(shapes.keys() - tied.keys(), self.checkpoint.keys)
        except ArtifactError:  # of an architecture that Transformers does not know, or with code of its own
            if not self._has_all(shapes):
                raise
            stored = {site: self._by_name(site, shape) for site, shape in shapes.items()}
        for place in stored.values():
            self.checkpoint.check_number(place.parameter)
        return stored

    def _of_table(self, site: str, head: Head) -> Place:
        return dataclasses.replace(self.places.place(site), parameter=head.key)

    def _by_name(self, site: str, shape: tuple[int, int]) -> Place:
        stored = self.checkpoint.shape(key := f"{site}.weight")
        return Place(site, key, shape, self._transposed if stored == stored[::-1] else stored != shape)

    def _fused(self, sites: Iterable[str]) -> bool:
        return not all(self.places.place(site).hooked for site in sites)

    def _settled(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Tell whether the files' names are the model's, and they have all these sites.

        So they are in a plain model that was saved as a whole, all but its head below one module; names of models within
        models and of experts have changed.
        """
        parts = any(key.endswith("_config") and key != "quantization_config" for key in self._config)
        inner = {key.partition(".")[0] for key in self.checkpoint.keys if not key.endswith(HEADS)}
        return (
            not parts and len(inner) == 1 and not any(".experts." in site for site in shapes) and self._has_all(shapes)
        )

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        return read_json(self.reference.path / CONFIG, "model configuration")

    def _has_all(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Tell whether the files have every site under its very name and in its shape, either way round."""
        for site, shape in shapes.items():
            key = f"{site}.weight"
            stored = self.checkpoint.shape(key) if key in self.checkpoint.keys else ()
            if len(stored) != _MATRIX or shape not in (stored, stored[::-1]):
                return False
        return True


def _shapes(member: AdapterFolder) -> dict[str, tuple[int, ...]]:
    """Return (out, in) of an adapter's sites, from its file's header; () for what is more than a linear layer's factors.

    The layers of a classification head are none of them: an encoder's files lack these, and a norm among them takes no factors.
    Nothing is returned for a file that cannot be read: the next reader says why.
    """
    try:
        header, _ = read_header(member.weights)
        if member.is_dense:
            return {site: tuple(entry["shape"]) for site, entry in header.items()}
        sides: dict[str, dict[str, tuple[int, ...]]] = {}
        head = head_modules(member.config)
        for key, entry in header.items():
            name = parse_name(key)
            if name.part == "base" and in_head(name.site, head):
                continue
            sides.setdefault(name.site, {})["table" if name.embedding else name.part] = tuple(entry["shape"])
    except (OSError, ValueError, MismatchError):
        return {}
    return {site: (*pair["B"][:1], *pair["A"][1:]) if set(pair) == {"A", "B"} else () for site, pair in sides.items()}
