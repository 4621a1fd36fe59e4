"""Methods as points: what sparsity, collisions and numbers kept have to do with scores and forgetting (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch

from clora_cli.algebra.comparison import Survey, survey
from clora_cli.algebra.lora import Factor
from clora_cli.reporting.anatomy import representatives
from clora_cli.reporting.assembly import Report
from clora_cli.reporting.collect import Package
from clora_cli.reporting.differences import read_deltas
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["MethodPoint", "method_points", "numbers_kept"]


@dataclass(frozen=True)
class MethodPoint:
    """A method with a package of it and its scores.

    Attributes:
        label: The method.
        sparsity: Mean GSR of its adapters (N-LoRA, eq. 16), in (0, 1]; None where all are zero.
        collisions: Mean collision rate of each adapter with the sum of all earlier ones, in [0, 1]; None for one adapter.
        kept: How many numbers its adapters hold, see ``numbers_kept``.
        score: Average performance over all orders, percent.
        forgetting: Forgetting rate over all orders, percent points.
    """

    label: str
    sparsity: float | None
    collisions: float | None
    kept: int
    score: float
    forgetting: float


def method_points(report: Report) -> list[MethodPoint]:
    """Return a point for each method that the report has both scores and adapters of; one package stands for a method.

    Raises:
        CloraError: If an adapter is damaged, or is no plain LoRA.
    """
    results, points = report.results, []
    packages = representatives(report.material.packages)
    for group in results.groups:
        methods = {run.method for series in group.series.values() for run in series.runs}
        named = [packages[name] for name in (group.label, *methods) if name in packages]
        if package := next(iter(named), None):
            measured = _measured(package)
            sparsities = [own.generalized_sparsity for own in measured.adapters if own.generalized_sparsity]
            rates = [each.collision_rate for each in measured.earlier if each is not None]
            score, forgetting = (
                group.average(results.orders, name).mean for name in ("average-performance", "forgetting-rate")
            )
            kept = numbers_kept(package.members)
            points.append(MethodPoint(group.label, _mean(sparsities), _mean(rates), kept, score, forgetting))
    return points


def numbers_kept(members: Sequence[AdapterFolder]) -> int:
    """Return how many numbers adapters hold together: equal ``lora_A`` count once, zeros count nothing."""
    seen: set[bytes] = set()
    total = 0
    for member in members:
        for delta in member.deltas().values():
            for part in (delta.a, delta.b) if isinstance(delta, Factor) else (delta,):
                digest = sha256(part.detach().contiguous().view(torch.uint8).numpy().tobytes()).digest()
                total += 0 if digest in seen else int(part.count_nonzero())
                seen.add(digest)
    return total


def _measured(package: Package) -> Survey:
    return survey(read_deltas(package.members))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
