"""``clora export`` (layer L4)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from json import dumps as encoded
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.cli._declared import takes_declared
from clora_cli.cli._options import ConfigOption, DryRunOption, JsonOption, QuietOption, form
from clora_cli.cli._output import Terminal, emit
from clora_cli.cli._waiting import BreakLockOption, WaitOption, patience
from clora_cli.options import ExportOptions

if TYPE_CHECKING:
    from clora_cli.transforming.exporting import ExportPlan

__all__ = ["export"]


@takes_declared
def export(
    packages: Annotated[
        list[Path],
        typer.Argument(help="A package, or adapter folders; also PEFT's own folders.", show_default=False),
    ],
    options: ExportOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace another export at --out.")] = False,
    wait: WaitOption = None,
    break_lock: BreakLockOption = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write adapters as a server loads them: a folder for each, by its name, and the call that serves them.

    A server loads one adapter at a time and scales it by one number: sums are added up exactly, patterns and rsLoRA are folded
    into the factors, ranks filled up to what the server allows. What a server would load wrongly is refused with the reason.

    Example: clora export adapters --for vllm -o served
    """
    output = form(json, quiet)
    from clora_cli.store.package import read_package
    from clora_cli.transforming.exporting import export_package, plan_export

    terminal = Terminal(output)
    plan = plan_export(read_package(packages), options, terminal, packages=packages)
    data: dict[str, Any] = {**plan.record(), "path": str(options.out), "call": _call(plan)}
    if dry_run:
        emit(output, text=f"would write {options.out}\n{_table(plan)}", data=data, brief=str(options.out))
        return
    path, made = export_package(plan, force=force, progress=terminal, patience=patience(wait, break_lock))
    text = f"{path}{'' if made else '  (up to date)'}\n{_table(plan)}\n{_call(plan)}"
    emit(output, text=text, data={**data, "made": made}, brief=str(path))


def _table(plan: ExportPlan) -> str:
    lines = [f"{'adapter':<20} {'rank':>4} {'layers':>6}  made of"]
    for each in plan.served:
        sources = ", ".join(member.task for member in each.members)
        lines.append(f"{each.name:<20} {each.rank:>4} {len(each.factors):>6}  {sources}")
    return "\n".join(lines)


def _call(plan: ExportPlan) -> str:
    """Return the command that serves the export, or loads it."""
    from clora_cli.transforming.loaders import called_by_ollama

    out, base = plan.options.out, shlex.quote(plan.base.name or "BASE")
    paths = {each.name: out / each.name for each in plan.served}
    first, rank = next(iter(paths.values())), max(each.rank for each in plan.served)
    vllm = f"vllm serve {base} --enable-lora --max-lora-rank {rank}"
    resolver = f"VLLM_PLUGINS=lora_filesystem_resolver VLLM_LORA_RESOLVER_CACHE_DIR={shlex.quote(str(out))}"
    on_request = f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 {resolver} {vllm}"
    lora = " ".join(f"--lora {shlex.quote(str(path / 'adapter.gguf'))}" for path in paths.values())
    called = called_by_ollama(list(paths))
    created = (f"ollama create {called[name]} -f {shlex.quote(str(p / 'Modelfile'))}" for name, p in paths.items())
    return {
        "peft": f"PeftModel.from_pretrained(model, {str(first)!r})",
        "vllm": f"{vllm} --lora-modules {_pairs(paths, 'name', 'path')}\nor, each when it is first asked for:\n{on_request}",
        "sglang": f"python -m sglang.launch_server --model-path {base} --enable-lora --max-lora-rank {rank} "
        f"--lora-paths {_pairs(paths, 'lora_name', 'lora_path')}",
        "lorax": f'lorax-launcher --model-id {base}; in requests: "adapter_id": {encoded(str(first))}, "adapter_source": "local"',
        "llama.cpp": f"llama-server -m {shlex.quote(str(plan.base.file or 'BASE.gguf'))} {lora}",
        "ollama": "\n".join(created),
    }[plan.options.loader]


def _pairs(paths: Mapping[str, Path], name: str, path: str) -> str:
    """Return names and paths as a command line takes them: as JSON where one holds what stands between them."""
    texts = {
        one: encoded({name: one, path: str(place)}) if set("=,") & set(f"{one}{place}") else f"{one}={place}"
        for one, place in paths.items()
    }
    return " ".join(map(shlex.quote, texts.values()))
