"""The model card of an adapter folder (layer L1)."""

from __future__ import annotations

from typing import Any

from clora_cli.base.legible import legible, markdown
from clora_cli.store.manifest import Manifest

__all__ = ["merge_card", "model_card"]


def model_card(manifest: Manifest) -> str:
    """Write the README.md of an adapter from its manifest, with the Hub's metadata block."""
    import yaml

    base, method, data, lora = manifest.base_model, manifest.method, manifest.data, manifest.lora
    kind = "prompt-tuning" if lora.form == "prompt" else "lora"
    metadata = {"library_name": "peft", "base_model": base.id, "tags": [kind, "continual-learning", "clora"]}
    forms = {"prompt": "Soft prompt", "full-rank": "LoRA of full rank"}
    form = forms.get(lora.form or "") or f"LoRA of rank {lora.rank} (alpha {lora.alpha:g})"
    parents = ", ".join(markdown(parent.task) for parent in manifest.parents) or "none"
    notes = "".join(f"- {markdown(note)}\n" for note in data.notes or ()) or "- none\n"
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=True)}---\n\n"
        f"# {markdown(manifest.task)}: task {manifest.stage} of a sequence\n\n"
        f"{form} on {_code(base.id)}, trained with clora.\n\n"
        f"| | |\n|---|---|\n"
        f"| method | {method.name} |\n"
        f"| combined at evaluation by | {method.combine} |\n"
        f"| trained on top of | {parents} |\n"
        f"| data | {markdown(data.source or '')}, {data.train_rows} rows |\n"
        f"| metric | {data.metric} |\n"
        f"| seed | {manifest.seed} |\n\n"
        f"Notes on the data:\n\n{notes}\n"
        f"Made by:\n\n```\n{legible(' '.join(manifest.argv or ()))}\n```\n"
    )


def merge_card(manifest: Manifest) -> str:
    """Write the README.md of a merge from its manifest, with the Hub's metadata block."""
    import yaml

    base = manifest.base_model.raw.get("id")
    metadata: dict[str, Any] = {"tags": ["lora", "model-merging", "clora"]}
    metadata |= {"base_model": base} if base else {}
    parents = "".join(f"- {markdown(parent.task)} (`{parent.sha256[:12]}`)\n" for parent in manifest.parents)
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=True)}---\n\n# {markdown(manifest.task)}: a merge\n\n"
        f"`{manifest.method.name.removeprefix('merge/')}` of {len(manifest.parents)} adapters on {_code(base)}, "
        f"as {manifest.lora.form}, made with clora:\n\n{parents}"
    )


def _code(text: object) -> str:
    return f"`{legible(str(text)).replace('`', chr(39))}`"  # a span of code takes everything as it is but its own end
