"""Sweeps: methods that differ in settings which were crossed, told by these settings (layer L3)."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.base.sweep_labels import read_sweep_label
from clora_cli.reporting.method_results import Group, Results

__all__ = ["Point", "Sweep", "sweeps_of"]


@dataclass(frozen=True, eq=False)
class Point:
    """One point of a sweep.

    Attributes:
        values: The settings' values as typed, in the sweep's order.
        group: The runs.
    """

    values: tuple[str, ...]
    group: Group


@dataclass(frozen=True, eq=False)
class Sweep:
    """The points of one crossing.

    Attributes:
        stem: The method's label without its settings.
        settings: The settings' names; the first is a figure's horizontal axis.
        points: In the results' order.
    """

    stem: str
    settings: tuple[str, ...]
    points: tuple[Point, ...]

    @property
    def horizontal(self) -> list[str]:
        """The values of the first setting: in the order of numbers if they are numbers, else in that of the points."""
        values = list(dict.fromkeys(point.values[0] for point in self.points))
        return sorted(values, key=float) if all(map(_is_number, values)) else values

    @property
    def lines(self) -> dict[tuple[str, ...], dict[str, Group]]:
        """By the values of all settings but the first: the runs by that of the first."""
        found: dict[tuple[str, ...], dict[str, Group]] = {}
        for point in self.points:
            found.setdefault(point.values[1:], {})[point.values[0]] = point.group
        return found


def sweeps_of(results: Results) -> list[Sweep]:
    """Return the sweeps among the methods, those of two points or more."""
    found: dict[tuple[str, tuple[str, ...]], list[Point]] = {}
    for group in results.groups:
        if read := read_sweep_label(group.label):
            stem, values = read
            found.setdefault((stem, tuple(values)), []).append(Point(tuple(values.values()), group))
    return [Sweep(stem, names, tuple(points)) for (stem, names), points in found.items() if len(points) > 1]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
