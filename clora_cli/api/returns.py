"""What the functions of the Python API return (layer L4): the artifact, and whether it was made now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora_cli.reporting.assembly import Report
    from clora_cli.store.adapter_folder import AdapterFolder
    from clora_cli.store.routes import Routes

__all__ = ["Cut", "Made", "MadeRows", "Merged", "Pulled", "Pushed", "Reported", "Routed", "Trained"]


@dataclass(frozen=True)
class Made:
    """A folder that a call wrote, or found up to date.

    Attributes:
        path: The folder.
        made: Whether it was written now; False if it was there already, made from the same inputs with the same options.
    """

    path: Path
    made: bool


@dataclass(frozen=True)
class Merged(Made):
    """A merge.

    Attributes:
        scores: What its manifest keeps: where it was cut to a rank, ``energy`` with the share ``kept`` of all squared entries,
            between 0 and 1, that of the ``worst`` site, and which it is.
    """

    scores: Mapping[str, Any]


@dataclass(frozen=True)
class Cut(Made):
    """A trimmed adapter.

    Attributes:
        density: The share of entries that stayed, between 0 and 1, by factor: ``A`` and ``B``, as far as they were trimmed.
    """

    density: Mapping[str, float]


@dataclass(frozen=True)
class MadeRows(Made):
    """A file of rows that a model made.

    Attributes:
        rows: How many there are of each task.
    """

    rows: Mapping[str, int]


@dataclass(frozen=True)
class Trained:
    """An adapter that was trained, or found up to date.

    Attributes:
        folder: The adapter: its path, task, stage, manifest and tensors.
        made: Whether it was trained now.
    """

    folder: AdapterFolder
    made: bool

    @property
    def path(self) -> Path:
        """The adapter's folder."""
        return self.folder.path

    @property
    def scores(self) -> Mapping[str, Any]:
        """What the manifest keeps of the training, such as the loss of its last step."""
        return (self.folder.manifest.scores if self.folder.manifest else None) or {}


@dataclass(frozen=True)
class Routed:
    """Where inputs went.

    Attributes:
        rows: One for each input, in order: the fields that it came with, ``adapter`` (None for the base model) and
            ``weights`` by adapter; these are the lines that the command prints.
        routes: Counts and mean weights, tasks by adapters.
    """

    rows: Sequence[Mapping[str, Any]]
    routes: Routes


@dataclass(frozen=True)
class Pushed:
    """A package that was sent.

    Attributes:
        files: The checksum of each file.
        sent: Whether anything was sent now; False if all was there.
    """

    files: Mapping[str, str]
    sent: bool


@dataclass(frozen=True)
class Pulled:
    """A package that was fetched.

    Attributes:
        adapters: Its adapters.
        fetched: Whether anything was fetched now; False if all was there.
    """

    adapters: Sequence[AdapterFolder]
    fetched: bool


@dataclass(frozen=True, eq=False)
class Reported:
    """A report: runs, their metrics, and what adapters look like from the inside.

    Attributes:
        report: Everything that is computed, each part when it is first asked for.
    """

    report: Report

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """The whole report as ``--json`` prints it."""
        from clora_cli.presenting.export import report_json

        return report_json(self.report)

    @cached_property
    def averages(self) -> Sequence[float]:
        """The average performance of each method over all orders, percent, in the order of ``data["methods"]``."""
        return self.report.averages()

    def __str__(self) -> str:
        """Return the tables as the command prints them: Markdown."""
        from clora_cli.presenting.report_text import report_text

        return report_text(self.report, short=True)

    def _repr_markdown_(self) -> str:
        """Return the tables for a notebook, which shows them as such."""
        return str(self)
