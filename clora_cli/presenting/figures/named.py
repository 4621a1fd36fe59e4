"""Every figure that a report can draw by itself, by name: what ``clora report --figure`` takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clora_cli.base.errors import OptionError
from clora_cli.presenting.canvas import Compose, check_ending, save
from clora_cli.presenting.figures.capacity_bars import compose_capacity
from clora_cli.presenting.figures.cost_curves import compose_costs
from clora_cli.presenting.figures.curves import colour_numbers, compose_curves
from clora_cli.presenting.figures.delta_plane import compose_plane
from clora_cli.presenting.figures.difference_maps import compose_difference
from clora_cli.presenting.figures.drift import compose_drift
from clora_cli.presenting.figures.gain_maps import compose_gains
from clora_cli.presenting.figures.interference import compose_interference
from clora_cli.presenting.figures.loss_curves import compose_losses
from clora_cli.presenting.figures.magnitudes import compose_shifts
from clora_cli.presenting.figures.method_points import compose_collisions, compose_sizes
from clora_cli.presenting.figures.metric_series import compose_metric_series
from clora_cli.presenting.figures.output_maps import compose_outputs
from clora_cli.presenting.figures.report_figure import compose_matrices
from clora_cli.presenting.figures.route_maps import compose_routes
from clora_cli.presenting.figures.spectra import compose_nuclear_norms
from clora_cli.presenting.figures.violins import compose_relations
from clora_cli.presenting.sweep_forms import compose_sweep
from clora_cli.reporting.assembly import Report

__all__ = ["FIGURES", "NamedFigure", "draw_named"]


@dataclass(frozen=True)
class NamedFigure:
    """A figure that can be drawn of a report.

    Attributes:
        about: What it shows.
        needs: What the report must be made from for it.
        composes: Yields the figures of this kind that the report has something for.
    """

    about: str
    needs: str
    composes: Callable[[Report], Iterator[Compose]]


def draw_named(report: Report, name: str, path: Path) -> None:
    """Draw a figure of a report by its name, whole or not at all.

    Raises:
        OptionError: If the report has nothing for it, or several of the kind; or the ending is unknown.
        CloraError: If an adapter is damaged, or the file cannot be written.
    """
    check_ending(path)
    figure = FIGURES[name]
    found = list(figure.composes(report))
    if not found:
        raise OptionError(f"--figure {name} needs {figure.needs}; name them", code="nothing-to-draw")
    if len(found) > 1:
        raise OptionError(
            f"--figure {name}: there are {len(found)} of them here; name the files of one alone",
            code="several-to-draw",
        )
    save(path, found[0])


def _curves(report: Report) -> Iterator[Compose]:
    if any(len(run.order) > 1 for run in report.results.runs):
        yield partial(compose_curves, results=report.results)


def _of_orders(report: Report, compose: Callable[..., None]) -> Iterator[Compose]:
    for order in report.results.orders:
        if len(order.tasks) > 1 and any(series.order == order and series.stages for series in report.results.series):
            yield partial(compose, results=report.results, order=order)


def _sweeps(report: Report) -> Iterator[Compose]:
    for sweep in report.sweeps:
        yield partial(compose_sweep, sweep=sweep, orders=report.results.orders)


def _routes(report: Report) -> Iterator[Compose]:
    for routes in report.material.routes.values():
        if routes.tasks:
            yield partial(compose_routes, routes=routes)


def _interference(report: Report) -> Iterator[Compose]:
    earlier = {label: each for label, each in report.anatomy.earlier.items() if len(each.labels) > 2}
    if earlier:
        yield partial(compose_interference, differences=earlier, colours=colour_numbers(report.results))


def _collisions(report: Report) -> Iterator[Compose]:
    for difference in report.anatomy.differences.values():
        yield partial(compose_difference, difference=difference, measures=["collision-rate", "opposite-signs"])


def _shifts(report: Report) -> Iterator[Compose]:
    if shifts := report.anatomy.shifts:
        yield partial(compose_shifts, shifts=shifts)


def _capacity(report: Report) -> Iterator[Compose]:
    if ledgers := report.anatomy.ledgers:
        yield partial(compose_capacity, ledgers=ledgers)


def _costs(report: Report) -> Iterator[Compose]:
    costs = [cost for steps in report.material.costs.values() for cost in steps if cost.step == "train"]
    if costs:
        yield partial(compose_costs, costs=costs, colours=colour_numbers(report.results))


def _points(report: Report, compose: Callable[..., None], colliding: bool = False) -> Iterator[Compose]:
    from clora_cli.reporting.trade_offs import method_points

    points = [
        point
        for point in method_points(report)
        if not colliding or (point.sparsity is not None and point.collisions is not None)
    ]
    if len(points) > 1:
        yield partial(compose, points=points, colours=colour_numbers(report.results))


def _packages(report: Report) -> Mapping[str, Any]:
    from clora_cli.reporting.anatomy import representatives

    return {label: package.members for label, package in representatives(report.material.packages).items()}


def _drift(report: Report) -> Iterator[Compose]:
    from clora_cli.reporting.differences import read_deltas
    from clora_cli.reporting.signed_shifts import measure_signed_shifts, rows_to_look_at

    packages = {label: list(read_deltas(members).values()) for label, members in _packages(report).items()}
    shifts = {
        label: measure_signed_shifts(deltas, rows_to_look_at(deltas))
        for label, deltas in packages.items()
        if len(deltas) > 1
    }
    if shifts:
        yield partial(compose_drift, shifts=shifts)


def _nuclear(report: Report) -> Iterator[Compose]:
    from clora_cli.reporting.layer_norms import layer_norms

    norms = {label: layer_norms(members) for label, members in _packages(report).items()}
    if norms:
        yield partial(compose_nuclear_norms, norms=norms)


def _plane(report: Report) -> Iterator[Compose]:
    from clora_cli.algebra.geometry import inner_products, plane
    from clora_cli.reporting.differences import read_deltas

    packages = _packages(report)
    deltas = [each for members in packages.values() for each in read_deltas(members).values()]
    if len(deltas) > 1:
        places, kept = plane(inner_products(deltas))
        tasks = {label: [member.task for member in members] for label, members in packages.items()}
        colours = colour_numbers(report.results)
        yield partial(compose_plane, places=places, packages=tasks, kept=kept, colours=colours)


def _losses(report: Report) -> Iterator[Compose]:
    from clora_cli.reporting.training_logs import read_log

    logs = {label: [read_log(member) for member in members] for label, members in _packages(report).items()}
    kept = {label: [log for log in own if log and not all(map(math.isnan, log.losses))] for label, own in logs.items()}
    if kept := {label: own for label, own in kept.items() if own}:
        yield partial(compose_losses, logs=kept, colours=colour_numbers(report.results))


def _relations(report: Report) -> Iterator[Compose]:
    from clora_cli.reporting.training_logs import relations_of

    for members in _packages(report).values():
        if relations := relations_of(members):
            yield partial(compose_relations, relations=relations)


def _gains(report: Report) -> Iterator[Compose]:
    from clora_cli.reporting.merge_gains import merge_gains

    if gains := merge_gains(report.results):
        yield partial(compose_gains, gains=gains)


def _outputs(report: Report) -> Iterator[Compose]:
    from clora_cli.reporting.output_similarity import output_similarities

    if similarities := list(output_similarities(report.results.runs)):
        yield partial(compose_outputs, similarities=similarities)


_SCORES, _ADAPTERS = "scores files", "packages of two adapters or more"
FIGURES: Mapping[str, NamedFigure] = {
    "curves": NamedFigure("mean score over the tasks learned so far", _SCORES, _curves),
    "metrics": NamedFigure(
        "every metric after every stage: AP, forgetting, transfer",
        "scores files of a matrix",
        partial(_of_orders, compose=compose_metric_series),
    ),
    "matrices": NamedFigure(
        "score of each stage on each task", "scores files of a matrix", partial(_of_orders, compose=compose_matrices)
    ),
    "sweep": NamedFigure("scores by settings that a recipe crosses", "the folder of a run with a sweep", _sweeps),
    "routes": NamedFigure("mean weights, tasks by adapters", "a file of clora route --confusion", _routes),
    "interference": NamedFigure(
        "collisions of each adapter with all earlier", "packages of three or more", _interference
    ),
    "collisions": NamedFigure(
        "collisions and opposite signs of each pair of adapters", f"one of {_ADAPTERS}", _collisions
    ),
    "shifts": NamedFigure("magnitudes of the deltas' entries", "packages", _shifts),
    "drift": NamedFigure("signed entries of the summed deltas, stage by stage", _ADAPTERS, _drift),
    "nuclear-norms": NamedFigure("nuclear norm of each layer's delta", "packages", _nuclear),
    "plane": NamedFigure("deltas as points, by multidimensional scaling", _ADAPTERS, _plane),
    "capacity": NamedFigure(
        "who owns what of a LoRA that tasks share",
        "a package whose tasks share one LoRA, as those of --method cast do",
        _capacity,
    ),
    "losses": NamedFigure("training loss over the sequence", "packages that were trained here", _losses),
    "relations": NamedFigure("aso-lora's w of each earlier task", "a package of --method aso-lora", _relations),
    "gains": NamedFigure(
        "points that each combination gains over the sum", "scores files of one package by several --combine", _gains
    ),
    "outputs": NamedFigure(
        "share of test rows that two states answer alike", "scores files of clora eval --matrix --answers", _outputs
    ),
    "sparsity": NamedFigure(
        "sparsity against collisions against forgetting",
        "scores and packages, of two adapters or more that are not zero, of two methods or more",
        partial(_points, compose=compose_collisions, colliding=True),
    ),
    "sizes": NamedFigure(
        "average performance against numbers kept",
        "scores and packages of two methods or more",
        partial(_points, compose=compose_sizes),
    ),
    "costs": NamedFigure("time, memory and size of each further task", "the folder of a run", _costs),
}
