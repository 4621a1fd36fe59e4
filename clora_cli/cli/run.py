"""``clora run`` (layer L4)."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.base.errors import InterruptedRunError, OptionError
from clora_cli.base.intake import natural
from clora_cli.base.intervals import check_size
from clora_cli.base.legible import legible
from clora_cli.cli._crew import PATIENCE, Crew
from clora_cli.cli._live import LIVE_PORT, shown_while, view
from clora_cli.cli._options import DryRunOption, JsonOption, QuietOption, form, writable
from clora_cli.cli._output import Form, Terminal, emit, tell
from clora_cli.cli._recipe_list import emit_recipes
from clora_cli.cli._run_plans import emit_plan, emit_recipe, emit_script
from clora_cli.processes.locks import locked
from clora_cli.processes.spots import inside

if TYPE_CHECKING:
    from clora_cli.model.base_model import ModelReference
    from clora_cli.recipes import Recipe
    from clora_cli.recipes.planning import UnitPlan
    from clora_cli.recipes.running import UnitResult
    from clora_cli.recipes.steps import Unit

__all__ = ["run"]

_ADVICE = "wait until it ends, or run another part with --only and --seed"


def _complete_recipe(incomplete: str) -> list[str]:
    from clora_cli.recipes import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe: a YAML file, or the name of one that comes with clora. With --live also the folder of a run.",
            autocompletion=_complete_recipe,
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        bool,
        typer.Option(
            "--list", help="Tell which recipes come with clora; with RECIPE, a part of their names, list those."
        ),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe with everything filled in: to save, edit and run.")
    ] = False,
    script: Annotated[bool, typer.Option("--print", help="Print a shell script that does the same.")] = False,
    only: Annotated[
        str | None,
        typer.Option(metavar="LABEL[,LABEL]", help="Run these methods of the recipe alone, by their labels."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed instead of the recipe's; repeatable.", show_default=False)
    ] = None,
    jobs: Annotated[
        str,
        typer.Option(
            "-j",
            "--jobs",
            metavar="N|auto",
            help="Methods and seeds that run side by side, on the visible GPUs in turn. auto takes as many as these have room for.",
        ),
    ] = "1",
    per_device: Annotated[
        int | None,
        typer.Option(
            "--per-device",
            min=1,
            max=1 << 10,
            help="Jobs on a GPU at most: any number by default, one with --jobs auto.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Base model instead of the recipe's.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", callback=writable, help="Folder instead of the recipe's.")
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Show scores, losses, cost and what is running on a page for this machine alone. Of a run's folder: that "
            "alone, whoever carries the run out.",
        ),
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --live's page; 0 takes a free one.")] = LIVE_PORT,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a recipe: a whole order of tasks, with one or several methods and seeds.

    Trains task after task and scores all tasks learned so far after each, as the single commands do (--print). The same
    call again continues where it stopped, and finds what is there up to date.

    Example: clora run compare-nano --dry-run
    """
    output = form(json, quiet)
    if listed:
        emit_recipes(output, recipe)
        return
    if recipe is None:
        raise typer.BadParameter("name a recipe, or pass --list")
    if live and Path(recipe).is_dir():
        view(output, Path(recipe), port)
        return
    how = _How(_jobs(jobs), per_device, port if live else None)
    try:
        _do(output, _read(recipe, seed, model, out), only, how, show=show, script=script, dry_run=dry_run)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; give the same command again to continue", code="interrupted") from None


@dataclass(frozen=True)
class _How:
    """How a run is carried out: jobs at a time, None for auto; of them on a device; the port of its page, None for none."""

    jobs: int | None
    per_device: int | None
    page: int | None


def _jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if not (number := natural(text)):
        raise OptionError(f"--jobs {text}: give a whole number of at least 1, or auto", code="option-out-of-range")
    check_size("--jobs", number, 1 << 10)
    return number


def _do(output: Form, recipe: Recipe, only: str | None, how: _How, *, show: bool, script: bool, dry_run: bool) -> None:
    from clora_cli.recipes.steps import units_of

    if show:
        emit_recipe(output, recipe)
        return
    units = units_of(recipe, only.split(",") if only else ())
    if script:
        emit_script(output, recipe, units)
    elif dry_run:
        emit_plan(output, recipe, units)
    else:
        _run(output, recipe, units, how)


def _read(name: str, seeds: list[int] | None, model: str | None, out: Path | None) -> Recipe:
    from clora_cli.recipes import read_recipe_file, shipped_recipe

    path = Path(name)
    is_file = path.suffix in {".yaml", ".yml"} or path.is_file()
    recipe = read_recipe_file(path) if is_file else shipped_recipe(name)
    if len(set(seeds or ())) < len(seeds or ()):
        raise OptionError("--seed: give each seed once", code="option-given-twice")
    changes: dict[str, Any] = {"seeds": tuple(seeds) if seeds else None, "model": model, "out": out}
    return dataclasses.replace(recipe, **{key: value for key, value in changes.items() if value is not None})


def _run(output: Form, recipe: Recipe, units: Sequence[Unit], how: _How) -> None:
    from clora_cli.recipes.planning import check_inputs, plan_unit

    crew = Crew.of(units, how.jobs, how.per_device)
    reference = check_inputs(units)
    spots = [inside(folder) for folder in dict.fromkeys(place for u in units for place in (u.folder, *u.trained_in))]
    with locked(spots, progress=Terminal(output), advice=_ADVICE, grace=PATIENCE, hand_on=True):
        plans = [plan_unit(unit, reference) for unit in units]
        _keep_recipe(recipe)
        with shown_while(recipe.out, how.page, Terminal(output)):
            results = _carry_out(plans, reference, crew, output)
        _emit_results(output, recipe, results)
    failures = sorted(
        (result for result in results if result.failure),
        key=lambda result: result.failure.when if result.failure else 0,
    )
    for result in failures:
        if result.failure is not None:
            step = result.failure.step
            line = f"{result.unit.name}, {step.kind} {step.task}: {result.failure.message}; see {result.unit.log}"
            tell(f"error: {legible(line)}")
    if failures and failures[0].failure is not None:
        raise typer.Exit(failures[0].failure.code)


def _carry_out(plans: Sequence[UnitPlan], reference: ModelReference, crew: Crew, output: Form) -> list[UnitResult]:
    from clora_cli.cli._run_view import live_view, plain_view
    from clora_cli.recipes.running import carry_out

    terminal = Terminal(output)
    todo = sum(len(plan.todo) for plan in plans)
    if not todo:
        terminal.note("everything is up to date")
    units = [plan.unit for plan in plans]
    live = todo and sys.stderr.isatty() and output is not Form.QUIET
    with live_view(units, terminal) if live else plain_view(terminal) as listener:
        results, interrupted = carry_out(plans, reference, crew.worker, jobs=crew.jobs, listener=listener)
    if interrupted:
        raise InterruptedRunError("interrupted; give the same command again to continue", code="interrupted")
    return results


def _keep_recipe(recipe: Recipe) -> None:
    from clora_cli.base.files import write_text
    from clora_cli.recipes import to_yaml
    from clora_cli.recipes.recipe import RECIPE

    path, text = recipe.out / RECIPE, to_yaml(recipe)
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def _emit_results(output: Form, recipe: Recipe, results: Sequence[UnitResult]) -> None:
    from clora_cli.recipes.outcomes import method_results, results_table, unequal_footing

    units = [result.unit for result in results]
    methods, unequal = method_results(units), unequal_footing(units)
    for text in unequal:
        Terminal(output).warn(f"unequal protocols: {text}")
    runs = [
        {
            "method": result.unit.entry.label,
            "seed": result.unit.seed,
            "folder": str(result.unit.folder),
            "done": result.done,
            "state": "failed" if result.failure else "complete",
            **({"error": result.failure.message, "code": result.failure.code} if result.failure else {}),
        }
        for result in results
    ]
    data = {"schema": "clora.run/1", "recipe": recipe.name, "out": str(recipe.out), "runs": runs, "unequal": unequal}
    data["methods"] = [result.data() for result in methods]
    emit(output, text=results_table(methods), data=data, brief=str(recipe.out))
