"""Where a report's numbers come from: base models, settings, versions, trainings (layer L3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.reporting.collect import Material, Package
from clora_cli.reporting.scored_run import Run
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Provenance", "Training", "provenance_of"]


@dataclass(frozen=True)
class Training:
    """How a package was trained.

    Attributes:
        package: Its folder.
        options: The method's options, by adapter, each once.
        settings: Seed, LoRA and training settings, likewise.
    """

    package: Path
    options: tuple[Mapping[str, Any], ...]
    settings: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from.

    Attributes:
        bases: The base models: id, and fingerprint or ``""``.
        evaluation: Each setting of the evaluations with the values that it had.
        versions: Each library that adapters were trained with, and its versions.
        trainings: How each package with manifests was trained.
    """

    bases: tuple[tuple[str, str], ...]
    evaluation: Mapping[str, Sequence[Any]]
    versions: Mapping[str, Sequence[str]]
    trainings: tuple[Training, ...]


def provenance_of(material: Material, runs: Sequence[Run]) -> Provenance:
    """Collect where the numbers of some runs and packages come from."""
    members = [member for package in material.packages for member in package.members]
    bases = dict.fromkeys((run.base.id, run.base.fingerprint) for run in runs)
    for base in (member.base for member in members if member.base.get("id")):
        bases[str(base["id"]), str(base.get("fingerprint", ""))] = None
    trainings = tuple(training for package in material.packages if (training := _training(package)))
    return Provenance(tuple(bases), _evaluation(runs), _versions(members), trainings)


def _evaluation(runs: Iterable[Run]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in run.settings.items():
            if value not in ("", [], {}, None):
                _add(values.setdefault(name, []), value)
    return values


def _versions(members: Iterable[AdapterFolder]) -> dict[str, list[str]]:
    versions: dict[str, list[str]] = {}
    for member in members:
        for name, version in (member.manifest.versions or {} if member.manifest else {}).items():
            _add(versions.setdefault(name, []), str(version))
    return dict(sorted(versions.items()))


def _training(package: Package) -> Training | None:
    """Return how a package was trained; None if no adapter has a manifest."""
    options: list[Mapping[str, Any]] = []
    settings: list[Mapping[str, Any]] = []
    for manifest in (member.manifest for member in package.members if member.manifest):
        _add(options, manifest.method.options)
        _add(settings, {"seed": manifest.seed, **manifest.lora.raw, **manifest.training.raw})
    return Training(package.path, tuple(options), tuple(settings)) if options else None


def _add(values: list[Any], value: Any) -> None:
    """Add a value that is not there yet; settings may be lists and mappings, which no set holds."""
    if value not in values:
        values.append(value)
