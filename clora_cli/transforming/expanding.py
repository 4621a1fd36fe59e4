"""Expand: the union of packages as one package, file to file, without training or a model (layer L3).

A member of the union is its adapter folder, byte for byte, but for the entries of the manifest that say where it stands:
``task``, ``stage`` and ``origin``, what it was called in the package that it was trained in. So a member that is removed
from a union leaves what the union of the others would have been.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.base.errors import MismatchError, OptionError, did_you_mean
from clora_cli.base.files import new_folder
from clora_cli.base.folder_names import folder_problem, same_on_some_disk
from clora_cli.base.progress import Progress, Silent
from clora_cli.options import ExpandOptions
from clora_cli.processes.locks import NO_PATIENCE, Patience, locked
from clora_cli.processes.spots import inside, place
from clora_cli.store.adapter_folder import AdapterFolder, is_adapter
from clora_cli.store.package import check_kinds, read_package
from clora_cli.transforming.member import Member, check_apart
from clora_cli.transforming.routable import check_bases, check_routable, tell_doubts

__all__ = ["ExpandPlan", "expand_packages", "plan_expand"]


@dataclass(frozen=True, eq=False)
class ExpandPlan:
    """A union that can be written: its inputs are whole and fit together.

    Attributes:
        options: What was asked for.
        members: What the union holds, by stage; bare PEFT folders last.
    """

    options: ExpandOptions
    members: Sequence[Member]

    def difference(self) -> str | None:
        """Name the first thing in which the folder at ``out`` is not this union; None if there is none."""
        out = self.options.out
        folders = {path.name for path in _adapters(out)}
        if odd := sorted(folders ^ {member.task for member in self.members}):
            return f"{odd[0]} is {'no part of it' if odd[0] in folders else 'missing'}"
        return next((name for member in self.members if (name := member.difference(out / member.task))), None)


def plan_expand(paths: Iterable[Path], options: ExpandOptions, *, progress: Progress | None = None) -> ExpandPlan:
    """Read packages and check that their union can be written, and routed in.

    Args:
        paths: Packages and adapter folders, in any mixture, in the order in which they are to stand.
        options: How.
        progress: Told of adapters that are left out or renamed, and of doubts.

    Raises:
        CloraError: Whatever is missing, damaged, wrong or does not fit together.
    """
    given, progress = list(dict.fromkeys(map(_plain, paths))), progress or Silent()
    members = _read(given)
    _check_out(options.out, [*given, *(member.path for member in members)])
    check_bases([member.folder for member in members])
    check_kinds([member.folder for member in members])
    united = _without_conflicts(_renamed(members, options.rename), options.on_conflict, progress)
    # Bare PEFT folders have no place in a sequence, and nothing in a package tells in which order they were given.
    united.sort(key=lambda member: member.is_bare)
    folders = [member.folder for member in united]
    routables = check_routable(folders)
    _tell_left_behind(folders, progress)
    tell_doubts(folders, routables, progress)
    united = [dataclasses.replace(member, renamed=_new_names(member.package, united)) for member in united]
    stages = [None if member.is_bare else number for number, member in enumerate(united, start=1)]
    placed = zip(united, stages, routables, strict=True)
    return ExpandPlan(options, [dataclasses.replace(one, stage=stage, routable=r) for one, stage, r in placed])


def expand_packages(
    plan: ExpandPlan,
    *,
    force: bool = False,
    progress: Progress | None = None,
    patience: Patience = NO_PATIENCE,
) -> tuple[Path, bool]:
    """Carry out a plan.

    Args:
        plan: From ``plan_expand``.
        force: Replace another package at its place.
        progress: Told of the advance.
        patience: What to do if another process writes there.

    Returns:
        The package, and whether it was written now (False: it was there).

    Raises:
        OptionError: If something else is at its place.
        CloraError: If it cannot be written; what was there stays.
    """
    out, progress = plan.options.out, progress or Silent()
    if not force and _is_there(plan):
        return out, False
    waiting: dict[str, Any] = {"patience": patience, "progress": progress}
    with locked([place(out)], **waiting), locked([inside(out)] if out.exists() else [], **waiting):
        if not force and _is_there(plan):  # another process has made it meanwhile
            return out, False
        if out.exists() and (others := [path.name for path in _entries(out) if not is_adapter(path)]):
            # Replacing a package must not take with it what is no adapter: scores, a checkpoint, a repository.
            raise OptionError(
                f"{out} also holds {min(others)}, which is no adapter; move it away or choose another --out",
                code="output-holds-other-files",
            )
        with progress.track("expand", len(plan.members)) as advance, new_folder(out) as folder:
            for member in plan.members:
                member.write(folder / member.task)
                advance(1, member.task)
    return out, True


def _is_there(plan: ExpandPlan) -> bool:
    """Tell whether the package is this union already, and refuse another one."""
    out = plan.options.out
    if not (out.exists() and _adapters(out)):
        return False
    if difference := plan.difference():
        raise OptionError(
            f"{out} exists and is not this union ({difference}); pass --force to replace it or --out to keep it",
            code="output-differs",
        )
    return True


def _read(paths: Sequence[Path]) -> list[Member]:
    # Adapter folders of one package are that package as far as they go: `A.pkg/*` stands in the order of `A.pkg`.
    packages: dict[Path, list[Path]] = {}
    for path in paths:
        packages.setdefault(path.parent if is_adapter(path) else path, []).append(path)
    folders: dict[Path, Member] = {}
    for package, given in packages.items():
        for folder in read_package(given, distinct=False):
            folders.setdefault(folder.path, Member(folder, _plain(package), folder.task))
    return list(folders.values())


def _check_out(out: Path, inputs: Iterable[Path]) -> None:
    check_apart(out, inputs)
    if out.exists() and (not out.is_dir() or is_adapter(out) or (_entries(out) and not _adapters(out))):
        raise OptionError(f"{out} exists and is no package; choose another --out", code="output-not-a-package")


def _renamed(members: Sequence[Member], rename: Mapping[str, str]) -> list[Member]:
    names = {name for member in members for name in member.names}
    if odd := next((old for old in rename if old not in names), None):
        raise OptionError(
            f"--rename {odd}={rename[odd]}: there is no adapter '{odd}'{did_you_mean(odd, names)}",
            code="rename-matches-nothing",
        )
    chosen = (next((rename[name] for name in member.names if name in rename), member.task) for member in members)
    return [dataclasses.replace(member, task=task) for member, task in zip(members, chosen, strict=True)]


def _new_names(package: Path, members: Sequence[Member]) -> dict[str, str]:
    """Return what a package's tasks are called in the union, of those that are called otherwise there."""
    pairs = [(one.folder.task, one.task) for one in members if one.package == package]
    return {old: new for old, new in pairs if old != new}


def _without_conflicts(members: Sequence[Member], policy: str, progress: Progress) -> list[Member]:
    """Give every task one member; the order stays."""
    union: dict[str, Member] = {}
    taken = {same_on_some_disk(member.task) for member in members}
    for member in members:
        task, path = member.task, member.path
        if problem := folder_problem(task):
            raise MismatchError(
                f"task '{task}' of {path} cannot be a folder's name; pass --rename {path}=NEW, and {problem}",
                code="name-unfit-for-folder",
            )
        if (first := union.get(same_on_some_disk(task))) is None:
            union[same_on_some_disk(task)] = member
        elif twin := next((other for other in union.values() if member.same_as(other)), None):
            progress.note(f"{path} is the same adapter as {twin.path}; it is kept once")
        elif policy == "keep":
            progress.note(f"{path} is left out: {first.path} is another adapter of task '{task}'")
        elif policy == "rename":
            new = next(
                name for number in itertools.count(2) if same_on_some_disk(name := f"{task}-{number}") not in taken
            )
            progress.note(f"{path} becomes task '{new}': {first.path} is another adapter of task '{task}'")
            union[same_on_some_disk(new)] = dataclasses.replace(member, task=new)
            taken.add(same_on_some_disk(new))
        else:
            alike = "" if first.task == task else f", which some disks take for '{first.task}'"
            raise MismatchError(
                f"{first.path} and {path} are different adapters of task '{task}'{alike}; "
                f"pass --rename {path}=NEW, or --on-conflict keep or rename",
                code="task-name-conflict",
            )
    return list(union.values())


def _tell_left_behind(folders: Sequence[AdapterFolder], progress: Progress) -> None:
    inner = [path for folder in folders for path in sorted(folder.path.iterdir()) if path.is_dir()]
    if shown := [str(path) for path in inner if not path.name.startswith(".")]:
        more = f" and {len(shown) - 1} more" if len(shown) > 1 else ""
        progress.note(f"subfolders are no part of an adapter and stay behind: {shown[0]}{more}")


def _plain(path: Path) -> Path:
    """Return a path that has a name: ``.`` and ``..`` have none."""
    return path if path.name not in {"", ".."} else path.resolve()


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".clora-")]


def _adapters(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".") and is_adapter(path)]
