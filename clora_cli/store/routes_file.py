"""Where inputs went, as the JSON file that ``clora route --confusion`` writes (layer L1; docs/package-format.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import read_json
from clora_cli.base.records import Check, listed, made_of, maybe, name, number, whole, wrong
from clora_cli.store.routes import Routes

__all__ = ["SCHEMA", "read_routes", "routes_json"]

SCHEMA = "clora.routes/1"
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


def routes_json(routes: Routes) -> dict[str, Any]:
    """Return the confusion matrix and the mean weights of all inputs whose task is known as a JSON object.

    ``counts`` and ``weights`` have a row for each of ``tasks`` and a column for each of ``adapters``; ``accuracy`` is null
    for tasks that no adapter knows.
    """
    tasks = [number for number, task in enumerate(routes.tasks) if task]
    return {
        "schema": SCHEMA,
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
    """Read what ``routes_json`` returned from a file; it has no panels.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    content = read_json(path, "routes file")
    broken = wrong(content, _WANTED)
    if not broken and not {name for names in content["known_by"] for name in names} <= set(content["adapters"]):
        broken = "known_by"
    if broken:
        raise _damage(path, f"{broken} is not what it should be")
    routes = _routes(content)
    rows = (routes.knows, routes.counts, routes.abstained, routes.weights)
    columns = {len(row) for row in (*routes.counts, *routes.weights)}
    if {len(row) for row in rows} != {len(routes.tasks)} or columns - {len(routes.adapters)} or 0 in routes.inputs:
        raise _damage(path, "rows do not fit")
    return routes


def _routes(content: Mapping[str, Any]) -> Routes:
    adapters = list(content["adapters"])
    return Routes(
        adapters=tuple(adapters),
        tasks=tuple(content["tasks"]),
        knows=tuple(tuple(map(adapters.index, names)) for names in content["known_by"]),
        counts=tuple(map(tuple, content["counts"])),
        abstained=tuple(content["abstained"]),
        weights=tuple(map(tuple, content["weights"])),
        settings=content["settings"],
    )


def _damage(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"routes file {path} is damaged ({reason}); write it again with `clora route`", code="routes-file-damaged"
    )
