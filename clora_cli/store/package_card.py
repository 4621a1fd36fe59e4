"""The model card of a package that is given to others (layer L1), with results in the Hub's ``model-index`` form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clora_cli.base.legible import legible, markdown
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.scores import Scores

__all__ = ["package_card"]

# Metrics of scores files to the Hub's names for them.
_METRICS = {"exact-match": "accuracy", "label-rank": "accuracy", "rouge-l": "rouge"}


def package_card(
    name: str, members: Sequence[AdapterFolder], scores: Sequence[Scores], *, license: str, base: str
) -> str:
    """Write the README.md of a package.

    Args:
        name: What it is called.
        members: Its adapters, by stage.
        scores: What ``clora eval`` wrote about it; the last row of each counts.
        license: The licence's identifier on the Hub, such as ``apache-2.0``.
        base: The base model's public name.
    """
    import yaml

    results = [one for file in scores for one in _results(file, _task_type(members))]
    metadata: dict[str, Any] = {
        "base_model": base,
        "library_name": "peft",
        "license": license,
        "tags": ["clora", "continual-learning", "lora"],
    }
    if results:
        metadata["model-index"] = [{"name": name, "results": results}]
    shown = legible(base).replace("`", "'")
    rows = "".join(
        f"| {member.stage or '-'} | {markdown(member.task)} | {_method(member)} | {_data(member)} |\n"
        for member in members
    )
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=True, allow_unicode=True)}---\n",
        f"# {markdown(name)}\n",
        f"{len(members)} LoRA adapters on `{shown}`, one folder each, made with clora. Licence: {markdown(license)}.\n",
        f"| stage | adapter | method | data |\n|---|---|---|---|\n{rows}",
        *([_table(results)] if results else []),
        "```bash\nclora pull hf://OWNER/NAME -o adapters   # checks every file\nclora eval adapters\n```\n",
        '`PeftModel.from_pretrained(model, "OWNER/NAME", subfolder="ADAPTER")` loads one adapter without clora.\n',
    ]
    return "\n".join(parts)


def _task_type(members: Sequence[AdapterFolder]) -> str:
    """Return the Hub's word for what the adapters do."""
    choosing = next((one for one in members if one.manifest is not None and one.manifest.head), None)
    if choosing is None:
        return "text-generation"
    return "text-classification" if choosing.config.get("task_type") == "SEQ_CLS" else "image-classification"


def _results(scores: Scores, task_type: str) -> list[dict[str, Any]]:
    row, split = scores.rows[-1], str(scores.settings.get("split", "test"))
    return [
        {
            "task": {"type": task_type},
            "dataset": {"name": task, "type": task, "split": split},
            "metrics": [
                {
                    "type": _METRICS.get(cell.metric, cell.metric),
                    "name": f"{cell.metric}, {scores.score}, adapters combined by {scores.combine}, {cell.total} rows",
                    "value": round(cell.value, 4),
                }
            ],
        }
        for task, cell in row.scores.items()
    ]


def _table(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"| {markdown(one['dataset']['name'])} | {one['metrics'][0]['value']:.2f} | {markdown(one['metrics'][0]['name'])} |"
        for one in results
    ]
    return "| task | percent | how |\n|---|---|---|\n" + "\n".join(lines) + "\n"


def _method(member: AdapterFolder) -> str:
    return markdown(member.manifest.method.name) if member.manifest else "-"


def _data(member: AdapterFolder) -> str:
    data = member.manifest.data if member.manifest else None
    return markdown(", ".join(data.merged or [data.name])) if data else "-"
