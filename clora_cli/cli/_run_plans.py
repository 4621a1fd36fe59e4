"""What ``clora run`` prints of recipes that it does not carry out (layer L4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clora_cli.cli._output import Form, Terminal, emit

if TYPE_CHECKING:
    from clora_cli.recipes import Recipe
    from clora_cli.recipes.planning import UnitPlan
    from clora_cli.recipes.steps import Unit

__all__ = ["emit_plan", "emit_recipe", "emit_script"]


def emit_recipe(output: Form, recipe: Recipe) -> None:
    """Print a recipe with everything filled in."""
    import yaml

    from clora_cli.recipes import to_yaml

    text = to_yaml(recipe)
    emit(output, text=text, data={"schema": "clora.recipe/1", **yaml.safe_load(text)}, brief=recipe.name)


def emit_script(output: Form, recipe: Recipe, units: Sequence[Unit]) -> None:
    """Print a shell script that does the same."""
    from clora_cli.recipes.steps import script

    text = script(recipe, units)
    commands = [["clora", *step.words] for unit in units for step in unit.steps]
    emit(output, text=text, data={"schema": "clora.script/1", "commands": commands}, brief=text)


def emit_plan(output: Form, recipe: Recipe, units: Sequence[Unit]) -> None:
    """Print what is done already and what is left."""
    from clora_cli.recipes.planning import check_inputs, missing_inputs, plan_unit, unchecked

    if missing := missing_inputs(units):
        plans = [unchecked(unit) for unit in units]
    else:
        reference = check_inputs(units)
        plans = [plan_unit(unit, reference) for unit in units]
    terminal = Terminal(output)
    for note in missing:
        terminal.note(f"note: {note}")
    steps = sum(len(plan.states) for plan in plans)
    todo = sum(len(plan.todo) for plan in plans)
    lines = [f"would carry out {todo} of {steps} steps on {units[0].model} into {recipe.out}"]
    for plan in plans:
        lines += [f"{plan.unit.name}:", *_told(plan)]
    data = {"schema": "clora.plan/1", "recipe": recipe.name, "out": str(recipe.out), "model": units[0].model}
    emit(
        output,
        text="\n".join(lines),
        data={**data, "missing": missing, "runs": [_data(p) for p in plans]},
        brief=str(recipe.out),
    )


def _told(plan: UnitPlan) -> list[str]:
    pairs = zip(plan.unit.steps, plan.states, strict=True)
    return [f"  {step.stage:>2} {step.task:18} {step.kind:13} {state}" for step, state in pairs]


def _data(plan: UnitPlan) -> dict[str, Any]:
    pairs = zip(plan.unit.steps, plan.states, strict=True)
    steps = [
        {"stage": s.stage, "task": s.task, "step": s.kind, "makes": str(s.made), "state": state} for s, state in pairs
    ]
    return {"method": plan.unit.entry.label, "seed": plan.unit.seed, "folder": str(plan.unit.folder), "steps": steps}
