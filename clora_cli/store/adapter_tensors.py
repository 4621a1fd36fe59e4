"""The tensors of an adapter file (layer L1): factors by site, and whatever else PEFT may store beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from clora_cli.algebra.head_names import head_modules, in_head
from clora_cli.algebra.lora import Factor, scaling_at
from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.base.files import damage
from clora_cli.model.names import TensorName, parse_name
from clora_cli.store.tensors import check_numbers, read_header, read_tensors

if TYPE_CHECKING:
    from clora_cli.model.places import Places

__all__ = ["names_in", "read_copies", "read_dense", "read_factors"]


def read_factors(
    path: Path,
    config: Mapping[str, Any],
    places: Places | None = None,
    *,
    compare: bool = True,
    at_once: bool = False,
) -> dict[str, Factor]:
    """Read the factors of an adapter file, by site as the file spells it, sorted; 8-bit ones as float32.

    Args:
        path: The file.
        config: Its ``adapter_config.json``, a plain LoRA's.
        places: The base model's layers.
        compare: Whether to check that base-model weights stored in the file equal those of the base model.
        at_once: As for ``read_tensors``.

    Raises:
        ArtifactError: If the file is missing, truncated or incomplete, or its classification head has numbers that are not finite.
        MismatchError: If it holds more than plain LoRA factors.
    """
    sides: dict[str, dict[str, Tensor]] = {}
    head = head_modules(config)
    for key, tensor in read_tensors(path, at_once=at_once).items():
        name = _name(path, key)
        if name.part == "base":
            if in_head(name.site, head):
                check_numbers([(key, tensor)], path.parent)
            elif compare:
                _compare(path, name, tensor, places)
            continue
        if name.part in sides.setdefault(name.site, {}):
            raise MismatchError(
                f"adapter {path.parent} holds several adapters: '{key}' is a second lora_{name.part} of '{name.site}'; "
                "save each in a folder of its own",
                code="several-adapters-in-file",
            )
        eighth = tensor.is_floating_point() and tensor.element_size() == 1  # 8-bit numbers are only for storing
        sides[name.site][name.part] = tensor.float() if eighth else tensor
    return _of_experts(path, sides, config, places) if config.get("target_parameters") else _paired(path, sides, config)


def read_copies(path: Path) -> dict[str, Tensor]:
    """Read the base-model weights that an adapter file holds beside its factors, by their names in the model."""
    return {key: tensor for key, tensor in read_tensors(path).items() if _name(path, key).part == "base"}


def read_dense(path: Path) -> dict[str, Tensor]:
    """Read a file of dense deltas, by site, sorted.

    Raises:
        ArtifactError: If it is missing, damaged, or holds anything but matrices.
    """
    deltas = read_tensors(path)
    if odd := next((site for site, delta in deltas.items() if delta.ndim != 2 or not delta.is_floating_point()), None):
        raise ArtifactError(
            f"adapter {path.parent} is damaged: the delta at '{odd}' is no matrix; make it again",
            code="delta-not-a-matrix",
        )
    return dict(sorted(deltas.items()))


def names_in(path: Path, config: Mapping[str, Any]) -> list[TensorName]:
    """Return the names of an adapter file's tensors, but for its head's, without reading the tensors.

    Args:
        path: The file.
        config: Its ``adapter_config.json``.

    Raises:
        ArtifactError: If the file is damaged.
        MismatchError: If it holds more than plain LoRA factors.
    """
    try:
        names = [_name(path, key) for key in read_header(path)[0]]
    except (OSError, ValueError) as error:
        problem = damage(path, error, "restore it or make the adapter again")
        raise ArtifactError(f"tensor file {path} {problem}", code="tensor-file-damaged") from error
    head = head_modules(config)
    return [name for name in names if name.part != "base" or not in_head(name.site, head)]


def _name(path: Path, key: str) -> TensorName:
    try:
        return parse_name(key)
    except MismatchError as error:
        raise MismatchError(f"adapter {path.parent} cannot be used: {error}", code="adapter-not-plain-lora") from error


def _paired(path: Path, sides: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]) -> dict[str, Factor]:
    if not sides:
        raise ArtifactError(
            f"adapter {path.parent} is damaged: {path.name} has no lora_A and lora_B; make it again",
            code="lora-factors-missing",
        )
    broken = next((site for site, pair in sides.items() if not _fits(pair)), None)
    if broken is not None:
        raise ArtifactError(
            f"adapter {path.parent} is damaged: no matching lora_A and lora_B at '{broken}'; make it again",
            code="lora-factors-unmatched",
        )
    return {
        site: Factor(pair["A"], pair["B"], _scaling(path, config, site, len(pair["A"])))
        for site, pair in sorted(sides.items())
    }


def _of_experts(
    path: Path, sides: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any], places: Places | None
) -> dict[str, Factor]:
    """Return the factors of a file with one pair of factors for all experts that the model keeps in one tensor.

    PEFT stacks the experts' A, and interleaves the experts in the columns of B. Only the base model tells which layer and
    which expert each part belongs to.
    """
    if places is None:
        raise MismatchError(
            f"adapter {path.parent} has one pair of factors for all experts of a layer (target_parameters), which the base "
            f"model is needed to separate; pass --model, or let `clora merge {path.parent} --model … -o …` make an adapter that has each "
            "by itself",
            code="experts-need-base-model",
        )
    factors: dict[str, Factor] = {}
    plain: dict[str, Mapping[str, Tensor]] = {}
    for site, pair in sides.items():
        if not _fits(pair) or places.is_layer(site):
            plain[site] = pair
            continue
        layers = places.experts(site, (len(pair["B"]), pair["A"].shape[1]), path.parent)
        count = 1 + max(place.expert or 0 for place in layers)
        if len(pair["A"]) % count:
            raise ArtifactError(
                f"adapter {path.parent} is damaged: '{site}' has no {count} experts' factors; make it again",
                code="experts-factors-incomplete",
            )
        a = pair["A"].reshape(count, -1, pair["A"].shape[1])
        b = pair["B"].reshape(len(pair["B"]), -1, count)
        scaling = _scaling(path, config, layers[0].parameter, a.shape[1])
        for place in layers:
            rows = b[place.first : place.first + place.shape[0], :, place.expert]
            factors[place.site] = Factor(a[place.expert], rows.contiguous(), scaling)
    return dict(sorted({**factors, **(_paired(path, plain, config) if plain else {})}.items()))


def _scaling(path: Path, config: Mapping[str, Any], site: str, rank: int) -> float:
    try:
        return scaling_at(config, site, rank)
    except ValueError as error:
        raise ArtifactError(
            f"adapter {path.parent} is damaged: adapter_config.json has {error}; restore it or make the adapter again",
            code="adapter-config-damaged",
        ) from error


def _compare(path: Path, name: TensorName, copy: Tensor, places: Places | None) -> None:
    """Check that a stored base-model weight equals the base model's own: then it changes nothing and can be ignored."""
    what = (
        f"adapter {path.parent} holds the {name.tensor} of the base model's '{name.site}' beside its low-rank factors"
    )
    if places is None:
        raise MismatchError(
            f"{what}, which must be compared with the base model; pass --model", code="base-weights-need-comparison"
        )
    if not places.has(name.site, name.tensor, copy):
        raise MismatchError(
            f"{what}, and it differs from the base model's: it was trained or resized, which is not a low-rank change",
            code="base-weights-changed",
        )


def _fits(pair: Mapping[str, Tensor]) -> bool:
    matrices = all(tensor.ndim == 2 and tensor.is_floating_point() for tensor in pair.values())
    return set(pair) == {"A", "B"} and matrices and 0 < pair["A"].shape[0] == pair["B"].shape[1]
