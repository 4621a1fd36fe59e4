"""Packages on disk (layer L1): adapter folders over one base model, read as one sequence.

The members of a package and their order come from the members' own manifests. ``docs/package-format.md`` is the specification.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from clora_cli.base.errors import ArtifactError, MismatchError, OptionError
from clora_cli.base.files import sha256
from clora_cli.base.progress import Progress, Silent
from clora_cli.model.base_model import ModelReference, find_model, is_local, same_base
from clora_cli.store.adapter_folder import AdapterFolder, is_adapter, read_once
from clora_cli.store.steady import Identity, identity, steady

__all__ = ["base_at_hand", "changed", "find_base", "marks", "read_package"]


def find_base(
    members: Iterable[AdapterFolder],
    given: str | None = None,
    revision: str | None = None,
    progress: Progress | None = None,
) -> ModelReference:
    """Find the base model to use with adapters: the one that the user gives, else the one that they name.

    Anybody may have written what an adapter names. It is followed to a folder and, with a note, to the Hub; into the
    adapter's own folder only if the user gives it.

    Args:
        members: The adapters; where none is given, the first of them that names a base model counts.
        given: What ``--model`` gives.
        revision: Hub commit, branch or tag.
        progress: Told where an adapter's word leads to the Hub.

    Raises:
        OptionError: If no model is given and none is named, or it lies within the adapter that names it.
        ArtifactError: As ``find_model``.
    """
    if given:
        return find_model(given, revision)
    name, member = _named(members)
    if not is_local(name):
        (progress or Silent()).note(
            f"note: {member.path} names base model '{name}', which comes from the Hub or its cache; --model names another"
        )
    return find_model(name, revision)


def base_at_hand(members: Iterable[AdapterFolder]) -> ModelReference | None:
    """Return the base model that adapters name, if it is a folder here, and the model that they were trained on."""
    try:
        name, _ = _named(members)
        reference = find_model(name) if is_local(name) else None
    except (ArtifactError, OptionError):
        return None
    records = [member.base for member in members if "fingerprint" in member.base]
    fits = reference is not None and all(same_base(record, reference.described()) for record in records)
    return reference if fits else None


def _named(members: Iterable[AdapterFolder]) -> tuple[str, AdapterFolder]:
    """Return the first base model that an adapter names, and that adapter."""
    member = next((member for member in members if member.base.get("id")), None)
    if member is None:
        raise OptionError("no adapter says which base model it stands on; pass --model", code="base-model-unknown")
    name = str(member.base["id"])
    if is_local(name) and Path(name).resolve().is_relative_to(member.path.resolve()):
        raise OptionError(
            f"adapter {member.path} names a base model within its own folder ('{name}'), which anybody may have put "
            f"there; pass --model {name} if that is meant",
            code="base-model-inside-adapter",
        )
    return name, member


def marks(members: Iterable[AdapterFolder]) -> dict[str, dict[str, str]]:
    """Return what tells adapters from others, wherever their folders are: by task, the checksums of their files."""
    found: dict[str, dict[str, str]] = {}
    for number, member in enumerate(members, start=1):
        files = dict(member.files or {member.weights.name: member.digest})
        if member.features.is_file():
            files[member.features.name] = sha256(member.features)
        found[member.task if member.task not in found else f"{member.task} ({number})"] = files
    return found


def read_package(paths: Iterable[Path], *, missing_ok: bool = False, distinct: bool = True) -> list[AdapterFolder]:
    """Read adapter folders, or packages of them, as one sequence ordered by stage, all as they were at one moment.

    Args:
        paths: Adapter folders and packages, in any mixture. Bare PEFT folders follow the staged ones, as given.
        missing_ok: Whether a path that does not exist counts as an empty package.
        distinct: Whether no two may have the same task.

    Raises:
        ArtifactError: If a path is missing or holds no adapter, or a member is damaged.
        MismatchError: If two members stand on different base models, or two have the same task.
    """
    paths = list(paths)
    members = steady(
        lambda: [read_once(folder) for path in paths for folder in _folders(path, missing_ok)],
        lambda: [_listing(path) for path in paths],
        [place for path in paths for place in (path, path.parent)],
        listed=True,
    )
    _check_same_base(members)
    if distinct:
        _check_distinct(members)
    return sorted(members, key=lambda member: member.stage if member.stage is not None else 1 << 30)


def changed(package: Path, members: Iterable[AdapterFolder]) -> bool:
    """Tell whether a package now holds other adapters than those that were read from it."""
    return _listing(package) != {member.path.name: member.seen for member in members}


def _listing(path: Path) -> dict[str, Identity | None]:
    """Return which adapters there are at a path now, by name."""
    if is_adapter(path):
        return {path.name: identity(path)}
    with contextlib.suppress(OSError):
        folders = [folder for folder in path.iterdir() if not folder.name.startswith(".")]
        return {folder.name: seen for folder in folders if (seen := identity(folder)) is not None}
    return {}


def _folders(path: Path, missing_ok: bool) -> Sequence[Path]:
    if is_adapter(path):
        return [path]
    if not path.exists():
        if missing_ok:
            return []
        raise ArtifactError(
            f"package {path} does not exist; train a first task with `clora train-task --package {path} …`",
            code="package-missing",
        )
    if not path.is_dir():
        raise ArtifactError(f"{path} is neither an adapter folder nor a package of them", code="not-a-package")
    found = sorted(folder for folder in path.iterdir() if not folder.name.startswith(".") and is_adapter(folder))
    if not found and not missing_ok:
        raise ArtifactError(f"package {path} holds no adapter folder", code="package-empty")
    return found


def _check_same_base(members: Sequence[AdapterFolder]) -> None:
    known = [member for member in members if "fingerprint" in member.base]
    for member in known[1:]:
        if not same_base(member.base, known[0].base):
            raise MismatchError(
                f"{known[0].path} and {member.path} stand on different base models "
                f"({known[0].base['id']} and {member.base['id']}); give adapters of one base model",
                code="base-models-differ",
            )


def _check_distinct(members: Sequence[AdapterFolder]) -> None:
    seen: dict[str, Path] = {}
    for member in members:
        if member.task in seen:
            raise MismatchError(
                f"{seen[member.task]} and {member.path} both hold task '{member.task}'; give one of them",
                code="task-twice",
            )
        seen[member.task] = member.path
