"""Find the data that an adapter was trained on again, and recognise it by its rows (layer L1).

A task's name is not enough: a file named like a bundled task is another task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from clora_cli.base.errors import DataError, MismatchError, OptionError
from clora_cli.base.intake import named_path
from clora_cli.data.bundled import bundled_name
from clora_cli.data.known_tasks import canonical
from clora_cli.data.load import load_task
from clora_cli.data.naming import split_names
from clora_cli.data.readers import is_readable
from clora_cli.data.task import Task
from clora_cli.store.manifest import Manifest
from clora_cli.store.manifest_parts import DataRecord

__all__ = ["Origin", "named_task", "origins_of", "own_tasks", "recorded_columns"]


class _Member(Protocol):
    @property
    def path(self) -> Path: ...

    @property
    def manifest(self) -> Manifest | None: ...


@dataclass(frozen=True)
class Origin:
    """One task that an adapter was trained on.

    Attributes:
        name: The task's name.
        given: The value of ``--data``; the task's name if that is not recorded.
        columns: Role to column, as ``--columns`` gave them.
        fingerprint: The fingerprint of its rows; empty if not recorded together with ``given``.
    """

    name: str
    given: str
    columns: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""

    def load(self, where: Path, mend: str, columns: Mapping[str, str] | None = None) -> Task:
        """Load the task, and check that its rows are those that the adapter was trained on.

        Args:
            where: The adapter's folder, for messages.
            mend: What to do if they are gone.
            columns: Role to column, instead of those recorded.

        Raises:
            DataError: It cannot be found.
            MismatchError: It has other rows.
        """
        gone = f"'{self.given}' no longer names the rows that {where} was trained on"
        if self._is_gone_file():
            raise DataError(
                f"{gone}: no such file from this folder; run where it is, or {mend}", code="recorded-data-missing"
            )
        try:
            task = load_task(self.given, columns=columns or self.columns)
        except DataError as error:
            raise DataError(f"{gone}: {error}; or {mend}", code="recorded-data-missing") from error
        if self.fingerprint and task.fingerprint != self.fingerprint:
            raise MismatchError(
                f"'{self.given}' ({task.source}) holds other rows than {where} was trained on "
                f"({self.fingerprint[:12]} -> {task.fingerprint[:12]}); restore them, or {mend}",
                code="recorded-data-changed",
            )
        return task

    def _is_gone_file(self) -> bool:
        path = named_path(self.given)
        looks = is_readable(path) or path.is_absolute() or self.given.startswith((".", "~"))
        return looks and not path.exists() and not (bundled_name(self.given) or canonical(self.given))

    def recorded(self) -> dict[str, Any]:
        """Return what the manifest of a merge records of it."""
        return {"name": self.name, "given": self.given, "columns": dict(self.columns), "fingerprint": self.fingerprint}


def origins_of(manifest: Manifest | None) -> list[Origin]:
    """Return the tasks that an adapter was trained on: one, or those of all merged adapters; none for a bare PEFT folder."""
    if manifest is None:
        return []
    if manifest.data.merged is not None:
        known = {entry["name"]: _origin(DataRecord(entry)) for entry in manifest.data.origins or ()}
        return [known.get(name, Origin(name, name)) for name in manifest.data.merged]
    return [_origin(manifest.data)]


def _origin(data: DataRecord) -> Origin:
    if data.given is None:
        return Origin(data.name, data.name)
    return Origin(data.name, data.given, data.columns or {}, data.fingerprint or "")


def own_tasks(members: Iterable[_Member], mend: str) -> list[Task]:
    """Return the tasks that adapters were trained on, in order, each once.

    Raises:
        CloraError: As ``Origin.load``.
    """
    tasks: dict[str, Task] = {}
    for member in members:
        for origin in origins_of(member.manifest):
            key = origin.fingerprint or origin.given
            if key not in tasks:
                tasks[key] = origin.load(member.path, mend)
    return list(tasks.values())


def scored_tasks(
    names: Iterable[str],
    members: Sequence[_Member],
    mend: str,
    *,
    columns: Mapping[str, str] | None = None,
    prompts: bool = False,
) -> list[Task]:
    """Return the tasks that names stand for; without names those that adapters were trained on.

    Args:
        names: As for ``named_task``.
        members: The adapters.
        mend: As for ``own_tasks``.
        columns: As for ``load_task``.
        prompts: As for ``load_task``.

    Raises:
        CloraError: As ``named_task`` and ``own_tasks``.
    """
    chosen = [named_task(name, members, mend, columns=columns, prompts=prompts) for name in names]
    return chosen or own_tasks(members, mend)


def named_task(
    name: str,
    members: Iterable[_Member],
    mend: str,
    *,
    columns: Mapping[str, str] | None = None,
    prompts: bool = False,
) -> Task:
    """Return the task that a name stands for, given these adapters.

    If one of them was trained on a file of that name, the name stands for that file, whatever else has it; if one was
    trained on that task with names in its prompts, the name stands for those prompts.

    Args:
        name: As ``load_task`` takes it.
        members: The adapters.
        mend: As for ``Origin.load``.
        columns: Role to column name.
        prompts: As for ``load_task``.

    Raises:
        CloraError: As ``load_task`` and ``Origin.load``.
    """
    for member in members:
        for origin in origins_of(member.manifest):
            plain, with_names = split_names(origin.given)
            of_file = origin.name == name and origin.given != name and not _same(name, plain)
            if of_file or (with_names and _same(name, plain)):
                return origin.load(member.path, mend, columns)
    return load_task(name, columns=columns or recorded_columns(name, members), prompts=prompts)


def recorded_columns(name: str, members: Iterable[_Member]) -> Mapping[str, str]:
    """Return the ``--columns`` with which adapters were trained on the file or folder of this name; empty if none were given.

    Args:
        name: The value of ``--data``.
        members: The adapters.

    Raises:
        OptionError: Two of them were trained on it with different columns.
    """
    place = named_path(name).absolute()
    found: list[Mapping[str, str]] = []
    for member in members:
        for origin in origins_of(member.manifest):
            if named_path(origin.given).absolute() == place and origin.columns not in found:
                found.append(origin.columns)
    if len(found) > 1:
        raise OptionError(
            f"adapters were trained on {name} by different columns; say which with --columns",
            code="recorded-columns-differ",
        )
    return found[0] if found else {}


def _same(name: str, given: str) -> bool:
    """Whether two names are spellings of one bundled or known task."""
    known, other = canonical(name), canonical(given)
    return bool((known and known is other) or (bundled_name(name) and bundled_name(name) == bundled_name(given)))
