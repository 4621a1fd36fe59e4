"""New questions of a task, made by a model from a few of the task's as examples in its prompt (layer L1)."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Sequence

from clora_cli.data import Example
from clora_cli.data.made_rows import distinct, fitting, question_of
from clora_cli.model.backbone import Backbone
from clora_cli.model.drawing import Draw
from clora_cli.model.generation import write

__all__ = ["imagine", "row_draws", "row_seed"]

_ATTEMPTS = 4  # texts that are drawn for each question that is asked for, at most
_SLACK = 8  # tokens that a new text may be longer than the longest example
_NEXT = re.compile(r"\s*\bText \d+:")  # where a model goes on with the list


def row_seed(seed: int, *place: object) -> int:
    """Return the seed of one row's draws."""
    return random.Random(f"{seed}/{'/'.join(map(str, place))}").getrandbits(62)


def row_draws(draw: Draw, count: int, seed: int, task: str) -> list[Draw]:
    """Return how the tokens of a task's rows are chosen, those of each row by a seed of its own."""
    return [dataclasses.replace(draw, seed=row_seed(seed, task, number)) for number in range(count)]


def imagine(
    backbone: Backbone,
    examples: Sequence[Example],
    count: int,
    *,
    shots: int,
    draw: Draw,
    max_length: int,
    batch_size: int,
    done: Callable[[int], None] = lambda rows: None,
) -> list[str]:
    """Return new questions of a task, none of them one of its own.

    The prompt is a numbered list of bodies of ``shots`` rows, others for each attempt; the model writes the next entry. What
    stands around the body, an instruction and a cue, is the first example's. Empty texts and repetitions are dropped, and more
    are drawn for them, four for each that is wanted at most.

    Args:
        backbone: The model.
        examples: The task's rows, at least one.
        count: Questions that are wanted.
        shots: Rows in each prompt.
        draw: How tokens are chosen; its seed decides the examples too.
        max_length: Tokens of the prompt at most, which loses its first examples, and of a question, which is cut as a row is.
        batch_size: Prompts of one forward pass.
        done: Told the number of texts after each batch.

    Returns:
        At most ``count`` questions, fewer where the model repeats itself.
    """
    known, seed = [question_of(example) for example in examples], draw.seed or 0
    lengths = [len(ids) for ids in backbone.tokenizer([_body(one) for one in examples], verbose=False)["input_ids"]]
    found: list[str] = []
    for start in range(0, _ATTEMPTS * count, count):
        numbers = range(start, start + count)
        chosen = [_shown(examples, shots, row_seed(seed, number, "examples")) for number in numbers]
        texts = write(
            backbone,
            [_prompt([examples[row] for row in rows]) for rows in chosen],
            [dataclasses.replace(draw, seed=row_seed(seed, number)) for number in numbers],
            most=max(lengths) + _SLACK,
            max_length=max_length,
            batch_size=batch_size,
            done=done,
        )
        pairs = zip(texts, chosen, strict=True)
        made = [_question(text, [examples[row] for row in rows]) for text, rows in pairs]
        fits = [
            fitting(one, backbone.tokens, kind=backbone.prompt_kind, max_length=max_length) for one in made if one.body
        ]
        found = distinct([*found, *fits], known)
        if len(found) >= count:
            break
    return found[:count]


def _shown(examples: Sequence[Example], shots: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(len(examples)), min(shots, len(examples)))


def _body(example: Example) -> str:
    """Return what of a row is new in each: the text without instruction and cue."""
    return question_of(example) if example.turns or not example.body.strip() else example.body


def _prompt(shown: Sequence[Example]) -> Example:
    """Return the list of examples, up to the number of the next entry; where it is too long, it is cut from its start."""
    entries = "".join(f"Text {number}: {_body(one)}\n\n" for number, one in enumerate(shown, start=1))
    return Example("", entries, f"Text {len(shown) + 1}:", ())


def _question(text: str, shown: Sequence[Example]) -> Example:
    """Return the entry that a model wrote as a whole question; without a body if there is none."""
    entry = _NEXT.split(text.strip())[0]
    if not any("\n" in _body(one).strip() for one in shown):
        entry = entry.partition("\n")[0]
    frame = shown[0]
    framed = not frame.turns and bool(frame.body.strip())
    return Example(frame.head if framed else "", entry.strip(), frame.cue if framed else "", ())
