"""Rows with tools, which only a chat template that knows of them can write (layer L1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clora_cli.data.findings import few
from clora_cli.data.rows import Rows
from clora_cli.data.task import Example
from clora_cli.data.templates import tool_names
from clora_cli.model.base_model import ModelReference

__all__ = ["renderable", "renders", "with_model"]


def renders(example: Example, tokenizer: Any) -> bool:
    """Whether a tokenizer's chat template writes all that a row has of tools: definitions, calls and results."""
    if not example.tooling:
        return True
    if not getattr(tokenizer, "chat_template", None):
        return False
    template = tokenizer.get_chat_template(tools=example.tools)
    calls = any("tool_calls" in message for message in example.messages)
    needed = {
        "tools": bool(example.tools),
        "tool_calls": calls,
        "tool": any(role == "tool" for role, _ in example.turns),
    }
    return all(word in template for word, wanted in needed.items() if wanted)


def renderable(examples: Sequence[Example], tokenizer: Any) -> tuple[list[Example], str]:
    """Return the rows that a tokenizer can write, and a note on the others; empty if there are none."""
    kept = [example for example in examples if renders(example, tokenizer)]
    if len(kept) == len(examples):
        return kept, ""
    names = {name for example in examples if not renders(example, tokenizer) for name in tool_names(example)}
    named = f" ({few(sorted(names))})" if names else ""
    return kept, (
        f"left out {len(examples) - len(kept)} of {len(examples)} rows: they use tools{named}, which the base model's chat "
        "template cannot write; choose a model whose template can"
    )


def with_model(rows: Rows, reference: ModelReference) -> tuple[Rows, str]:
    """Return the rows that a model's tokenizer can write, and a note on the others; it is read only for rows with tools.

    Args:
        rows: The rows.
        reference: The base model.

    Raises:
        ArtifactError: The tokenizer cannot be read.
    """
    if not any(example.tooling for example in rows.examples):
        return rows, ""
    from clora_cli.model.loading import read_tokenizer

    kept, note = renderable(rows.examples, read_tokenizer(reference))
    return replace(rows, examples=kept), note
