"""Where inputs went: a confusion matrix as text and JSON, mean weights as heat maps (layer L3)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import read_json
from clora_cli.base.records import Check, listed, made_of, maybe, name, number, whole, wrong
from clora_cli.presenting.canvas import check_ending, save, short
from clora_cli.presenting.figures.route_maps import compose
from clora_cli.store.routes import Routes

__all__ = ["ROUTES_SCHEMA", "check_ending", "confusion_table", "draw_routes", "read_routes", "routes_json"]

_HEADLINE = "adapters chosen, % of each task's inputs"
ROUTES_SCHEMA = "clora.routes/1"
_MOST_ADAPTERS = 16  # columns of a matrix that a terminal can show
_MOST_TASKS = 30
_SETTINGS = made_of(
    {
        "similarity?": name,
        "top_k?": whole(),
        "temperature?": number(0),
        "threshold?": maybe(number()),
        "sites?": listed(name),
    }
)
_WANTED: Mapping[str, Check] = {
    "adapters": listed(name),
    "tasks": listed(name),
    "known_by": listed(listed(name)),
    "counts": listed(listed(whole())),
    "abstained": listed(whole()),
    "weights": listed(listed(number(0, 1.001))),  # rounded ones add up to a little more
    "settings": _SETTINGS,
}
_WIDTH = 110  # characters that adapters' names may take before numbers stand for them


def confusion_table(routes: Routes) -> str:
    """Return how many percent of each task's inputs chose each adapter, and how many were right, as aligned plain text.

    With more adapters than fit into columns, each task's three most frequent ones are named; of many tasks those with
    the lowest accuracy are shown.
    """
    tasks = [number for number, task in enumerate(routes.tasks) if task]
    shown = tasks
    if len(tasks) > _MOST_TASKS:
        shown = sorted(tasks, key=lambda task: (routes.accuracy(task) is None, routes.accuracy(task)))[:_MOST_TASKS]
    lines = _matrix(routes, shown) if len(routes.adapters) <= _MOST_ADAPTERS else _favourites(routes, shown)
    if hidden := len(tasks) - len(shown):
        lines.append(f"… and {hidden} tasks of higher accuracy")
    if routes.macro is not None:
        known = routes.known
        counted = f"over {len(known)} tasks, {sum(routes.inputs[task] for task in known)} inputs"
        lines.append(f"right: {routes.macro:.2f} % (macro), {routes.micro:.2f} % (micro) {counted}")
    return "\n".join(lines)


def routes_json(routes: Routes) -> dict[str, Any]:
    """Return the confusion matrix and the mean weights of all inputs whose task is known as a JSON object.

    ``counts`` and ``weights`` have a row for each of ``tasks`` and a column for each of ``adapters``; ``accuracy`` is null
    for tasks that no adapter knows.
    """
    tasks = [number for number, task in enumerate(routes.tasks) if task]
    return {
        "schema": ROUTES_SCHEMA,
        "adapters": list(routes.adapters),
        "tasks": [routes.tasks[task] for task in tasks],
        "inputs": [routes.inputs[task] for task in tasks],
        "counts": [list(routes.counts[task]) for task in tasks],
        "abstained": [routes.abstained[task] for task in tasks],
        "known_by": [[routes.adapters[adapter] for adapter in routes.knows[task]] for task in tasks],
        "accuracy": [routes.accuracy(task) for task in tasks],
        "macro": routes.macro,
        "micro": routes.micro,
        "weights": [[round(weight, 6) for weight in routes.weights[task]] for task in tasks],
        "settings": dict(routes.settings),
    }


def read_routes(path: Path) -> Routes:
    """Read what ``routes_json`` returned from a file, but for panels, which it leaves out.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    content = read_json(path, "routes file")
    odd = wrong(content, _WANTED)
    adapters, tasks = list(content["adapters"] if not odd else ()), list(content["tasks"] if not odd else ())
    if not odd and not {name for names in content["known_by"] for name in names} <= set(adapters):
        odd = "known_by"
    if odd:
        raise ArtifactError(
            f"routes file {path} is damaged ({odd} is not what it should be); write it again with `clora route`"
        )
    routes = Routes(
        adapters=tuple(adapters),
        tasks=tuple(tasks),
        knows=tuple(tuple(map(adapters.index, names)) for names in content["known_by"]),
        counts=tuple(map(tuple, content["counts"])),
        abstained=tuple(content["abstained"]),
        weights=tuple(map(tuple, content["weights"])),
        settings=content["settings"],
    )
    rows = (routes.knows, routes.counts, routes.abstained, routes.weights)
    columns = {len(row) for row in (*routes.counts, *routes.weights)}
    if {len(each) for each in rows} != {len(tasks)} or columns - {len(adapters)} or 0 in routes.inputs:
        raise ArtifactError(f"routes file {path} is damaged (rows do not fit); write it again with `clora route`")
    return routes


def draw_routes(routes: Routes, path: str | Path) -> None:
    """Draw the mean weights, tasks by adapters, with the highest of each row outlined; below them, layer by layer.

    Args:
        routes: What to draw, of at least one input.
        path: The file; its ending, one of ``png svg pdf``, is the format.

    Raises:
        OptionError: If the ending is another.
        CloraError: If the file cannot be written.
    """
    save(Path(path), lambda figure: compose(figure, routes))


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
    named = {knows[0] for knows in routes.knows if knows}
    legend = _legend(routes) if numbered and len(named) < len(names) else []
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
        named = [*zip(routes.counts[task], routes.adapters, strict=True), (routes.abstained[task], "base model")]
        most = sorted((pair for pair in named if pair[0]), key=lambda pair: -pair[0])[:3]
        favourites = ", ".join(f"{short(name)} {_percent(100 * count / total)}" for count, name in most)
        rows.append([short(routes.tasks[task]), str(total), _right(routes, task), favourites])
    return [_HEADLINE, *_aligned(rows, last_left=True)]


def _aligned(rows: Sequence[Sequence[str]], last_left: bool = False) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, len(widths) - 1} if last_left else {0}
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _right(routes: Routes, task: int) -> str:
    right = routes.accuracy(task)
    return "-" if right is None else f"{right:.1f}"


def _percent(value: float) -> str:
    return "." if value == 0 else "100" if value == 100 else f"{value:.1f}"
