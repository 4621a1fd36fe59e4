"""A base model's layers and their weights on disk (layer L1): whether adapters fit them, and one weight at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from clora_cli.adapter_folder import AdapterFolder
from clora_cli.base_model import ModelReference
from clora_cli.checkpoint import Checkpoint
from clora_cli.errors import ArtifactError, MismatchError
from clora_cli.names import parse_name
from clora_cli.places import Place, Places, places_of
from clora_cli.tensors import read_header

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BaseLayers"]


class BaseLayers:
    """The layers of a base model, as its files and, where these do not settle it, Transformers know them.

    Args:
        reference: The base model.

    Raises:
        ArtifactError: As ``read_parts``.
    """

    def __init__(self, reference: ModelReference) -> None:
        self.reference = reference
        self.checkpoint = Checkpoint(reference.path)

    @cached_property
    def places(self) -> Places:
        """The model's own account of its layers: it takes Transformers, but no weight."""
        return places_of(self.reference)

    def fitted(self, members: Sequence[AdapterFolder]) -> Sequence[AdapterFolder]:
        """Return adapters under the model's own names, each of their sites being one of its layers.

        Raises:
            MismatchError: If the model has no such layer, or one of another shape.
            ArtifactError: If names differ, and Transformers cannot make the model.
        """
        if all(self._has_all(member) for member in members):
            return members
        return [member.on(self.places) for member in members]

    def stored(self, sites: Iterable[str]) -> dict[str, Place]:
        """Return under which names the files hold sites' weights, and which way round.

        Raises:
            MismatchError: If they hold one under no name, or quantised.
        """
        found = self.places.stored(sites, self.checkpoint.keys)
        for place in found.values():
            self.checkpoint.check_number(place.parameter)
        return found

    def weight(self, site: str) -> Tensor:
        """Read a site's weight, shape (out, in), float32.

        Raises:
            CloraError: As ``stored``, or if the file cannot be read.
        """
        place = self.stored([site])[site]
        return place.view(self.checkpoint.tensor(place.parameter)).float()

    def _has_all(self, member: AdapterFolder) -> bool:
        """Tell whether the files have every site of an adapter under its very name and in its shape."""
