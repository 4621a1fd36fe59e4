"""Packages on disk (layer L1): adapter folders over one base model, read as one sequence.

The members of a package and their order come from the members' own manifests. ``docs/package-format.md`` is the specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from clora_cli.adapter_folder import AdapterFolder, is_adapter, read_adapter
from clora_cli.errors import ArtifactError, MismatchError, OptionError
from clora_cli.files import sha256

__all__ = ["base_name", "marks", "read_package"]


def base_name(members: Iterable[AdapterFolder]) -> str:
    """Return the name of the base model that adapters stand on, as the first of them that names one gives it.

    Raises:
        OptionError: If none does.
    """
    name = next((str(member.base["id"]) for member in members if member.base.get("id")), None)
    if name is None:
        raise OptionError("no adapter says which base model it stands on; pass --model")
    return name


def marks(members: Iterable[AdapterFolder]) -> dict[str, dict[str, str]]:
    """Return what tells adapters from others, wherever their folders are: by task, the checksums of their files."""
    found: dict[str, dict[str, str]] = {}
    for number, member in enumerate(members, start=1):
        files = dict(member.manifest.get("files") or {member.weights.name: member.digest})
        if member.features.is_file():
            files[member.features.name] = sha256(member.features)
        found[member.task if member.task not in found else f"{member.task} ({number})"] = files
    return found


def read_package(paths: Iterable[Path], *, missing_ok: bool = False, distinct: bool = True) -> list[AdapterFolder]:
    """Read adapter folders, or packages of them, as one sequence ordered by stage.

    Args:
        paths: Adapter folders and packages, in any mixture. Bare PEFT folders follow the staged ones, as given.
        missing_ok: Whether a path that does not exist counts as an empty package.
        distinct: Whether no two may have the same task.

    Raises:
        ArtifactError: If a path is missing or holds no adapter, or a member is damaged.
        MismatchError: If two members stand on different base models, or two have the same task.
    """
    members = [read_adapter(folder) for path in paths for folder in _folders(path, missing_ok)]
    _check_same_base(members)
    if distinct:
        _check_distinct(members)
    return sorted(members, key=lambda member: member.stage if member.stage is not None else 1 << 30)


def _folders(path: Path, missing_ok: bool) -> Sequence[Path]:
    if is_adapter(path):
        return [path]
    if not path.exists():
        if missing_ok:
            return []
        raise ArtifactError(
            f"package {path} does not exist; train a first task with `clora train-task --package {path} …`"
        )
    if not path.is_dir():
        raise ArtifactError(f"{path} is neither an adapter folder nor a package of them")
    found = sorted(folder for folder in path.iterdir() if not folder.name.startswith(".") and is_adapter(folder))
    if not found and not missing_ok:
        raise ArtifactError(f"package {path} holds no adapter folder")
    return found


def _check_same_base(members: Sequence[AdapterFolder]) -> None:
    known = [member for member in members if "fingerprint" in member.base]
    for member in known[1:]:
        if member.base["fingerprint"] != known[0].base["fingerprint"]:
            raise MismatchError(
                f"{known[0].path} and {member.path} stand on different base models "
                f"({known[0].base['id']} and {member.base['id']}); give adapters of one base model"
            )


def _check_distinct(members: Sequence[AdapterFolder]) -> None:
    seen: dict[str, Path] = {}
    for member in members:
        if member.task in seen:
            raise MismatchError(
                f"{seen[member.task]} and {member.path} both hold task '{member.task}'; give one of them"
            )
        seen[member.task] = member.path
