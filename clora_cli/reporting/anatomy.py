"""What adapters look like from the inside: how they collide, how far they move weights, who owns what (layer L3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from clora_cli.errors import CloraError
from clora_cli.progress import Advance, Progress, Silent
from clora_cli.reporting.collect import Package
from clora_cli.reporting.differences import Difference, difference
from clora_cli.reporting.figures.shifts import Shift, measure_shift
from clora_cli.subspace import Ledger, read_ledger, read_masks

__all__ = ["Anatomy", "examine", "representatives"]


@dataclass(frozen=True)
class Anatomy:
    """Packages, examined, by label.

    Attributes:
        differences: Every pair of adapters, and each against all before it; of packages with two adapters or more.
        shifts: The magnitudes of each adapter's deltas, by its task.
        ledgers: Who owns what, of packages whose adapters share one LoRA.
        notes: What could not be examined, and why.
    """

    differences: dict[str, Difference] = field(default_factory=dict)
    shifts: dict[str, dict[str, Shift]] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def representatives(packages: Sequence[Package]) -> dict[str, Package]:
    """Return one package of each method, by a label of its own.

    Of those in run folders it is that of the first order and there of the lowest seed; all others are there as they are.
    """
    chosen: dict[str, Package] = {}
    for package in packages:
        key = package.place.name or str(package.path)
        known = chosen.setdefault(key, package)
        if package.place.root == known.place.root and (package.place.seed or 0) < (known.place.seed or 0):
            chosen[key] = package
    repeated = Counter(package.name for package in chosen.values())
    return {one.name if repeated[one.name] == 1 else f"{one.name} {one.path}": one for one in chosen.values()}


def examine(packages: Sequence[Package], progress: Progress | None = None) -> Anatomy:
    """Examine one package of each method; what cannot be examined is noted, never refused."""
    found, chosen = Anatomy(), representatives(packages)
    with (progress or Silent()).track("examine adapters", sum(len(one.members) for one in chosen.values())) as advance:
        for label, package in chosen.items():
            try:
                _examine(label, package, found, advance)
            except CloraError as error:
                found.notes.append(f"{label}: {error}")
    return found


def _examine(label: str, package: Package, found: Anatomy, advance: Advance) -> None:
    repeated = Counter(member.task for member in package.members)
    shifts = {}
    for member in package.members:
        name = member.task if repeated[member.task] == 1 else str(member.path)
        shifts[name] = measure_shift(member)
        advance(1, label)
    found.shifts[label] = shifts
    if len(package.members) > 1:
        found.differences[label] = difference(package.members)
    if all(read_masks(member) for member in package.members):
        found.ledgers[label] = read_ledger(package.members)
