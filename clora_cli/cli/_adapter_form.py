"""What an adapter is made of, for ``clora show`` (layer L4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["form_of", "form_text"]


def form_of(member: AdapterFolder) -> dict[str, Any]:
    """Return what an adapter is made of; ``base_copies`` are weights of the base model, as PEFT saves those of a vocabulary."""
    from clora_cli.algebra.lora import Factor
    from clora_cli.store.adapter_tensors import names_in

    if member.is_prompt:
        prompt = member.prompt()
        return {"form": "prompt", "tokens": len(prompt), "hidden": prompt.shape[1], "parameters": prompt.numel()}
    names = [] if member.is_dense else names_in(member.weights)
    deltas = member.deltas(compare=False)
    return {
        "form": "dense" if member.is_dense else "factors",
        "sites": len(deltas),
        "shapes": sorted({f"{delta.shape[0]} x {delta.shape[1]}" for delta in deltas.values()}),
        "parameters": sum(d.a.numel() + d.b.numel() if isinstance(d, Factor) else d.numel() for d in deltas.values()),
        "base_copies": [f"{name.site}.{name.tensor}" for name in names if name.part == "base"],
    }


def form_text(facts: Mapping[str, Any]) -> str:
    """Return the line of text that says it."""
    parameters = f"{facts['parameters'] / 1e6:.3f} M parameters"
    if facts["form"] == "prompt":
        return f"  prompt   {facts['tokens']} virtual tokens of {facts['hidden']} numbers, {parameters}"
    dense = ", dense deltas" if facts["form"] == "dense" else ""
    return f"  sites    {facts['sites']} ({', '.join(facts['shapes'])}), {parameters}{dense}"
