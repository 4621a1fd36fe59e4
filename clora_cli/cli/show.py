"""``clora show`` (layer L4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.cli._options import JsonOption, QuietOption, form, writable
from clora_cli.cli._output import Form, Terminal, emit

if TYPE_CHECKING:
    from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["show"]


class Measure(str, Enum):
    """The measures of two adapters."""

    ORTHOGONAL_OVERLAP = "orthogonal-overlap"
    AWOM = "awom"
    COSINE = "cosine"
    COLLISION_RATE = "collision-rate"
    SAME_SIGNS = "same-signs"
    OPPOSITE_SIGNS = "opposite-signs"


def show(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="An adapter folder, a package, a scores file, or a plug-in's name or file; with --diff two adapters or more.",
            show_default=False,
        ),
    ],
    diff: Annotated[bool, typer.Option("--diff", help="Tell how adapters differ: two, a list or a package.")] = False,
    epsilon: Annotated[
        float, typer.Option(help="Share of its delta's largest magnitude that an entry must exceed to count.")
    ] = 0.03,
    sample_rows: Annotated[
        int,
        typer.Option(
            help="Estimate collisions and signs from so many rows of each layer, with their interval; 0: all."
        ),
    ] = 0,
    measure: Annotated[Measure | None, typer.Option(help="Tell this measure of --diff alone.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            callback=writable,
            help="Also draw it, as .png, .svg or .pdf: --diff, or who owns what of a shared LoRA.",
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell what an artifact is, after checking it; with --quiet just its task, or its tasks in order.

    With --diff, tell how adapters overlap: overlap, collisions and signs of each pair, and of each adapter against all
    earlier ones; norm, sparsity and rank of each. With --quiet just --measure, opposite-signs unless told:
    the pair's value, or the mean over all pairs, as a share between 0 and 1 where it is one.

    Of a package whose tasks share one LoRA, also tell which task owns which share of it and what is idle.

    Of a method, merge, trim, router or metric, tell its equations, options and sources.

    Example: clora show adapters --diff --out diff.png
    """
    output = form(json, quiet)
    if diff:
        _show_difference(paths, epsilon, sample_rows, measure, out, output)
    elif len(paths) > 1:
        raise OptionError(
            "show describes one artifact at a time; add --diff to compare several adapters", code="option-missing"
        )
    else:
        _show_one(paths[0], out, output)


def _show_one(path: Path, out: Path | None, output: Form) -> None:
    from clora_cli.reporting.artifact_facts import adapter_facts, kind_of
    from clora_cli.store.adapter_folder import read_adapter

    kind = kind_of(path)
    if kind == "package":
        _show_package(path, out, output)
        return
    if out is not None:
        raise OptionError(
            f"--out {out} draws how adapters differ, or a package whose tasks share a LoRA; add --diff",
            code="option-missing",
        )
    if kind == "plug-in file":
        name, kinds = registry.provided(str(path))
        _show_plugins(kinds, name, output)
    elif kind == "plug-in":
        _show_plugins(registry.kinds_of(str(path)), str(path), output)
    elif kind == "scores":
        _show_scores(path, output)
    else:
        member = read_adapter(path)
        data = {"schema": "clora.show/1", "adapter": adapter_facts(member)}
        emit(output, text=_adapter_text(member), data=data, brief=member.task)


def _show_plugins(kinds: Sequence[str], name: str, output: Form) -> None:
    """Describe a plug-in; several, where kinds share a name."""
    from clora_cli.reporting.artifact_facts import plugin_facts

    data = plugin_facts(kinds, name)
    brief = "\n".join(option for entry in data for option in entry["options"])
    text = "\n\n".join(map(_plugin_text, data))
    emit(output, text=text, data={"schema": "clora.show/1", "plugins": data}, brief=brief)


def _plugin_text(entry: Mapping[str, Any]) -> str:
    source = registry.find(entry["kind"], entry["name"])
    origin = "" if source.is_own else f" of {source.origin}"
    defaults = ", ".join(f"{key}={value}" for key, value in entry["options"].items())
    text = f"{entry['kind'].removesuffix('s')} {entry['name']}{origin}\n\n{entry['documentation']}"
    return text + (f"\n\nDefaults: {defaults}" if defaults else "")


def _show_package(path: Path, out: Path | None, output: Form) -> None:
    from clora_cli.presenting.capacity_forms import capacity_json, capacity_table, draw_capacity
    from clora_cli.reporting.anatomy import shared_ledger
    from clora_cli.reporting.artifact_facts import adapter_facts
    from clora_cli.store.package import read_package

    members = read_package([path])
    text, brief = _package_text(members), "\n".join(member.task for member in members)
    data: dict[str, Any] = {"schema": "clora.show/1", "package": [adapter_facts(member) for member in members]}
    ledger = shared_ledger(members)
    if ledger is not None:
        text += f"\n\n{capacity_table(ledger)}"
        data["capacity"] = capacity_json(ledger)
    if out is not None:
        if ledger is None:
            raise OptionError(
                f"--out {out}: the adapters of {path} share no LoRA; add --diff to draw how they differ",
                code="nothing-to-draw",
            )
        draw_capacity(ledger, out)
    emit(output, text=text.rstrip("\n"), data=data, brief=brief)


def _show_difference(
    paths: Sequence[Path], epsilon: float, rows: int, measure: Measure | None, out: Path | None, output: Form
) -> None:
    from clora_cli.presenting.canvas import check_ending
    from clora_cli.presenting.difference_forms import difference_json, difference_table
    from clora_cli.presenting.figures.difference_maps import draw_difference
    from clora_cli.reporting.differences import difference, mean_over_pairs, read_adapters

    if out is not None:
        check_ending(out)
    members = read_adapters(paths)
    measured = difference(members, epsilon=epsilon, rows=rows, progress=Terminal(output))
    chosen = None if measure is None else measure.value
    if out is not None:
        draw_difference(measured, out, chosen)
    mean = mean_over_pairs(measured, chosen or Measure.OPPOSITE_SIGNS.value)
    emit(
        output,
        text=difference_table(measured, chosen),
        data=difference_json(measured),
        brief="nan" if mean is None else f"{mean:.6g}",
    )


def _show_scores(path: Path, output: Form) -> None:
    from clora_cli.presenting.markdown_tables import matrix_table
    from clora_cli.reporting import assemble
    from clora_cli.store.scores import read_scores

    scores = read_scores(path)
    brief = "\n".join(scores.order)
    emit(output, text=matrix_table(assemble([scores])[0]), data=scores.to_dict(), brief=brief)


def _features_text(features: dict[str, Any] | None) -> str:
    if features is None:
        return "none; `clora stat-features` gives it one, for routing"
    data = ", ".join(str(entry["name"]) for entry in features["data"])
    encoder = features.get("encoder")
    of = (
        f", embeddings of {encoder['id']}" if encoder else f" at {features['sites']} sites, source {features['source']}"
    )
    summary = (
        f"{features['count']} inputs of {data}{of}, pool {features['pool']}, text {features['text']}, "
        f"second moments {features.get('second_moment', 'none')}"
    )
    summary += f", means of {features['means']}" if "means" in features else ""
    return summary + (f", privacy {features['privacy']}" if features.get("privacy") else "")


def _form_text(facts: dict[str, Any]) -> str:
    """Return the line of text that says it."""
    parameters = f"{facts['parameters'] / 1e6:.3f} M parameters"
    if facts["form"] == "prompt":
        return f"  prompt   {facts['tokens']} virtual tokens of {facts['hidden']} numbers, {parameters}"
    dense = ", dense deltas" if facts["form"] == "dense" else ""
    return f"  sites    {facts['sites']} ({', '.join(facts['shapes'])}), {parameters}{dense}"


def _adapter_text(member: AdapterFolder) -> str:
    from clora_cli.reporting.artifact_facts import adapter_facts

    facts, manifest = adapter_facts(member), member.manifest
    kind = "prompt-tuning" if member.is_prompt else "LoRA"
    lines = [
        f"{member.path}: "
        + (
            f"task {member.task}, stage {member.stage}"
            if manifest
            else f"a PEFT {kind} folder without a clora manifest"
        )
    ]
    lines.append(f"  base     {member.base.get('id')}")
    lines.append(_form_text(facts))
    lines += [f"  classes  {task}: {', '.join(labels)}" for task, labels in facts.get("classes", {}).items()]
    if facts.get("base_copies"):
        summary = ", ".join(facts["base_copies"])
        lines.append(f"  beside   {summary} of the base model, compared with it when the adapter is used")
    if manifest is not None:
        options = {
            name: {k: v for k, v in chosen.items() if v is not None} for name, chosen in manifest.method.options.items()
        }
        lines.append(f"  method   {manifest.method.name} {options}")
        for kind, names in (manifest.method.plugins or {}).items():
            lines += [f"  {kind:<8} {name} of {_origin(record)}" for name, record in names.items()]
        lines.append(f"  parents  {', '.join(parent.task for parent in manifest.parents) or 'none'}")
        data = manifest.data
        summary = "none" if data.train_rows is None else f"{data.source}, {data.train_rows} rows, {data.metric}"
        lines.append(f"  data     {summary}")
        training = {**manifest.training.raw, "seed": manifest.seed}
        lines.append(f"  training {', '.join(f'{key} {value}' for key, value in training.items())}")
        lines += [f"  {name:<8} {value}" for name, value in (manifest.scores or {}).items()]
    if not member.is_prompt:
        lines.append(f"  features {_features_text(facts['features'])}")
    if manifest is not None and (origin := manifest.origin):
        lines.append(f"  origin   task {origin.task}, stage {origin.stage} of {origin.package}")
    lines.append(f"  sha256   {facts['sha256']}")
    return "\n".join(lines)


def _origin(record: Mapping[str, Any]) -> str:
    if "distribution" in record:
        return f"{record['distribution']} {record.get('version', '')}".rstrip()
    return f"{record.get('path')} (sha256 {str(record.get('sha256'))[:12]})"


def _package_text(members: Sequence[AdapterFolder]) -> str:
    lines = [f"{'stage':>5}  {'task':<20} {'method':<16} {'features':<8}  {'base':<24} sha256"]
    for member in members:
        method = member.manifest.method.name if member.manifest else "-"
        stage = "-" if member.stage is None else member.stage
        features = "yes" if member.features.is_file() else "-"
        base = str(member.base.get("id"))
        lines.append(f"{stage:>5}  {member.task:<20} {method:<16} {features:<8}  {base:<24} {member.digest[:12]}")
    return "\n".join(lines)
