"""What adapters look like from the inside: how they collide, how far they move weights, who owns what (layer L3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from clora_cli.base.errors import CloraError
from clora_cli.base.progress import Progress, Silent
from clora_cli.presenting.figures.magnitudes import Shift
from clora_cli.reporting.collect import Package
from clora_cli.reporting.differences import Difference, distinct_labels
from clora_cli.reporting.examination import examined
from clora_cli.store.ledger import Ledger, read_ledger, read_masks

__all__ = ["Anatomy", "examine", "representatives"]


@dataclass(frozen=True)
class Anatomy:
    """Packages, examined, by label.

    Attributes:
        differences: Every pair of adapters, or of a sample of many; of packages with two adapters or more.
        earlier: Each adapter against all before it, of the same packages.
        shifts: The magnitudes of each adapter's deltas, by its task.
        ledgers: Who owns what, of packages whose adapters share one LoRA.
        notes: What could not be examined, and why.
    """

    differences: dict[str, Difference] = field(default_factory=dict)
    earlier: dict[str, Difference] = field(default_factory=dict)
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
    found = Anatomy()
    for label, package in representatives(packages).items():
        try:
            _examine(label, package, found, progress or Silent())
        except CloraError as error:
            found.notes.append(f"{label}: {error}")
    return found


def _examine(label: str, package: Package, found: Anatomy, progress: Progress) -> None:
    seen = examined(package.path, package.members, progress)
    found.shifts[label] = dict(zip(distinct_labels(package.members), seen.shifts, strict=True))
    if seen.earlier is not None and seen.pairs is not None:
        found.earlier[label], found.differences[label] = seen.earlier, seen.pairs
    if all(read_masks(member) for member in package.members):
        found.ledgers[label] = read_ledger(package.members)
