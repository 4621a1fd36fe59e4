"""How any adapters differ: two, a list or a package, as tables and as JSON (layer L3).

``read_adapters`` reads and checks them, ``difference`` measures them, the rest renders what it returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clora_cli.algebra.comparison import EPSILON, Comparison, Deltas, Scope, Survey, survey
from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import ArtifactError, MismatchError, OptionError
from clora_cli.base.legible import markdown
from clora_cli.base.progress import Progress, Silent
from clora_cli.presenting.markdown import table
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.package import read_package

__all__ = [
    "COUNTED",
    "DIFF_SCHEMA",
    "MEASURES",
    "Difference",
    "difference",
    "difference_json",
    "difference_table",
    "distinct_labels",
    "mean_over_pairs",
    "read_adapters",
    "read_deltas",
    "sampling_note",
    "value_of",
]

DIFF_SCHEMA = "clora.diff/1"
# What a pair is measured by: a field of Comparison, with hyphens, to what it is.
MEASURES = {
    "orthogonal-overlap": "OO, sum over sites of ||A_1 A_2^T||_F^2 of lora_A (N-LoRA, eq. 7)",
    "awom": "sum over sites of ||D_1^T D_2||_F of the deltas (N-LoRA, eq. 8)",
    "cosine": "<D_1, D_2>_F / (||D_1||_F ||D_2||_F)",
    "collision-rate": "share of the positions at which both entries count (N-LoRA, eq. 11; its mean over pairs is ACR, eq. 10)",
    "same-signs": "share of the positions at which both count and agree in sign (PS-LoRA, Table 6)",
    "opposite-signs": "share of the positions at which both count and differ in sign (PS-LoRA, Table 6)",
}
_OWN = {
    "norm": "Frobenius norm of all deltas together",
    "generalized-sparsity": "GSR, ||D||_1 / (sqrt(out in) ||D||_F), mean over sites (N-LoRA, eq. 16); 1 is dense",
    "density": "share of the entries that count",
    "effective-rank": "exp(entropy of the singular values over their sum), mean over sites",
    "stable-rank": "||D||_F^2 / ||D||_2^2, mean over sites",
}
COUNTED = ("collision-rate", "same-signs", "opposite-signs")  # depend on epsilon
_UNBOUNDED = {"norm", "orthogonal-overlap", "awom"}  # no shares: written with four significant digits


@dataclass(frozen=True, eq=False)
class Difference:
    """Adapters and how they differ.

    Attributes:
        members: The adapters, in order.
        labels: A distinct name of each: its task, or its path where tasks repeat.
        survey: The measures, by position.
    """

    members: tuple[AdapterFolder, ...]
    labels: tuple[str, ...]
    survey: Survey


def read_adapters(paths: Iterable[Path]) -> list[AdapterFolder]:
    """Read the adapters to compare, ordered by stage; those of one stage, and bare PEFT folders at the end, as given.

    Args:
        paths: Adapter folders and packages, in any mixture; tasks may repeat, as across methods.

    Raises:
        ArtifactError: If a path is missing, is no adapter or package, or is damaged.
        OptionError: If there are fewer than two.
        MismatchError: If two stand on different base models.
    """
    found = read_package(paths, distinct=False)
    members = list({member.path.resolve(): member for member in found}.values())
    if len(members) < 2:
        raise OptionError(f"a difference needs two adapters, and {members[0].path} is one; name another, or a package")
    return members


def read_deltas(members: Sequence[AdapterFolder]) -> dict[str, Deltas]:
    """Read the deltas of adapters, by the adapter's path and by site.

    Raises:
        ArtifactError: If an adapter is damaged, or holds numbers that are not finite.
        MismatchError: If an adapter is no plain LoRA.
    """
    deltas = {str(member.path): member.deltas() for member in members}
    for path, adapter in deltas.items():
        if odd := next((site for site, delta in adapter.items() if not _is_finite(delta)), None):
            raise ArtifactError(f"adapter {path} holds numbers at '{odd}' that are not finite; make it again")
    return deltas


def difference(
    members: Sequence[AdapterFolder],
    *,
    epsilon: float = EPSILON,
    scope: Scope = "all",
    rows: int = 0,
    progress: Progress | None = None,
) -> Difference:
    """Measure adapters, every pair of them, and each against all before it.

    Args:
        members: Two or more.
        epsilon: Share of its delta's largest magnitude that an entry must exceed to count, in [0, 1).
        scope: What to measure, as for ``survey``.
        rows: Rows of each site to count collisions in; 0 for all.
        progress: Is told of each site.

    Raises:
        ArtifactError: If an adapter is damaged, or holds numbers that are not finite.
        MismatchError: If an adapter is no plain LoRA, shapes differ, or no two share a site.
        OptionError: If epsilon is out of its range.
    """
    deltas = read_deltas(members)
    sites = Counter(site for adapter in deltas.values() for site in adapter)
    if max(sites.values()) < 2:
        raise MismatchError(f"{', '.join(deltas)} share no site; give adapters of the same layers")
    with (progress or Silent()).track("compare", len(sites)) as advance:
        found = survey(deltas, epsilon=epsilon, scope=scope, rows=rows, advance=advance)
    return Difference(tuple(members), tuple(distinct_labels(members)), found)


def mean_over_pairs(found: Difference, measure: str) -> float | None:
    """Return the mean of a measure over the pairs that have it; None if there is none. For two adapters, their value."""
    pairs = found.survey.pairs
    values = [
        value for k in range(len(pairs)) for j in range(k) if (value := value_of(pairs[k][j], measure)) is not None
    ]
    return sum(values) / len(values) if values else None


def difference_table(found: Difference, measure: str | None = None) -> str:
    """Return Markdown tables: each adapter, each against all earlier ones, and a matrix for each measure of pairs.

    Args:
        found: What to tell.
        measure: Tell this measure of pairs alone; a key of ``MEASURES``.
    """
    names = [measure] if measure else list(MEASURES)
    parts = []
    if not measure:
        parts.append(_adapters_table(found))
    parts.append(_earlier_table(found, names))
    if len(found.labels) > 2:
        parts += [_matrix_table(found, name) for name in names]
    shown = {**({} if measure else _OWN), **{name: MEASURES[name] for name in names}}
    legend = [f"- `{name}`: {text}" for name, text in shown.items()]
    if not measure or measure in COUNTED:
        legend.append(
            f"- An entry counts where it exceeds {found.survey.epsilon:g} of its delta's largest magnitude (`--epsilon`)."
        )
        legend += [f"- {note}." for note in sampling_note(found.survey)]
    return "\n".join([*parts, *legend]) + "\n"


def sampling_note(found: Survey) -> list[str]:
    """Say how collisions were estimated; nothing where all entries were counted."""
    if not found.rows:
        return []
    return [
        f"Collisions and signs are estimated from {found.rows} rows of each layer, drawn by the layer's name, "
        f"each share to within {found.margin:.2g} (95 %)"
    ]


def difference_json(found: Difference) -> dict[str, Any]:
    """Return everything as a JSON object; a value that does not exist is null, shares lie in [0, 1]."""
    count = range(len(found.labels))
    pairs = found.survey.pairs
    matrices = {name: [[value_of(pairs[k][j], name) for j in count] for k in count] for name in MEASURES}
    own = [
        {"label": label, "path": str(member.path), "task": member.task, "stage": member.stage, "sha256": member.digest}
        | _hyphened(asdict(measures))
        for label, member, measures in zip(found.labels, found.members, found.survey.adapters, strict=True)
    ]
    return {
        "schema": DIFF_SCHEMA,
        "epsilon": found.survey.epsilon,
        "sampled_rows": found.survey.rows,
        "margin": found.survey.margin,
        "measures": _OWN | MEASURES,
        "adapters": own,
        "shared_sites": [[value_of(pairs[k][j], "shared_sites") for j in count] for k in count],
        "pairs": matrices,
        "mean": {name: mean_over_pairs(found, name) for name in MEASURES},
        "earlier": [
            entry and {name: value_of(entry, name) for name in ("shared_sites", *MEASURES)}
            for entry in found.survey.earlier
        ],
    }


def _adapters_table(found: Difference) -> str:
    rows = []
    for label, measures in zip(found.labels, found.survey.adapters, strict=True):
        values = _hyphened(asdict(measures))
        rows.append([markdown(label), str(measures.sites), *(_number(values[name], name) for name in _OWN)])
    return f"## Adapters\n\n{table(['adapter', 'sites', *_OWN], rows)}"


def _earlier_table(found: Difference, names: Sequence[str]) -> str:
    if len(found.labels) == 2:
        title, rows = f"{markdown(found.labels[1])} against {markdown(found.labels[0])}", [(found.labels[1], 1)]
    else:
        title = "Each against all earlier ones (overlaps summed, the rest against the sum of their deltas)"
        rows = [(label, index) for index, label in enumerate(found.labels) if index]
    cells = [
        [markdown(label), _number(value_of(found.survey.earlier[index], "shared_sites")), *_cells(found, index, names)]
        for label, index in rows
    ]
    return f"## {title}\n\n{table(['adapter', 'shared sites', *names], cells)}"


def _cells(found: Difference, index: int, names: Iterable[str]) -> list[str]:
    return [_number(value_of(found.survey.earlier[index], name), name) for name in names]


def _matrix_table(found: Difference, name: str) -> str:
    pairs, labels = found.survey.pairs, [markdown(label) for label in found.labels]
    rows = [
        [labels[k], *(_number(value_of(pairs[k][j], name), name) if j < k else "" for j in range(len(labels) - 1))]
        for k in range(1, len(labels))
    ]
    mean = _number(mean_over_pairs(found, name), name)
    return f"## {name} of pairs (mean {mean})\n\n{table(['', *labels[:-1]], rows)}"


def distinct_labels(members: Sequence[AdapterFolder]) -> list[str]:
    """Return a distinct name of each adapter: its task, or its path where tasks repeat."""
    repeated = Counter(member.task for member in members)
    return [member.task if repeated[member.task] == 1 else str(member.path) for member in members]


def _is_finite(delta: Factor | Any) -> bool:
    parts = (delta.a, delta.b) if isinstance(delta, Factor) else (delta,)
    return all(part.isfinite().all().item() for part in parts)


def _hyphened(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in values.items()}


def value_of(comparison: Comparison | None, name: str) -> float | None:
    """Return a measure of a comparison, by its key in ``MEASURES``; None if there is none."""
    return None if comparison is None else getattr(comparison, name.replace("-", "_"))


def _number(value: float | None, name: str = "") -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if name in _UNBOUNDED else f"{round(value, 4) + 0.0:.4f}"  # + 0.0: never "-0.0000"
