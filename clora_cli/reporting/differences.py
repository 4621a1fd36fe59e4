"""How adapters overlap and differ: two, a list or a package (layer L3).

``read_adapters`` reads and checks the adapters, ``difference`` measures them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.algebra.comparison import EPSILON, Comparison, Deltas, Scope, Survey, survey
from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import ArtifactError, MismatchError, OptionError
from clora_cli.base.progress import Progress, Silent
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.package import read_package

__all__ = [
    "COUNTED",
    "MEASURES",
    "OWN_MEASURES",
    "Difference",
    "difference",
    "distinct_labels",
    "mean_over_pairs",
    "read_adapters",
    "read_deltas",
    "value_of",
]

# The measures of a pair, with hyphens for the underscores of Comparison's fields, and what each is.
MEASURES = {
    "orthogonal-overlap": "OO, sum over sites of ||A_1 A_2^T||_F^2 of lora_A (N-LoRA, eq. 7)",
    "awom": "sum over sites of ||D_1^T D_2||_F of the deltas (N-LoRA, eq. 8)",
    "cosine": "<D_1, D_2>_F / (||D_1||_F ||D_2||_F)",
    "collision-rate": "share of the positions at which both entries count (N-LoRA, eq. 11; its mean over pairs is ACR, eq. 10)",
    "same-signs": "share of the positions at which both count and agree in sign (PS-LoRA, Table 6)",
    "opposite-signs": "share of the positions at which both count and differ in sign (PS-LoRA, Table 6)",
}
# The measures of a single adapter.
OWN_MEASURES = {
    "norm": "Frobenius norm of all deltas together",
    "generalized-sparsity": "GSR, ||D||_1 / (sqrt(out in) ||D||_F), mean over sites (N-LoRA, eq. 16); 1 is dense",
    "density": "share of the entries that count",
    "effective-rank": "exp(entropy of the singular values over their sum), mean over sites",
    "stable-rank": "||D||_F^2 / ||D||_2^2, mean over sites",
}
COUNTED = ("collision-rate", "same-signs", "opposite-signs")  # these depend on epsilon


@dataclass(frozen=True, eq=False)
class Difference:
    """Adapters and how they overlap and differ.

    Attributes:
        members: The adapters, in order.
        labels: A distinct name of each: its task, or its path if another has the same task.
        survey: The measures, by position.
    """

    members: tuple[AdapterFolder, ...]
    labels: tuple[str, ...]
    survey: Survey


def read_adapters(paths: Iterable[Path]) -> list[AdapterFolder]:
    """Read the adapters to compare, ordered by stage; adapters of one stage stay in the given order, PEFT folders come last.

    Args:
        paths: Adapter folders and packages, in any mixture; tasks may repeat, as across methods.

    Raises:
        ArtifactError: If a path is missing, damaged, or neither an adapter nor a package.
        OptionError: If there are fewer than two.
        MismatchError: If two have different base models.
    """
    given = read_package(paths, distinct=False)
    members = list({member.path.resolve(): member for member in given}.values())
    if len(members) < 2:
        raise OptionError(
            f"a difference needs two adapters, and {members[0].path} is one; name another, or a package",
            code="difference-needs-two-adapters",
        )
    return members


def read_deltas(members: Sequence[AdapterFolder]) -> dict[str, Deltas]:
    """Read the deltas of adapters, by the adapter's path and by site.

    Raises:
        ArtifactError: If an adapter is damaged, or holds numbers that are not finite.
        MismatchError: If an adapter is not a plain LoRA.
    """
    deltas = {str(member.path): member.deltas() for member in members}
    for path, adapter in deltas.items():
        if broken := next((site for site, delta in adapter.items() if not _is_finite(delta)), None):
            raise ArtifactError(
                f"adapter {path} holds numbers at '{broken}' that are not finite; make it again",
                code="numbers-not-finite",
            )
    return deltas


def difference(
    members: Sequence[AdapterFolder],
    *,
    epsilon: float = EPSILON,
    scope: Scope = "all",
    rows: int = 0,
    progress: Progress | None = None,
) -> Difference:
    """Measure adapters: each alone, every pair, and each against all before it.

    Args:
        members: The adapters, two or more.
        epsilon: Share of its delta's largest magnitude that an entry must exceed to count, in [0, 1).
        scope: Which measures to take, as in ``survey``.
        rows: Rows of each site to count collisions in; 0 for all.
        progress: Follows the work site by site.

    Raises:
        ArtifactError: If an adapter is damaged, or holds numbers that are not finite.
        MismatchError: If an adapter is not a plain LoRA, shapes differ, or no two share a site.
        OptionError: If epsilon is out of its range.
    """
    deltas = read_deltas(members)
    sites = Counter(site for adapter in deltas.values() for site in adapter)
    if max(sites.values()) < 2:
        raise MismatchError(
            f"{', '.join(deltas)} share no site; give adapters of the same layers", code="no-shared-site"
        )
    with (progress or Silent()).track("compare", len(sites)) as advance:
        measured = survey(deltas, epsilon=epsilon, scope=scope, rows=rows, advance=advance)
    return Difference(tuple(members), tuple(distinct_labels(members)), measured)


def mean_over_pairs(difference: Difference, measure: str) -> float | None:
    """Return the mean of a measure over the pairs that have it; None if no pair has."""
    pairs = difference.survey.pairs
    values = [value_of(pairs[later][earlier], measure) for later in range(len(pairs)) for earlier in range(later)]
    existing = [value for value in values if value is not None]
    return sum(existing) / len(existing) if existing else None


def distinct_labels(members: Sequence[AdapterFolder]) -> list[str]:
    """Return a distinct name of each adapter: its task, or its path if another has the same task."""
    repeated = Counter(member.task for member in members)
    return [member.task if repeated[member.task] == 1 else str(member.path) for member in members]


def value_of(comparison: Comparison | None, name: str) -> float | None:
    """Return a measure of a comparison, by its key in ``MEASURES``; None if the comparison is None or lacks it."""
    return None if comparison is None else getattr(comparison, name.replace("-", "_"))


def _is_finite(delta: Factor | Any) -> bool:
    parts = (delta.a, delta.b) if isinstance(delta, Factor) else (delta,)
    return all(part.isfinite().all().item() for part in parts)
