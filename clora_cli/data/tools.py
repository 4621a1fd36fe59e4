"""Find conversations that a chat template cannot write: with tools, or with turns that it refuses (layer L1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clora_cli.base.errors import ArtifactError, DataError
from clora_cli.data.findings import few
from clora_cli.data.rows import Rows
from clora_cli.data.task import Example, Task
from clora_cli.data.templates import tool_names
from clora_cli.data.texts import in_brief
from clora_cli.data.tokens import other_kind
from clora_cli.model.base_model import ModelReference

__all__ = ["check_kind", "renderable", "renders", "with_model", "write_chat"]


def renders(example: Example, tokenizer: Any) -> bool:
    """Whether a tokenizer's chat template writes everything about tools: definitions, calls and results."""
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


def write_chat(messages: Sequence[dict[str, Any]], tools: list[Any] | None, tokenizer: Any) -> str:
    """Return a conversation as a tokenizer's chat template writes it, up to the assistant's answer.

    Raises:
        DataError: There is no template, or it refuses the conversation.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "the tokenizer has no chat template; leave out --chat or choose a chat model", code="no-chat-template"
        )
    from jinja2.exceptions import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False))
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the tokenizer's chat template refuses turns of {roles}: {in_brief(error)}",
            code="chat-template-refuses-roles",
        ) from error


def renderable(examples: Sequence[Example], tokenizer: Any) -> tuple[list[Example], str]:
    """Return the rows that a tokenizer can write, and a note on the others; empty if there are none."""
    kept, note = _without_tools(examples, tokenizer)
    kept, refused = _accepted(kept, tokenizer)
    return kept, "; ".join(filter(None, (note, refused)))


def _accepted(examples: Sequence[Example], tokenizer: Any) -> tuple[list[Example], str]:
    """Rows whose turns a template accepts, tried once for each sequence of roles."""
    if not getattr(tokenizer, "chat_template", None):
        return list(examples), ""
    known: dict[tuple[str, ...], str] = {}
    refused: Counter[str] = Counter()
    kept = []
    for example in examples:
        roles = tuple(role for role, _ in example.turns)
        if roles not in known:
            known[roles] = _refusal(example, tokenizer) if roles else ""
        if known[roles]:
            refused[known[roles]] += 1
        else:
            kept.append(example)
    if not refused:
        return kept, ""
    mend = "put a system's text into the first question, or choose a model whose template takes them"
    return kept, f"left out {refused.total()} of {len(examples)} rows: {few(refused)}; {mend}"


def _refusal(example: Example, tokenizer: Any) -> str:
    try:
        write_chat(example.messages, example.tools, tokenizer)
    except DataError as error:
        return str(error)
    return ""


def _without_tools(examples: Sequence[Example], tokenizer: Any) -> tuple[list[Example], str]:
    kept = [example for example in examples if renders(example, tokenizer)]
    if len(kept) == len(examples):
        return kept, ""
    names = {name for example in examples if not renders(example, tokenizer) for name in tool_names(example)}
    named = f" ({few(sorted(names))})" if names else ""
    return kept, (
        f"left out {len(examples) - len(kept)} of {len(examples)} rows: they use tools{named}, which the base model's chat "
        "template cannot write; choose a model whose template can"
    )


def check_kind(task: Task, reference: ModelReference) -> None:
    """Refuse images for a model that reads texts, and texts for one that sees.

    Raises:
        MismatchError: If they are given.
    """
    if (task.template == "image") != reference.sees:
        raise other_kind(f"base model '{reference.id}'", reference.sees)


def with_model(rows: Rows, reference: ModelReference) -> tuple[Rows, str]:
    """Return the rows that a model's tokenizer can write, and a note on the others; it is read only for conversations.

    Args:
        rows: The rows.
        reference: The base model.

    Raises:
        ArtifactError: The tokenizer cannot be read, and there are rows with tools.
        MismatchError: The model reads images and the rows are texts, or the other way round.
    """
    check_kind(rows.task, reference)
    if not any(example.turns for example in rows.examples):
        return rows, ""
    from clora_cli.model.loading import read_tokenizer

    try:
        tokenizer = read_tokenizer(reference)
    except ArtifactError:
        if any(example.tooling for example in rows.examples):
            raise
        return rows, ""  # plans may be made with a model that is not here yet
    kept, note = renderable(rows.examples, tokenizer)
    return replace(rows, examples=kept), note
