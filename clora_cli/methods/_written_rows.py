"""What methods share whose model learns to write its tasks' rows, and rehearses what it writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.base.intervals import check_option
from clora_cli.data.tokens import IGNORED
from clora_cli.methods import Batch, MadeRow, Memory, Method, Planned, Run, Text, Writer
from clora_cli.methods._kept import check_kept
from clora_cli.model.drawing import Draw
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["WrittenRows"]

_LONGEST, _CUES = "longest", "cues"
_MARK = "The answer is:"  # plain words: what a model never met as a token, such as a bracket, a frozen output layer cannot say
_CUE = re.compile(r"\S\s*\n([^\n]{1,40}:)\s*$")


@dataclass(frozen=True, kw_only=True)
class WrittenRows(Method):
    """Base of methods that learn ``[task] question answer`` given ``[task]``, and rehearse what they write from there.

    A question is known by the line that it ends with, such as ``Answer:``: answers follow that line in the rows themselves, and
    another mark would have to be said where the model learns to answer. Where no such line ends it, ``The answer is:`` follows.

    Attributes:
        share: Made rows of all earlier tasks together, as a share of the new task's, in [0, 1].
        strength: The weight of the whole rows' loss, at least 0.
        temperature: Of the rows that are written; 0 takes the likeliest tokens.
        top_k: Tokens are drawn from so many of the likeliest; 0 for all.
        name: The method's own.
    """

    name = ""

    past = "none"
    start = "previous"
    combine = "last"
    takes_classes = False

    share: float = 0.2
    strength: float = 0.25
    temperature: float = 1.0
    top_k: int = 20

    def __post_init__(self) -> None:
        """Check the options."""
        check_option(self.name, "share", self.share, "[0, 1]")
        for name in ("strength", "temperature", "top_k"):
            check_option(self.name, name, getattr(self, name), "[0, inf)")

    def memory(self) -> Memory:
        """Return that earlier tasks' rows are made."""
        return Memory(share=self.share, made=True)

    def check(self, plan: Planned) -> None:
        """Check that all earlier adapters learned to write rows.

        Raises:
            MismatchError: If one did not.
        """
        lacking = f"did not learn to write rows; train the whole package with --method {self.name}"
        check_kept(plan.past, lambda member: _LONGEST in member.state(), lacking)

    def rehearse(self, earlier: AdapterFolder, rows: int, writer: Writer) -> Sequence[MadeRow]:
        """Return the rows that the model writes after an earlier task's name."""
        draw = Draw(temperature=self.temperature, top_k=self.top_k)
        most = int(earlier.state()[_LONGEST])
        cues = json.loads(bytes(earlier.state()[_CUES].tolist())) if _CUES in earlier.state() else [""]
        found: dict[str, MadeRow] = {}
        for text in writer.written(_beginning(earlier.task), draw, count=rows, most=most):
            if (row := _parted(text, cues)) is not None:
                found.setdefault(row.question, row)
        return list(found.values())

    def loss(self, run: Run, batch: Batch) -> Tensor | None:
        """Return the weighted loss of whole rows."""
        if not self.strength:
            return None
        texts = [run.texts[row] for row in batch.rows.tolist()]
        losses = run.text_losses([(_beginning(text.task), _whole(text)) for text in texts])
        answers = (batch.inputs["labels"] != IGNORED).sum(dim=1)
        return self.strength * (losses * answers).sum() / batch.tokens

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return how long a row of this task is at most, in tokens, and the lines that its questions end with, as JSON in bytes."""
        own = [text for text in run.texts if text.task == run.texts[0].task]
        cues = json.dumps(sorted({_cue(text.question) for text in own}))
        return {
            _LONGEST: torch.tensor(1 + max(run.lengths([_whole(text) for text in own]))),
            _CUES: torch.frombuffer(bytearray(cues.encode()), dtype=torch.uint8),
        }


def _beginning(task: str) -> str:
    return f"[{task}]"


def _cue(question: str) -> str:
    """Return the line that a question ends with and that asks for the answer; empty if there is none."""
    found = _CUE.search(question)
    return found[1] if found else ""


def _whole(text: Text) -> str:
    return f"{text.question.rstrip()} {'' if _cue(text.question) else f'{_MARK} '}{text.answer}"


def _parted(text: str, cues: Sequence[str]) -> MadeRow | None:
    """Return a written text as a row; None if it lacks the line between question and answer, or has it twice."""
    for cue in cues:
        question, *answers = re.split(rf"\s*{re.escape(cue or _MARK)}\s*", text, flags=re.IGNORECASE)
        if question and len(answers) == 1 and answers[0]:
            return MadeRow(f"{question}\n{cue}" if cue else question, answers[0])
    return None
