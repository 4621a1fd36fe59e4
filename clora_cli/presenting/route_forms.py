"""Where inputs went, as a confusion matrix in plain text and as heat maps of mean weights."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from clora_cli.base.files import to_json, write_text
from clora_cli.base.progress import Progress
from clora_cli.presenting.canvas import save, short
from clora_cli.presenting.figures.route_maps import compose_routes
from clora_cli.store.routes import Routes
from clora_cli.store.routes_file import routes_json

__all__ = ["confusion_table", "draw_routes", "keep_routes"]

_HEADLINE = "adapters chosen, % of each task's inputs"
_MOST_ADAPTERS = 16  # columns of a matrix that fits a terminal
_MOST_TASKS = 30
_WIDTH = 110  # characters for the adapters' names; longer ones are replaced by numbers


def confusion_table(routes: Routes) -> str:
    """Return how many percent of each task's inputs chose each adapter, and how many were right, as aligned plain text.

    If the adapters do not fit into columns, each task's three most frequent ones are named. Of many tasks, those with the
    lowest accuracy are shown.
    """
    tasks = [number for number, task in enumerate(routes.tasks) if task]
    shown = tasks
    if len(tasks) > _MOST_TASKS:
        shown = sorted(tasks, key=lambda task: (routes.accuracy(task) is None, routes.accuracy(task)))[:_MOST_TASKS]
    lines = _matrix(routes, shown) if len(routes.adapters) <= _MOST_ADAPTERS else _favourites(routes, shown)
    if hidden := len(tasks) - len(shown):
        lines.append(f"… and {hidden} tasks of higher accuracy")
    if routes.macro is not None:
        inputs = sum(routes.inputs[task] for task in routes.known)
        counted = f"over {len(routes.known)} tasks, {inputs} inputs"
        lines.append(f"right: {routes.macro:.2f} % (macro), {routes.micro:.2f} % (micro) {counted}")
    return "\n".join(lines)


def draw_routes(routes: Routes, path: str | Path) -> None:
    """Draw the mean weights, tasks by adapters, with the highest of each row outlined; below them, layer by layer.

    Args:
        routes: Where the inputs went, at least one of them.
        path: The file; its ending, one of ``png svg pdf``, is the format.

    Raises:
        OptionError: If the ending is another.
        CloraError: If the file cannot be written.
    """
    save(Path(path), lambda figure: compose_routes(figure, routes))


def keep_routes(routes: Routes, heatmap: Path | None, confusion: Path | None, progress: Progress) -> None:
    """Write the confusion matrix and the drawing that were asked for.

    Args:
        routes: What was decided.
        heatmap: Where to draw the mean weights; None for nowhere.
        confusion: Where to write the confusion matrix as JSON; None for nowhere.
        progress: Warned of what holds nothing.

    Raises:
        CloraError: If a file cannot be written.
    """
    if confusion is not None:
        if not any(routes.tasks):
            progress.warn(f'{confusion} holds no task: no input names its own; add a "task" field to the rows')
        write_text(confusion, to_json(routes_json(routes)))
    if heatmap is not None and routes.tasks:
        draw_routes(routes, heatmap)
    elif heatmap is not None:
        progress.warn(f"{heatmap} was not drawn: there was no input")


def _matrix(routes: Routes, tasks: Sequence[int]) -> list[str]:
    names = [short(name, 16) for name in routes.adapters]
    numbered = len(set(names)) < len(names) or sum(len(name) + 2 for name in names) > _WIDTH
    base = ["base"] if any(routes.abstained) else []
    columns = [str(number) for number in range(1, len(names) + 1)] if numbered else names
    rows = [["task", "inputs", *columns, *base, "right"]]
    for task in tasks:
        counts = [*routes.counts[task], *([routes.abstained[task]] if base else [])]
        mark = f"{routes.knows[task][0] + 1} " if numbered and routes.knows[task] else ""
        cells = [_percent(100 * count / routes.inputs[task]) for count in counts]
        rows.append([mark + short(routes.tasks[task]), str(routes.inputs[task]), *cells, _right(routes, task)])
    marked = {knows[0] for knows in routes.knows if knows}
    legend = _legend(routes) if numbered and len(marked) < len(names) else []
    return [_HEADLINE, *legend, *_aligned(rows)]


def _legend(routes: Routes) -> list[str]:
    # A number and its name stay on one line.
    pairs = (f"{number}\N{NO-BREAK SPACE}{name}" for number, name in enumerate(routes.adapters, start=1))
    lines = textwrap.wrap(f"adapters: {', '.join(pairs)}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _favourites(routes: Routes, tasks: Sequence[int]) -> list[str]:
    rows = [["task", "inputs", "right", "went to"]]
    for task in tasks:
        total = routes.inputs[task]
        choices = [*zip(routes.counts[task], routes.adapters, strict=True), (routes.abstained[task], "base model")]
        most = sorted((choice for choice in choices if choice[0]), key=lambda choice: -choice[0])[:3]
        favourites = ", ".join(f"{short(name)} {_percent(100 * count / total)}" for count, name in most)
        rows.append([short(routes.tasks[task]), str(total), _right(routes, task), favourites])
    return [_HEADLINE, *_aligned(rows, last_left=True)]


def _aligned(rows: Sequence[Sequence[str]], last_left: bool = False) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, len(widths) - 1} if last_left else {0}
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _right(routes: Routes, task: int) -> str:
    accuracy = routes.accuracy(task)
    return "-" if accuracy is None else f"{accuracy:.1f}"


def _percent(value: float) -> str:
    return "." if value == 0 else "100" if value == 100 else f"{value:.1f}"
