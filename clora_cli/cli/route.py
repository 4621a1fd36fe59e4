"""``clora route`` (layer L4)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.base.errors import OptionError
from clora_cli.base.folder_names import check_file
from clora_cli.cli._declared import takes_declared
from clora_cli.cli._launch import relaunch
from clora_cli.cli._options import ConfigOption, DryRunOption, QuietOption, writable
from clora_cli.cli._output import Form, Terminal, emit, json_line, say
from clora_cli.options import RouteSettings
from clora_cli.processes.ranks import is_main_process

if TYPE_CHECKING:
    from clora_cli.base.progress import Advance
    from clora_cli.routing.decided import Decided
    from clora_cli.routing.dispatch import Dispatcher
    from clora_cli.routing.inputs import Input

__all__ = ["route"]


@takes_declared
def route(
    adapters: Annotated[
        list[Path], typer.Argument(help="Adapter folders or packages, in any mixture.", show_default=False)
    ],
    settings: RouteSettings,
    per_site: Annotated[bool, typer.Option("--per-site", help="Also print the weights at each site.")] = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(callback=writable, help="Draw the mean weights, tasks by adapters: .png, .svg or .pdf."),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(callback=writable, help="Write the confusion matrix of tasks and adapters to this JSON file."),
    ] = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: Annotated[bool, typer.Option("--json", help="Accepted; JSON lines are the output anyway.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Show which adapter each input goes to, as JSON lines in the inputs' order.

    Rows of stdin and files keep their fields and get "adapter", null for the base model, and "weights" by adapter. With
    --quiet just the adapter's name. Where the inputs' tasks are known, a confusion matrix follows on stderr.

    Example: clora route adapters --data mnli --data cb --similarity l2 --heatmap weights.png
    """
    output = Form.QUIET if quiet else Form.TEXT
    from clora_cli.presenting.canvas import check_ending
    from clora_cli.presenting.route_forms import confusion_table, keep_routes
    from clora_cli.routing.dispatch import Dispatcher
    from clora_cli.routing.route_settings import calibration_tasks, open_source, route_options
    from clora_cli.store.package import read_package

    if heatmap is not None:
        check_ending(heatmap)
    check_file(heatmap, "--heatmap")
    check_file(confusion, "--confusion")
    sources = settings.data or _standard_input()
    if sources.count("-") > 1:
        raise OptionError("--data - is given twice, and stdin can be read once", code="option-given-twice")
    relaunch(settings.nproc, dry_run=dry_run)
    members = read_package(adapters)
    options = route_options(members, settings.route, top_k=0)
    terminal = Terminal(output)
    dispatcher = Dispatcher(members, options, settings, terminal)
    # The first process alone reads inputs: all of them have the same standard input, which can be read once.
    inputs = [open_source(source, sys.stdin.buffer, settings, members) for source in sources if is_main_process()]
    calibration = calibration_tasks(members, options, settings.calibrate, settings.columns)
    summary = _told(dispatcher)
    if dry_run:
        emit(Form.JSON if json else output, text=f"would route {summary}", data=_plan(dispatcher), brief=summary)
        return
    terminal.note(f"routing {summary}")
    dispatcher.start(calibration)
    tally = dispatcher.tally(panels=heatmap is not None)
    with _tracked(terminal, inputs) as advance:
        for decided in dispatcher.decide(chain.from_iterable(inputs)):
            tally.add(decided)
            _print(decided, dispatcher.names, quiet=quiet, per_site=per_site)
            advance(len(decided.inputs), "")
    if is_main_process():
        routes = tally.routes(dispatcher.how)
        if routes.known:
            terminal.note(confusion_table(routes))
        keep_routes(routes, heatmap, confusion, terminal)


def _standard_input() -> Sequence[str]:
    if sys.stdin.isatty():
        raise OptionError("nothing to route: pass --data, or JSON lines on stdin", code="nothing-to-route")
    return ["-"]


def _told(dispatcher: Dispatcher) -> str:
    options, sites = dispatcher.options, len(dispatcher.guide.sites)
    share = f"top {options.top_k}" if options.top_k else "all weighted"
    layer = "" if options.layer == "all" else f" of layer {options.layer}"
    where = (
        f"at {sites} site{'s' * (sites != 1)}{layer}"
        if options.reads in {"features", "factors"}
        else "by input embeddings"
    )
    return (
        f"among {len(dispatcher.members)} adapters of {dispatcher.reference.id}: {dispatcher.routing.similarity}, {share}, "
        f"temperature {options.temperature:g}, decided {where}"
    )


def _plan(dispatcher: Dispatcher) -> dict[str, Any]:
    return {
        "schema": "clora.plan/1",
        "adapters": dispatcher.names,
        "base_model": dispatcher.reference.id,
        **dispatcher.how,
    }


def _tracked(terminal: Terminal, inputs: Sequence[Iterable[Input]]) -> contextlib.AbstractContextManager[Advance]:
    """Show progress where the number of inputs is known and the output does not pass over the same screen."""
    sized = [one for one in inputs if isinstance(one, list)]
    if len(sized) < len(inputs) or sys.stdout.isatty():
        return contextlib.nullcontext(lambda done, status: None)
    return terminal.track("route", sum(map(len, sized)))


def _print(decided: Decided, names: Sequence[str], *, quiet: bool, per_site: bool) -> None:
    entries = decided.entries(names, per_site=per_site)
    say("\n".join((entry["adapter"] or "") if quiet else json_line(entry) for entry in entries))
