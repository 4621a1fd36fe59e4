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

__all__ = ["base_at_hand", "changed", "check_kinds", "find_base", "marks", "read_package"]


def find_base(
    members: Iterable[AdapterFolder],
    given: str | None = None,
    revision: str | None = None,
    progress: Progress | None = None,
) -> ModelReference:
    """Find the base model to use with adapters: the one that the user gives, else the one that they name.

    Anybody may have written the name in an adapter. It is followed to a folder and, with a note, to the Hub; but into the
    adapter's own folder only if the user gives it.

    Args:
        members: The adapters; without ``given``, the first that names a base model counts.
        given: The value of ``--model``.
        revision: Hub commit, branch or tag.
        progress: Where to note that an adapter's name leads to the Hub.

    Raises:
        OptionError: If no model is given or named, or it lies inside the adapter that names it.
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
    """Return the base model that adapters name, if it is a local folder and indeed the model that they were trained on."""
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
        raise OptionError("no adapter names its base model; pass --model", code="base-model-unknown")
    name = str(member.base["id"])
    if is_local(name) and Path(name).resolve().is_relative_to(member.path.resolve()):
        raise OptionError(
            f"adapter {member.path} names a base model inside its own folder ('{name}'), which is not trusted; "
            f"pass --model {name} if you trust it",
            code="base-model-inside-adapter",
        )
    return name, member


def marks(members: Iterable[AdapterFolder]) -> dict[str, dict[str, str]]:
    """Return what identifies adapters, wherever their folders are: for each task, the checksums of its files."""
    identities: dict[str, dict[str, str]] = {}
    for number, member in enumerate(members, start=1):
        files = dict(member.files or {member.weights.name: member.digest})
        if member.features.is_file():
            files[member.features.name] = sha256(member.features)
        identities[member.task if member.task not in identities else f"{member.task} ({number})"] = files
    return identities


def read_package(paths: Iterable[Path], *, missing_ok: bool = False, distinct: bool = True) -> list[AdapterFolder]:
    """Read adapter folders, or packages of them, as one sequence ordered by stage, as they were at a single moment.

    Args:
        paths: Adapter folders and packages, in any mixture. Bare PEFT folders follow the staged ones, in the order given.
        missing_ok: Whether a path that does not exist counts as an empty package.
        distinct: Whether to refuse two adapters of the same task.

    Raises:
        ArtifactError: If a path is missing or holds no adapter, or a member is damaged.
        MismatchError: If two members have different base models, or the same task, or only one of them holds soft prompts.
    """
    paths = list(paths)
    members = steady(
        lambda: [read_once(folder) for path in paths for folder in _folders(path, missing_ok)],
        lambda: [_listing(path) for path in paths],
        [place for path in paths for place in (path, path.parent)],
        listed=True,
    )
    _check_same_base(members)
    check_kinds(members)
    if distinct:
        _check_distinct(members)
    return sorted(members, key=lambda member: member.stage if member.stage is not None else 1 << 30)


def changed(package: Path, members: Iterable[AdapterFolder]) -> bool:
    """Tell whether a package no longer holds the adapters that were read from it."""
    return _listing(package) != {member.path.name: member.seen for member in members}


def _listing(path: Path) -> dict[str, Identity | None]:
    """Return the adapters that are at a path now, by name."""
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
    folders = sorted(folder for folder in path.iterdir() if not folder.name.startswith(".") and is_adapter(folder))
    if not folders and not missing_ok:
        raise ArtifactError(f"package {path} holds no adapter folder", code="package-empty")
    return folders


def _check_same_base(members: Sequence[AdapterFolder]) -> None:
    fingerprinted = [member for member in members if "fingerprint" in member.base]
    for member in fingerprinted[1:]:
        if not same_base(member.base, fingerprinted[0].base):
            raise MismatchError(
                f"{fingerprinted[0].path} and {member.path} stand on different base models "
                f"({fingerprinted[0].base['id']} and {member.base['id']}); give adapters of one base model",
                code="base-models-differ",
            )


def check_kinds(members: Sequence[AdapterFolder]) -> None:
    """Refuse adapters that change weights beside such that are soft prompts: nothing combines them.

    Raises:
        MismatchError: If there are both.
    """
    prompt, other = (next((m for m in members if m.is_prompt is kind), None) for kind in (True, False))
    if prompt is not None and other is not None:
        raise MismatchError(
            f"{prompt.path} holds a soft prompt and {other.path} changes weights; give adapters of one kind",
            code="adapter-kinds-differ",
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
