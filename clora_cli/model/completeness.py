"""Whether a base model's files hold what its configuration describes (layer L1): whatever they lack, Transformers draws at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import ArtifactError
from clora_cli.model.head_layers import outside

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_complete", "check_extent"]

_PACKED = 16  # parameters in one stored number, at most: 2 bits each in an int32
_POOLER = "pooler."  # of an encoder, behind the states that are read; what masked words were learned with has none


def check_extent(what: str, skeleton: nn.Module, held: int) -> None:
    """Refuse a model whose configuration describes far more than its files hold, before memory is taken for it.

    Args:
        what: The model, for messages.
        skeleton: The model that the configuration describes, without weights.
        held: The numbers in its files.

    Raises:
        ArtifactError: If the files cannot hold the model, however it is quantised.
    """
    described = sum(parameter.numel() for parameter in skeleton.parameters())
    if described > _PACKED * held:
        raise ArtifactError(
            f"{what} has {described:,} parameters by its configuration and {held:,} in its files: sizes are missing there, or "
            "the files are another model's; fetch both again",
            code="base-model-larger-than-files",
        )


def check_complete(what: str, model: nn.Module, found: Mapping[str, Any]) -> None:
    """Refuse a model of whose weights some were not in its files, or have another shape there.

    Args:
        what: The model, for messages.
        model: The model, loaded.
        found: What Transformers told about loading it, as ``output_loading_info`` asks for.

    Raises:
        ArtifactError: If a weight is missing or differs in its shape.
    """
    if odd := sorted((key, tuple(stored), tuple(own)) for key, stored, own in found["mismatched_keys"]):
        key, stored, own = odd[0]
        raise ArtifactError(
            f"{what} has '{key}' of shape {stored} in its files and {own} by its configuration ({len(odd)} weights differ): "
            "they are of different models; fetch both again",
            code="base-weight-shape-differs",
        )
    head = set(outside(model))  # an encoder's files have none, or one of other classes
    weights = {name for name, _ in model.named_parameters() if _POOLER not in name and name not in head}
    if missing := sorted(weights & set(found["missing_keys"])):
        raise ArtifactError(
            f"{what} lacks {len(missing)} of {len(weights)} weights that its configuration describes ('{missing[0]}'), which "
            "would be random numbers; fetch it again, or save its weights under the names of Transformers",
            code="base-weights-missing",
        )
