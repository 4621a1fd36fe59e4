"""How adapters overlap and differ, as Markdown tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from clora_cli.algebra.comparison import Comparison, Survey
from clora_cli.base.legible import markdown
from clora_cli.presenting.cells import MISSING
from clora_cli.presenting.markdown import table
from clora_cli.reporting.differences import COUNTED, MEASURES, OWN_MEASURES, Difference, mean_over_pairs, value_of

__all__ = ["DIFF_SCHEMA", "difference_json", "difference_table", "sampling_note"]

DIFF_SCHEMA = "clora.diff/1"
_UNBOUNDED = {"norm", "orthogonal-overlap", "awom"}  # not shares: written with four significant digits


def difference_table(difference: Difference, measure: str | None = None) -> str:
    """Return Markdown tables: each adapter, each against all earlier ones, and a matrix for each measure of pairs.

    Args:
        difference: The adapters and their measures.
        measure: Show only this measure of pairs; a key of ``MEASURES``.
    """
    names = [measure] if measure else list(MEASURES)
    parts = [] if measure else [_adapters_table(difference)]
    parts.append(_earlier_table(difference, names))
    if len(difference.labels) > 2:
        parts += [_pairs_table(difference, name) for name in names]
    return "\n".join([*parts, *_legend(difference.survey, measure)]) + "\n"


def sampling_note(survey: Survey) -> str:
    """Return how collisions were estimated; ``""`` if all entries were counted."""
    if not survey.rows:
        return ""
    return (
        f"Collisions and signs are estimated from {survey.rows} rows of each layer, drawn by the layer's name, "
        f"each share to within {survey.margin:.2g} (95 %)"
    )


def difference_json(difference: Difference) -> dict[str, Any]:
    """Return everything as a JSON object; a value that does not exist is null, shares lie in [0, 1]."""
    survey = difference.survey
    own = [
        {"label": label, "path": str(member.path), "task": member.task, "stage": member.stage, "sha256": member.digest}
        | _hyphened(asdict(measures))
        for label, member, measures in zip(difference.labels, difference.members, survey.adapters, strict=True)
    ]
    return {
        "schema": DIFF_SCHEMA,
        "epsilon": survey.epsilon,
        "sampled_rows": survey.rows,
        "margin": survey.margin,
        "measures": OWN_MEASURES | MEASURES,
        "adapters": own,
        "shared_sites": _matrix(difference, "shared_sites"),
        "pairs": {name: _matrix(difference, name) for name in MEASURES},
        "mean": {name: mean_over_pairs(difference, name) for name in MEASURES},
        "earlier": [
            comparison and {name: value_of(comparison, name) for name in ("shared_sites", *MEASURES)}
            for comparison in survey.earlier
        ],
    }


def _matrix(difference: Difference, name: str) -> list[list[float | None]]:
    adapters = range(len(difference.labels))
    return [[value_of(difference.survey.pairs[row][column], name) for column in adapters] for row in adapters]


def _adapters_table(difference: Difference) -> str:
    rows = []
    for label, measures in zip(difference.labels, difference.survey.adapters, strict=True):
        values = _hyphened(asdict(measures))
        rows.append([markdown(label), str(measures.sites), *(_number(values[name], name) for name in OWN_MEASURES)])
    return f"## Adapters\n\n{table(['adapter', 'sites', *OWN_MEASURES], rows)}"


def _earlier_table(difference: Difference, names: Sequence[str]) -> str:
    labels = [markdown(label) for label in difference.labels]
    title = (
        f"{labels[1]} against {labels[0]}"
        if len(labels) == 2
        else "Each against all earlier ones (overlaps summed, the rest against the sum of their deltas)"
    )
    rows = [
        [label, *_cells(comparison, names)]
        for label, comparison in zip(labels[1:], difference.survey.earlier[1:], strict=True)
    ]
    return f"## {title}\n\n{table(['adapter', 'shared sites', *names], rows)}"


def _cells(comparison: Comparison | None, names: Iterable[str]) -> list[str]:
    return [
        _number(value_of(comparison, "shared_sites")),
        *(_number(value_of(comparison, name), name) for name in names),
    ]


def _pairs_table(difference: Difference, name: str) -> str:
    labels, values = [markdown(label) for label in difference.labels], _matrix(difference, name)
    before_last = range(len(labels) - 1)
    rows = [
        [labels[later], *(_number(values[later][earlier], name) if earlier < later else "" for earlier in before_last)]
        for later in range(1, len(labels))
    ]
    mean = _number(mean_over_pairs(difference, name), name)
    return f"## {name} of pairs (mean {mean})\n\n{table(['', *labels[:-1]], rows)}"


def _legend(survey: Survey, measure: str | None) -> list[str]:
    shown = {measure: MEASURES[measure]} if measure else OWN_MEASURES | MEASURES
    lines = [f"- `{name}`: {meaning}" for name, meaning in shown.items()]
    if not measure or measure in COUNTED:
        lines.append(
            f"- An entry counts where it exceeds {survey.epsilon:g} of its delta's largest magnitude (`--epsilon`)."
        )
        if note := sampling_note(survey):
            lines.append(f"- {note}.")
    return lines


def _hyphened(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in values.items()}


def _number(value: float | None, name: str = "") -> str:
    if value is None:
        return MISSING
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if name in _UNBOUNDED else f"{round(value, 4) + 0.0:.4f}"  # + 0.0: never "-0.0000"
