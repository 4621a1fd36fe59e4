"""``clora synthesize`` (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clora_cli.cli._declared import takes_declared
from clora_cli.cli._options import ConfigOption, DryRunOption, JsonOption, QuietOption, form
from clora_cli.cli._output import Terminal, emit
from clora_cli.cli._waiting import command_line
from clora_cli.options import SynthesizeOptions

__all__ = ["synthesize"]


@takes_declared
def synthesize(
    adapters: Annotated[
        list[Path], typer.Argument(help="A package, or adapter folders in any mixture.", show_default=False)
    ],
    options: SynthesizeOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace other rows.")] = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let a package's model make rows of its tasks, for rehearsal without earlier rows.

    The base model makes new questions from a few examples, the package's model answers them. Writes JSON lines that --data reads
    and that methods with a memory take as `-o pseudo=FILE`, and beside them FILE's name with .clora.json: what made them. The
    same call again finds them up to date.

    Example: clora synthesize adapters --task mnli --rows 200 -o pseudo.jsonl
    """
    output = form(json, quiet)
    from clora_cli.evaluation.synthesis_plan import plan_synthesis
    from clora_cli.store.package import read_package

    terminal = Terminal(output)
    plan = plan_synthesis(read_package(adapters), options, progress=terminal)
    data: dict[str, Any] = {"schema": "clora.synthesize/1", "path": str(options.out), "record": str(plan.record)}
    if dry_run:
        text = f"would write {options.rows} rows each of {', '.join(plan.sources)} to {options.out}"
        emit(output, text=text, data=data | {"tasks": list(plan.sources)}, brief=str(options.out))
        return
    from clora_cli.evaluation.synthesis import synthesize as make

    counts, made = make(plan, force=force, argv=command_line(), progress=terminal)
    told = ", ".join(f"{count} rows of {name}" for name, count in counts.items())
    text = f"{options.out}  ({told}{'' if made else '; up to date'})"
    emit(output, text=text, data=data | {"rows": counts, "made": made}, brief=str(options.out))
