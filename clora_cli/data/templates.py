"""Prompt templates: build an :class:`Example` from a row of each kind (layer L1).

========================  ==================================================================================
options                   instruction, the labels to choose from, the text, ``Answer:``
options-named             the same below ``Task:`` and ``Dataset:`` with their names; see ``naming``
natural-instructions      ``Definition:``, the input, ``Output:``
plain                     the prompt as it is in the file
alpaca                    the instruction, the input if there is one, ``Response:``
text-label                the text, ``Answer:``; of two texts each on a line under its column's name
choice                    as question-answer, the choices under letters below the question; the answer is a letter
question-answer           the context if there is one, the question, ``Answer:``
image                     no text: an image, which is known by its bytes
chat                      the conversation; as ``User:``/``Assistant:`` lines where a tokenizer has no template
========================  ==================================================================================

Except for ``options-named``, no prompt contains the name of the task or dataset: with it, a model would not need to remember the
task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from clora_cli.data.task import Example

__all__ = [
    "NATURAL_INSTRUCTIONS_CUE",
    "OPTIONS_CUE",
    "alpaca",
    "chat",
    "each_answer",
    "earlier_answers",
    "natural_instructions",
    "options",
    "options_head",
    "pair",
    "question",
    "tool_names",
    "tooling_text",
]

OPTIONS_CUE = "\nAnswer:"
NATURAL_INSTRUCTIONS_CUE = "\nOutput:"
_SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Tool", "system": "System"}


def options_head(instruction: str, labels: Sequence[str]) -> str:
    """Return the head of an ``options`` prompt; empty without an instruction (COPA states its choice in the text)."""
    return f"{instruction}\nOption: {', '.join(labels)}\n" if instruction else ""


def options(head: str, text: str, answers: tuple[str, ...]) -> Example:
    """Return an example that asks for one of the labels in ``head``.

    A text that already ends in the cue loses it: some public files carry ``Answer:`` at the end of one split's rows
    and not of the other's, and the prompt must ask once, in the same way, everywhere.
    """
    text = text.strip()
    if has_cue(text, OPTIONS_CUE):
        text = text[: -len(OPTIONS_CUE.strip())].rstrip()
    return Example(head, text, OPTIONS_CUE, answers)


def has_cue(text: str, cue: str) -> bool:
    """Whether the last line of a text is nothing but the cue."""
    text = text.rstrip()
    return text.endswith(cue) or text == cue.strip()


def natural_instructions(definition: str, text: str, answers: tuple[str, ...]) -> Example:
    """Return a zero-shot Natural-Instructions example."""
    head = f"Definition: {definition}\n\nNow complete the following example -\nInput: "
    return Example(head, text.strip(), NATURAL_INSTRUCTIONS_CUE, answers)


def alpaca(instruction: str, text: str, answers: tuple[str, ...]) -> Example:
    """Return an example of an instruction with an optional input; an instruction alone is the body and may be cut."""
    cue = "\nResponse:"
    instruction, text = instruction.strip(), text.strip()
    return Example(f"{instruction}\n", text, cue, answers) if text else Example("", instruction, cue, answers)


def pair(names: tuple[str, str], texts: tuple[str, str], labels: tuple[str, ...]) -> Example:
    """Return an example of two texts under their columns' names and a label of the two."""
    lines = [f"{name}: {text.strip()}" for name, text in zip(names, texts, strict=True)]
    # A single text is not a pair: without both there is nothing to label.
    return Example("", "\n".join(lines) if all(text.strip() for text in texts) else "", OPTIONS_CUE, labels)


def question(text: str, context: str, answers: tuple[str, ...]) -> Example:
    """Return an example of a question, on a context if there is one; both may be cut."""
    text, context = text.strip(), context.strip()
    return Example("", f"{context}\n{text}" if context and text else text, OPTIONS_CUE, answers)


def chat(
    turns: tuple[tuple[str, str], ...], answers: tuple[str, ...], muted: tuple[int, ...] = (), tooling: str = ""
) -> Example:
    """Return an example of a conversation: system text in the head, its turns in the body.

    Args:
        turns: ``(role, text)`` up to the answer, oldest first.
        answers: Accepted texts of the assistant's next turn.
        muted: Numbers of turns that must not be learned.
        tooling: As ``Example`` has it.
    """
    opening = [text for role, text in turns[:1] if role == "system"]
    lines = [f"{_SPEAKERS.get(role, role.capitalize())}: {text}" for role, text in turns[len(opening) :]]
    head = f"{opening[0]}\n\n" if opening else ""
    return Example(head, "\n".join(lines), "\nAssistant:", answers, turns, muted, tooling)


def earlier_answers(example: Example) -> list[int]:
    """Return the indices of a conversation's earlier answers: the assistant's turns, unless muted, empty or a call."""
    barred = {*example.muted, *(i for i, message in enumerate(_beside(example)) if "tool_calls" in message)}
    turns = enumerate(example.turns)
    return [i for i, (role, text) in turns if i and role == "assistant" and i not in barred and text.strip()]


def tool_names(example: Example) -> list[str]:
    """Return the names of the tools that a conversation defines, calls or has results of."""
    functions = [tool.get("function", tool) for tool in example.tools or ()]
    functions += [call["function"] for message in _beside(example) for call in message.get("tool_calls", ())]
    return list(dict.fromkeys(str(function["name"]) for function in functions if "name" in function))


def _beside(example: Example) -> list[dict[str, Any]]:
    return example.messages if example.tooling else []


def each_answer(example: Example) -> list[Example]:
    """Return an example for every answer in a conversation, the oldest first, itself the last.

    Each has the turns before its answer as its prompt.
    """
    earlier = []
    for i in earlier_answers(example):
        muted = tuple(number for number in example.muted if number < i)
        earlier.append(chat(example.turns[:i], (example.turns[i][1],), muted, _until(example.tooling, i)))
    return [*earlier, example]


def _until(tooling: str, stop: int) -> str:
    if not tooling:
        return ""
    known = json.loads(tooling)
    return tooling_text(
        known["tools"], {number: kept for number, kept in known["messages"].items() if int(number) < stop}
    )


def tooling_text(tools: Sequence[Any], messages: Mapping[str, Any]) -> str:
    """Return ``Example.tooling`` from the definitions of tools and the entries of turns beside role and text."""
    if not tools and not messages:
        return ""
    return json.dumps({"tools": list(tools), "messages": dict(messages)}, ensure_ascii=False, sort_keys=True)
