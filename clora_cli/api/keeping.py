"""``train-task --keep-if``: an adapter that enters its package only if the whole package then meets limits (layer L4)."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import LimitError, OptionError, ReplacedError
from clora_cli.base.progress import Progress
from clora_cli.options import EvalOptions, TrainOptions

if TYPE_CHECKING:
    from clora_cli.processes.locks import Patience
    from clora_cli.store.adapter_folder import AdapterFolder
    from clora_cli.training import Plan

__all__ = ["Gate", "parse_gate", "train_behind"]

_KEYS = ("fail-under", "max-forgetting", "rows")


@dataclass(frozen=True)
class Gate:
    """What a package must meet with the new adapter in it.

    Attributes:
        fail_under: The least mean score over the package's tasks, percent; None for any.
        max_forgetting: The most that an earlier task may lose by the new adapter, percent points; None for any.
        rows: Dev rows of each task that are scored; 0 for all.
    """

    fail_under: float | None
    max_forgetting: float | None
    rows: int


def parse_gate(pairs: Iterable[str], options: TrainOptions) -> Gate | None:
    """Read ``--keep-if``.

    Returns:
        The gate; None if nothing is asked for.

    Raises:
        OptionError: If a limit is unknown or no number, or goes with options that decide what is written where.
    """
    given: dict[str, float] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        try:
            given[key] = float(text)
        except ValueError:
            given[key] = math.nan
        if key not in _KEYS or not math.isfinite(given[key]) or (key != "fail-under" and given[key] < 0):
            raise OptionError(f"--keep-if {pair}: give LIMIT=NUMBER, with {', '.join(_KEYS)}", code="option-malformed")
    if not given:
        return None
    if not given.keys() & {"fail-under", "max-forgetting"}:
        raise OptionError(
            "--keep-if rows=… scores for a limit: give fail-under or max-forgetting", code="option-missing"
        )
    if options.nproc != 1 or options.out is not None or "RANK" in os.environ:
        raise OptionError(
            "--keep-if decides about a package in one process: leave out --out and --nproc", code="option-has-no-effect"
        )
    return Gate(given.get("fail-under"), given.get("max-forgetting"), int(given.get("rows", 0)))


def train_behind(
    gate: Gate, plan: Plan, *, resume: bool, force: bool, progress: Progress, patience: Patience, argv: Sequence[str]
) -> tuple[AdapterFolder, bool]:
    """Train beside the package, score the package with the new adapter in it, and only then put it in.

    What does not pass stays in a hidden folder beside the package: the same call under another limit trains nothing again.

    Raises:
        LimitError: If a limit is not met; the package is as it was.
        CloraError: As training and evaluation.
    """
    from clora_cli.base.files import new_folder
    from clora_cli.processes.locks import locked
    from clora_cli.processes.spots import inside
    from clora_cli.store.adapter_folder import read_adapter
    from clora_cli.store.package import changed
    from clora_cli.training import make_plan, train_task
    from clora_cli.transforming.member import copy_file, files_of

    package, target = plan.options.package, plan.out
    staged = package.parent / f".{package.name}.not-kept" / target.name
    if not force and (there := plan.finished()) is not None:
        _clear(staged, there)  # of a call that was killed when all was in its place
        return there, False
    if target.exists():
        raise OptionError(
            f"{target} exists; --keep-if adds an adapter and replaces none: remove it first", code="output-exists"
        )
    if len(ways := {member.combine for member in plan.members} | {plan.method.lead.combine}) > 1:
        told = ", ".join(sorted(map(str, ways)))
        raise OptionError(
            f"--keep-if scores {package} as its method combines adapters, and these are combined in different ways ({told}): leave "
            "it out, and score with `clora eval --combine`",
            code="ways-to-combine-differ",
        )
    beside = make_plan(dataclasses.replace(plan.options, out=staged))
    folder, _ = train_task(beside, resume=resume, force=force, argv=argv, progress=progress, patience=patience)
    before = list(plan.members)
    if broken := _broken(gate, plan.options, before, folder, progress):
        raise LimitError(
            f"{target} was not added: {broken}; {package} is as it was, the adapter is {staged}",
            code="gate-not-met",
        )
    with locked([inside(package)], patience=patience, progress=progress):
        if changed(package, before):
            raise ReplacedError(f"package {package} changed after it was scored; try again", code="replaced-while-read")
        with new_folder(target) as copy:
            for name, file in files_of(staged).items():
                copy_file(file, copy / name)
    kept = read_adapter(target)
    _clear(staged, kept)
    return kept, True


def _broken(
    gate: Gate, options: TrainOptions, before: Sequence[AdapterFolder], added: AdapterFolder, progress: Progress
) -> str:
    """Say which limits the package would not meet; nothing if it meets all."""
    from clora_cli.data import own_tasks
    from clora_cli.evaluation import evaluate
    from clora_cli.reporting.slices import judge

    shared: dict[str, Any] = {key: getattr(options, key) for key in ("model", "revision", "device", "dtype")}
    how = EvalOptions(**shared, split="dev", test_rows=gate.rows, max_length=options.max_length)
    tasks, members = own_tasks([*before, added], "train again with --data"), [*before, added]
    earlier = []
    if gate.max_forgetting is not None and before:
        learned = own_tasks(before, "train again with --data")
        earlier = [evaluate(before, learned, how, package="the package", progress=progress)]
    scores = evaluate(members, tasks, how, package="the package", progress=progress)
    limits = {"fail_under": gate.fail_under, "max_forgetting": gate.max_forgetting}
    verdict = judge(scores, tasks, "dev", earlier, limits)
    return verdict.told if verdict.broken else ""


def _clear(staged: Path, kept: AdapterFolder) -> None:
    """Remove what was trained beside the package, once it is in it."""
    from clora_cli.base.files import discard
    from clora_cli.processes.leftovers import sweep
    from clora_cli.store.adapter_folder import is_adapter, read_adapter

    if is_adapter(staged) and read_adapter(staged).digest == kept.digest:
        discard(staged)
    if staged.parent.is_dir():
        sweep(staged.parent)
        with contextlib.suppress(OSError):  # others are there
            staged.parent.rmdir()
