"""Scores, routes and reports from Python (layer L4)."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.api.calls import Listener, Paths, check_alone, heard, paths_of, settled, some_paths, words
from clora_cli.api.returns import Reported, Routed
from clora_cli.api.scoring import plan_scoring
from clora_cli.base import registry
from clora_cli.base.errors import DataError, OptionError, blaming
from clora_cli.nano import MODEL_NAME
from clora_cli.options import EvalOptions, RouteSettings
from clora_cli.processes.ranks import is_main_process

if TYPE_CHECKING:
    from clora_cli.store.scores import Scores

__all__ = ["eval", "report", "route"]


@blaming()
def eval(  # noqa: PLR0913 (each is an option of the command)
    adapters: Paths = (),
    options: EvalOptions | None = None,
    *,
    out: str | Path | None = None,
    fail_under: float | None = None,
    max_forgetting: float | None = None,
    max_general_loss: float | None = None,
    baseline: Paths = (),
    junit: str | Path | None = None,
    progress: Listener | None = None,
) -> Scores:
    """Score adapters on tasks, in any combination, with one load of the base model.

    Args:
        adapters: A package, an adapter folder, or several; none for the base model alone.
        options: How they are combined, what is scored, and on what.
        out: Also write the scores to this JSON file, which ``report`` reads.
        fail_under: The least mean score over tasks, percent.
        max_forgetting: The most that a task may have lost since its best earlier score, percent points.
        max_general_loss: The most that a probe of ``options.retention`` may have lost since the base model, percent points.
        baseline: Scores files of earlier evaluations, for ``max_forgetting``.
        junit: Also write limits and slices as JUnit XML.
        progress: Called with each ``Event``.

    Returns:
        The stage x task scores, percent: ``rows``, each with the ``scores`` of tasks.

    Raises:
        CloraError: As the command.
        LimitError: If a limit is not met; what was asked for is written all the same.
    """
    from clora_cli.base.files import write_text
    from clora_cli.presenting.junit import junit_xml
    from clora_cli.reporting.limits import check_limits

    options, paths, listener = settled(options or EvalOptions()), paths_of(adapters), heard(progress)
    if not options.model and not paths:
        options = dataclasses.replace(options, model=MODEL_NAME)
    limits = {"fail_under": fail_under, "max_forgetting": max_forgetting, "max_general_loss": max_general_loss}
    check_limits(limits, options)
    check_alone(options)
    told: dict[str, Any] = {"limits": limits, "baseline": paths_of(baseline), "out": None if out is None else Path(out)}
    told |= {"mend": "name what to score on in EvalOptions(data=…)", "progress": listener}
    plan = plan_scoring(paths, options, **told)
    scores, verdict = plan.carry_out(listener)
    if junit is not None and is_main_process():
        write_text(Path(junit), junit_xml(plan.package, verdict))
    verdict.check()
    return scores


@blaming()
def route(
    adapters: Paths,
    settings: RouteSettings | None = None,
    *,
    rows: Iterable[Mapping[str, Any]] = (),
    per_site: bool = False,
    heatmap: str | Path | None = None,
    confusion: str | Path | None = None,
    progress: Listener | None = None,
) -> Routed:
    """Tell which adapter each input goes to.

    Args:
        adapters: Adapter folders or packages, in any mixture.
        settings: How inputs choose, and which tasks or files of rows are routed.
        rows: Further inputs, as rows of JSON lines: ``{"prompt": …}`` and any other fields.
        per_site: Also tell the weights at each site.
        heatmap: Draw the mean weights, tasks by adapters: .png, .svg or .pdf.
        confusion: Write the confusion matrix of tasks and adapters to this JSON file.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command.
        OptionError: If there is nothing to route, or no adapter.
        DataError: If a row cannot be written as JSON.
    """
    from clora_cli.presenting.canvas import check_ending
    from clora_cli.presenting.route_forms import keep_routes
    from clora_cli.routing.dispatch import Dispatcher
    from clora_cli.routing.route_settings import calibration_tasks, open_source, route_options
    from clora_cli.store.package import read_package

    settings, listener = settled(settings or RouteSettings()), heard(progress)
    if heatmap is not None:
        check_ending(Path(heatmap))
    lines = io.BytesIO(_lines(rows).encode())
    sources = [*settings.data, *(["-"] if lines.getbuffer().nbytes else [])]
    if not sources or "-" in settings.data:
        raise OptionError(
            "nothing to route: name tasks in RouteSettings(data=…), or give rows", code="nothing-to-route"
        )
    check_alone(settings)
    members = read_package(some_paths(adapters, "adapters to choose among"))
    options = route_options(members, settings.route, top_k=0)
    dispatcher = Dispatcher(members, options, settings, listener)
    inputs = [open_source(source, lines, settings, members) for source in sources]
    dispatcher.start(calibration_tasks(members, options, settings.calibrate, settings.columns))
    tally = dispatcher.tally(panels=heatmap is not None)
    told: list[Mapping[str, Any]] = []
    for decided in dispatcher.decide(chain.from_iterable(inputs)):
        tally.add(decided)
        told += decided.entries(dispatcher.names, per_site=per_site)
    routes = tally.routes(dispatcher.how)
    drawn, written = (None if place is None else Path(place) for place in (heatmap, confusion))
    keep_routes(routes, drawn, written, listener)
    return Routed(told, routes)


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    try:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"rows: one is no row of JSON ({error}); give texts, numbers and lists", code="json-malformed"
        ) from error


@blaming()
def report(
    paths: Paths,
    *,
    out: Paths = (),
    figure: str | None = None,
    compare: tuple[str, str] | None = None,
    progress: Listener | None = None,
) -> Reported:
    """Turn what other calls left into tables, figures and one self-contained HTML page.

    Args:
        paths: Scores, routes and cost files, adapters, packages, and folders of them, such as those of ``run``.
        out: Files to write: .html, .md, .tex, .csv, .json, .png, .svg or .pdf.
        figure: What to draw into a .png, .svg or .pdf, by its name, instead of matrices and curves.
        compare: Two methods, by their labels: tell whether they differ, by a paired bootstrap.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command.
    """
    from clora_cli.presenting.report_file import check_outs, write_reports
    from clora_cli.reporting.assembly import make_report
    from clora_cli.reporting.collect import collect

    files, places, listener = some_paths(paths, "what to report on"), paths_of(out), heard(progress)
    if compare is not None and len(compare) != 2:
        raise OptionError(f"compare={compare!r}: name two methods", code="option-missing")
    check_outs(places, figure)
    line = words("report", *files, *(word for place in places for word in ("--out", place)))
    line += [*(["--figure", figure] if figure else []), *(["--compare", *compare] if compare else [])]
    made = make_report(collect(files), pairs=[compare] if compare else [], command=shlex.join(line), progress=listener)
    for note in (*registry.refusals("metrics"), *made.results.notes, *made.footing):
        listener.warn(note)
    write_reports(made, places, figure)
    return Reported(made)
