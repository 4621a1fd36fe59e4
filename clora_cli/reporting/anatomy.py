"""A look inside adapters: how they collide, how far they move the weights, who owns what (layer L3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from clora_cli.base.errors import CloraError
from clora_cli.base.progress import Progress, Silent
from clora_cli.reporting.collect import Package
from clora_cli.reporting.differences import Difference, distinct_labels
from clora_cli.reporting.examination import examined
from clora_cli.reporting.shifts import Shift
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.ledger import Ledger, read_ledger, read_masks

__all__ = ["Anatomy", "examine", "representatives", "shared_ledger"]


@dataclass(frozen=True)
class Anatomy:
    """What was measured of packages, by their labels.

    Attributes:
        differences: Every pair of adapters, or of a sample of many; for packages of two adapters or more.
        earlier: Each adapter against all before it, for the same packages.
        shifts: The magnitudes of each adapter's deltas, by its task.
        ledgers: Who owns what, for packages whose adapters share one LoRA.
        notes: What could not be examined, and why.
    """

    differences: dict[str, Difference] = field(default_factory=dict)
    earlier: dict[str, Difference] = field(default_factory=dict)
    shifts: dict[str, dict[str, Shift]] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def representatives(packages: Sequence[Package]) -> dict[str, Package]:
    """Return one package of each method, by a distinct label.

    Of packages in run folders it is the one of the first order and there of the lowest seed; all others are kept.
    """
    chosen: dict[str, Package] = {}
    for package in packages:
        key = package.folder.name or str(package.path)
        rival = chosen.setdefault(key, package)
        if package.folder.root == rival.folder.root and (package.folder.seed or 0) < (rival.folder.seed or 0):
            chosen[key] = package
    repeated = Counter(package.name for package in chosen.values())
    return {
        package.name if repeated[package.name] == 1 else f"{package.name} {package.path}": package
        for package in chosen.values()
    }


def examine(packages: Sequence[Package], progress: Progress | None = None) -> Anatomy:
    """Examine one package of each method; a package that cannot be examined gets a note and stops nothing."""
    anatomy = Anatomy()
    for label, package in representatives(packages).items():
        try:
            _examine(label, package, anatomy, progress or Silent())
        except CloraError as error:
            anatomy.notes.append(f"{label}: {error}")
    return anatomy


def shared_ledger(members: Sequence[AdapterFolder]) -> Ledger | None:
    """Return who owns what, if all manifests say that the adapters start from one shared LoRA; else None.

    Raises:
        ArtifactError: If a mask is damaged.
        MismatchError: If the manifests say so, but the adapters do not share a LoRA.
    """
    shared = all(member.manifest is not None and member.manifest.method.start == "shared" for member in members)
    return read_ledger(members) if members and shared else None


def _examine(label: str, package: Package, anatomy: Anatomy, progress: Progress) -> None:
    examination = examined(package.path, package.members, progress)
    anatomy.shifts[label] = dict(zip(distinct_labels(package.members), examination.shifts, strict=True))
    if examination.earlier is not None and examination.pairs is not None:
        anatomy.earlier[label], anatomy.differences[label] = examination.earlier, examination.pairs
    if all(read_masks(member) for member in package.members):
        anatomy.ledgers[label] = read_ledger(package.members)
