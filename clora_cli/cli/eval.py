"""``clora eval`` (layer L4)."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.base.files import write_text
from clora_cli.cli._declared import takes_declared
from clora_cli.cli._launch import relaunch
from clora_cli.cli._options import ConfigOption, DryRunOption, JsonOption, QuietOption, form, writable
from clora_cli.cli._output import Terminal, emit, tell
from clora_cli.nano import MODEL_NAME
from clora_cli.options import EvalOptions
from clora_cli.processes.ranks import is_main_process

if TYPE_CHECKING:
    from clora_cli.reporting.scored_run import Run
    from clora_cli.reporting.slices import Verdict

__all__ = ["evaluate_command"]

_MEND = "name what to score on with --data"


@takes_declared
def evaluate_command(
    options: EvalOptions,
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A package, an adapter folder, or several; none for the base model alone.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", callback=writable, help="Write the scores to this JSON file.")
    ] = None,
    fail_under: Annotated[
        float | None, typer.Option(help="Exit with 5 if the mean score is below this percentage.")
    ] = None,
    max_forgetting: Annotated[
        float | None,
        typer.Option(
            help="Exit with 5 if a task lost more than so many points since its best earlier score, "
            "of --matrix or --baseline."
        ),
    ] = None,
    baseline: Annotated[
        list[Path] | None,
        typer.Option(help="Scores of an earlier evaluation, for --max-forgetting; repeatable.", show_default=False),
    ] = None,
    max_general_loss: Annotated[
        float | None,
        typer.Option(help="Exit with 5 if a probe of --retention lost more than so many points since the base model."),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(callback=writable, help="Also write limits and slices (task, label, length) as JUnit XML."),
    ] = None,
    annotations: Annotated[
        bool,
        typer.Option(
            "--annotations",
            envvar=["CLORA_EVAL_ANNOTATIONS", "GITHUB_ACTIONS"],
            help="Tell on stderr, as GitHub's workflows read it, which limits and slices broke.",
        ),
    ] = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score adapters on tasks, in any combination, with one load of the base model.

    Prints the scores; with --quiet the mean over tasks alone. With --combine route each input finds its own adapters, as
    clora route tells, by the distributions of clora stat-features.

    Example: clora eval adapters --matrix --out scores.json
    """
    output = form(json, quiet)
    from clora_cli.api.scoring import plan_scoring
    from clora_cli.evaluation.evaluate import check_combination
    from clora_cli.reporting import assemble
    from clora_cli.reporting.limits import check_limits

    if not options.model and not adapters:
        options = dataclasses.replace(options, model=os.environ.get("CLORA_MODEL", MODEL_NAME))
    limits = {"fail_under": fail_under, "max_forgetting": max_forgetting, "max_general_loss": max_general_loss}
    check_limits(limits, options)
    relaunch(options.nproc, dry_run=dry_run, switches=limits)
    terminal = Terminal(output)
    told: dict[str, Any] = {
        "limits": limits,
        "baseline": baseline or (),
        "out": out,
        "mend": _MEND,
        "progress": terminal,
    }
    plan = plan_scoring(adapters or (), options, **told)
    if dry_run:
        check_combination(plan.members, options)
        text = f"would score {len(plan.members)} adapters on {', '.join(task.name for task in plan.tasks)}"
        data = {"schema": "clora.plan/1", "adapters": len(plan.members), "tasks": [task.name for task in plan.tasks]}
        emit(output, text=text, data=data, brief=text)
        return
    scores, verdict = plan.carry_out(terminal)
    last = scores.rows[-1].scores.values()
    mean = sum(entry.value for entry in last) / len(last)
    emit(output, text=_text(assemble([scores])[0]), data=scores.to_dict(), brief=f"{mean:.2f}")
    if is_main_process():
        _tell_machines(verdict, plan.package, junit, annotations)
    verdict.check()


def _tell_machines(verdict: Verdict, package: str, junit: Path | None, annotations: bool) -> None:
    from clora_cli.presenting.junit import github_lines, junit_xml

    if junit is not None:
        write_text(junit, junit_xml(package, verdict))
    for line in github_lines(verdict) if annotations else ():
        tell(line)


def _text(run: Run) -> str:
    from clora_cli.presenting.markdown_tables import general_table, matrix_table
    from clora_cli.reporting.general_ability import general_abilities

    kept = tuple(general_abilities([run]))
    return matrix_table(run) + (f"\n{general_table(kept)}" if kept else "")
