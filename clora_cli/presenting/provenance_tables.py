"""Where a report's numbers come from, as parts of an HTML page."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from clora_cli import __version__
from clora_cli.presenting.page import Files, Fold, Part, Table, TableCell
from clora_cli.reporting.assembly import Report
from clora_cli.reporting.provenance import Training
from clora_cli.reporting.scored_run import Run

__all__ = ["provenance_parts"]

_RUNS = ["run", "method", "combined by", "scored by", "seed", "tasks", "package"]
_TRAININGS = ["package", "method and options", "training"]


def provenance_parts(report: Report) -> list[Part]:
    """Return the tables of models, settings and versions, of runs and of trainings, and the files that were read."""
    runs, trainings, files = report.results.runs, report.provenance.trainings, report.material.files
    parts: list[Part] = [Table(["", ""], _facts(report), texts=[1])]
    if runs:
        rows = [_run(number, run) for number, run in enumerate(runs, start=1)]
        parts.append(Fold("Runs", [Table(_RUNS, rows, texts=[1, 2, 3, 6])]))
    if trainings:
        table = Table(_TRAININGS, list(map(_training, trainings)), texts=[1, 2])
        parts.append(Fold("Training of each package", [table]))
    return [*parts, Fold(f"{len(files)} files and folders read", [Files(list(map(str, files)))])]


def _facts(report: Report) -> list[tuple[str, str | TableCell]]:
    provenance = report.provenance
    facts: list[tuple[str, str | TableCell]] = []
    if report.command:
        facts.append(("command", TableCell(code=report.command)))
    facts += [("base model", TableCell(name, code=fingerprint[:16])) for name, fingerprint in provenance.bases]
    facts += [(f"evaluation: {name.replace('_', ' ')}", _all(values)) for name, values in provenance.evaluation.items()]
    if provenance.versions:
        texts = (f"{name} {' | '.join(versions)}" for name, versions in provenance.versions.items())
        facts.append(("adapters trained with", ", ".join(texts)))
    return [*facts, ("report written by", f"clora {__version__}, Python {platform.python_version()}")]


def _run(number: int, run: Run) -> list[str | TableCell]:
    seed = "" if run.seed is None else str(run.seed)
    texts = [str(number), run.method or "base model", run.combine, run.score, seed, str(len(run.order))]
    return [*texts, TableCell(code=run.package)]


def _training(training: Training) -> list[str | TableCell]:
    return [TableCell(code=str(training.package)), _all(training.options), _all(training.settings)]


def _all(values: Iterable[Any]) -> str:
    """Write the values that a setting had, each once."""
    return " | ".join(dict.fromkeys(map(_brief, values)))


def _brief(value: Any) -> str:
    """Write a setting briefly: ``lr 0.001, epochs 2``, without the entries of a mapping that are off or empty."""
    if isinstance(value, Mapping):
        entries = ((name, _brief(entry)) for name, entry in value.items() if entry not in ("", [], {}, None, False))
        return ", ".join(f"{name} {text}".strip() for name, text in entries)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
