"""``--data NAME`` to a :class:`Task` (layer L1).

A name is looked up among the bundled tasks, under ``$CLORA_DATA``, as a path, and on the Hub, in this order; an existing
path whose name is neither bundled nor known comes first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from clora_cli.base.errors import DataError, UnknownNameError, did_you_mean
from clora_cli.base.intake import named_path
from clora_cli.data.bundled import bundled_infos, bundled_name, read_bundled, stand_in_for
from clora_cli.data.harness import PREFIX, read_harness
from clora_cli.data.known_tasks import KNOWN, TRACE, KnownTask, canonical
from clora_cli.data.naming import split_names, with_names
from clora_cli.data.paths import read_path
from clora_cli.data.prompts_alone import prompts_alone
from clora_cli.data.readers import is_readable
from clora_cli.data.registry_names import entry_of, names_beside
from clora_cli.data.root import data_root, find, holds_task, index
from clora_cli.data.splits import Draft, finish
from clora_cli.data.task import METRICS, Task, TaskInfo

__all__ = ["list_tasks", "load_task"]

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")
_BENCHMARK = "CL_Benchmark in it (from github.com/cmnfriend/O-LoRA)"
_HOLDS = {
    TRACE: "TRACE's task folders in it (github.com/BeyonderXX/TRACE tells where they are)",
    "SuperNI": "Natural-Instructions' task files in it (from github.com/allenai/natural-instructions)",
}
_SET_ROOT = "not found: set CLORA_DATA"


def load_task(
    name: str,
    *,
    columns: Mapping[str, str] | None = None,
    metric: str | None = None,
    keep_bad_labels: bool = False,
    prompts: bool = False,
) -> Task:
    """Return the task that a name, a path or a Hub id stands for.

    Args:
        name: ``mnli``, ``NLI/MNLI``, ``task1572``, ``reviews.csv``, ``folder/``, ``owner/name`` or
            ``owner/name:config``; ``lm-eval:NAME``; ``mnli+names`` for prompts that begin with the task's names.
        columns: Role to column name, such as ``{"prompt": "question", "completion": "answer"}``; only for files,
            folders and Hub datasets.
        metric: One of ``METRICS`` instead of the task's own.
        keep_bad_labels: Keep rows whose label is not in the label set.
        prompts: Take a file of rows without answers too: as test rows without references, for a scorer that needs none.

    Raises:
        DataError: Nothing has that name, or its content cannot be used.
        UnknownNameError: ``metric`` is not a metric.
        OptionError: ``columns`` names a role that does not exist.
    """
    if metric is not None and metric not in METRICS:
        raise UnknownNameError("metric", metric, METRICS)
    if not name.strip():
        raise DataError("--data is empty: name a task, a file or a folder", code="data-name-empty")
    if name.strip() == "-":
        raise DataError(
            "--data -: rows from standard input can only be routed; save them in a file and name that",
            code="data-from-stdin",
        )
    plain, named = split_names(name.strip())
    try:
        if prompts and (task := prompts_alone(plain, columns)):
            return task
        draft = _draft(plain, columns)
    except OSError as error:
        raise DataError(
            f"{name[:80]!r} cannot be read: {error.strerror}; check the name and its permissions",
            code="path-unreadable",
        ) from error
    task = finish(replace(draft, metric=metric or draft.metric), keep_bad_labels=keep_bad_labels)
    return with_names(task, plain) if named else task


def list_tasks() -> list[TaskInfo]:
    """Return what ``--data`` can name: the bundled tasks, then the known ones, each with its source."""
    root = data_root()
    places = index(root) if root else {}
    return bundled_infos() + [_info(task, places) for task in KNOWN.values()]


def _info(task: KnownTask, places: Mapping[str, list[Path]]) -> TaskInfo:
    paths = places.get(task.name)
    where = str(paths[0]) if paths else f"Hub {task.hub.repo}" if task.hub else _SET_ROOT
    return TaskInfo(task.name, task.family, task.metric, task.labels, task.summary, where)


def _draft(name: str, columns: Mapping[str, str] | None) -> Draft:
    if name.startswith(PREFIX):
        return read_harness(name.removeprefix(PREFIX))
    bundled, known, path = bundled_name(name), canonical(name), named_path(name)
    if bundled:
        return _beside(read_bundled(bundled), path)
    if not known and (_is_path(path) or entry_of(path)):
        return read_path(path, columns)
    root = data_root()
    found = find(root, name, known) if root else []
    if found:
        return _beside(_from_root(found, columns), path)
    if known and holds_task(path):
        return read_path(path, columns)
    return _from_hub(name, known, columns, root)


def _beside(draft: Draft, path: Path) -> Draft:
    """Add a note if a path has the name of a bundled task."""
    if path.exists() and not path.is_absolute() and draft.source == "bundled":
        draft.notes.append(f"'{path}' names the bundled task; the path of that name here is --data ./{path}")
    return draft


def _is_path(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and (len(path.parts) > 1 or is_readable(path)))


def _from_root(found: list[Path], columns: Mapping[str, str] | None) -> Draft:
    draft = read_path(found[0], columns)
    if len(found) > 1:
        draft.notes.append(f"{len(found)} of this name under CLORA_DATA: {found[0]} was used, not {found[1]}")
    return draft


def _from_hub(name: str, known: KnownTask | None, columns: Mapping[str, str] | None, root: Path | None) -> Draft:
    """Read from the Hub, the last place to look, if the name can be one of its ids."""
    is_id = not known and bool(_HUB_ID.fullmatch(name)) and not is_readable(Path(name))
    if not is_id and not (known and known.hub):
        raise DataError(_nowhere(name, known, root), code="data-not-found")
    from clora_cli.data import hub

    try:
        return hub.read_known(known, known.hub) if known and known.hub else hub.read_hub(name, columns)
    except DataError as error:
        if not known:
            raise DataError(f"'{name}' is not {_looked(name, root)}; {error}", code=error.code) from error
        why = str(error).removesuffix(f"; {hub.MEND}")
        raise DataError(f"'{name}' is not {_looked(name, root)}; {why}; {_next(known)}", code=error.code) from error


def _nowhere(name: str, known: KnownTask | None, root: Path | None) -> str:
    if known:
        return f"'{name}' is not {_looked(name, root)}; {_next(known)}"
    names = [*(info.name for info in bundled_infos()), *KNOWN]
    mend = f"`clora tasks` lists the known names{did_you_mean(name.casefold(), names)}"
    return f"'{name}' is not {_looked(name, root)}; {mend}"


def _next(known: KnownTask) -> str:
    """What to try for a known task whose data are not here, the quickest first."""
    ways = [
        f"--data {stand_in_for(known.family, known.summary)} (bundled, a task of its kind)",
        "--data FILE with rows of your own",
        f"CLORA_DATA=FOLDER with {_HOLDS.get(known.family.partition(' ')[0], _BENCHMARK)}",
    ]
    if known.hub:
        ways.append(f"the Hub's {known.hub.repo}, online and without HF_HUB_OFFLINE")
    return f"what works next: {', or '.join(ways)}"


def _looked(name: str, root: Path | None) -> str:
    under = f"under CLORA_DATA ({root}{'' if root and root.is_dir() else ', no such folder'})" if root else ""
    beside = names_beside(named_path(name))
    return f"among the bundled tasks, {under or 'under CLORA_DATA (not set)'} or at the path {Path(name)}{beside}"
