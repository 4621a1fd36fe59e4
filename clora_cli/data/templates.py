"""Prompt templates: how a row of each kind becomes an :class:`Example` (layer L1).

========================  ==================================================================================
options                   instruction, the labels to choose from, the text, ``Answer:``
options-named             the same below ``Task:`` and ``Dataset:`` with their names; see ``naming``
natural-instructions      ``Definition:``, the input, ``Output:``
plain                     the prompt as it is in the file
chat                      the conversation; as ``User:``/``Assistant:`` lines where a tokenizer has no template
========================  ==================================================================================

But for ``options-named``, neither the task's nor the dataset's name is in a prompt: a model that is told which task it sees need
not remember.
"""

from __future__ import annotations

from collections.abc import Sequence

from clora_cli.data.task import Example

__all__ = [
    "NATURAL_INSTRUCTIONS_CUE",
    "OPTIONS_CUE",
    "alpaca",
    "chat",
    "natural_instructions",
    "options",
    "options_head",
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


def chat(turns: tuple[tuple[str, str], ...], answers: tuple[str, ...]) -> Example:
    """Return an example of a conversation: system text in the head, its turns in the body.

    Args:
        turns: ``(role, text)`` up to the answer, oldest first.
        answers: Accepted texts of the assistant's next turn.
    """
    opening = [text for role, text in turns[:1] if role == "system"]
    lines = [f"{_SPEAKERS.get(role, role.capitalize())}: {text}" for role, text in turns[len(opening) :]]
    head = f"{opening[0]}\n\n" if opening else ""
    return Example(head, "\n".join(lines), "\nAssistant:", answers, turns)
