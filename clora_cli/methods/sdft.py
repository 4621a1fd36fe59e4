"""Learn from a teacher that has seen the right answer, on answers that the model itself gives: self-distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.intervals import check_option
from clora_cli.data.tokens import IGNORED
from clora_cli.methods import Batch, Run, Text
from clora_cli.methods._slow_copy import SlowCopy
from clora_cli.model.drawing import Draw

__all__ = ["Sdft"]


@dataclass(frozen=True, kw_only=True)
class Sdft(SlowCopy):
    """Learn from a teacher that has seen the right answer, on answers that the model itself gives: self-distillation.

    ``L = 1/T sum_t KL(teacher_t || student_t)`` over the T tokens of an answer that the model draws to the bare question. The teacher
    is a slow copy of the same model (``slow <- d slow + (1 - d) fast``), and its prompt has the question with its right answer before
    the question. No cross-entropy with right answers is learned. Otherwise as seq-lora; every step takes an answer more.

    Args:
        temperature: Of the answers that are drawn; 0 takes the likeliest.
        decay: The share of the slow copy that stays at each step, in [0, 1); 0 has the model teach itself.
        top_k: The teacher's likeliest tokens that the divergence is over, the others counting as one; 0 for all.

    References:
        Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, arXiv:2601.19897. Its eq. 1 prints the divergence the
        other way round; all its results have this one, as an author says (idanshen/Self-Distillation, issue 5) and its code has it by
        default. The teacher moves by 0.01 at each step, a decay of 0.99, in two projects that train by the paper's algorithm 1 and its
        code; Tinker's is frozen, TRL's moves by 0.05 if asked to. Critics: arXiv:2607.01763 finds that dense self-distillation may
        forget more, and collapse; arXiv:2609.24646 bounds the teacher's influence. It needs a model that uses what its prompt shows: a
        base model that does not is taught nothing.
        Differs: the demonstration is the row's own question and answer before the question, without words of instruction, where public
        code has the question, the answer as an example of a response, and a request for one's own.
        Differs: the example takes nothing of the question's room; one of more than ``--max-length`` tokens, or than the model has
        positions left for, loses its start and keeps the answer.
        Differs: the divergence is over the teacher's likeliest tokens, as Tinker has it; TRL takes the student's, the paper the whole
        vocabulary.
        Differs: each row counts as many times as its right answer has tokens, so that micro-batches of any size add up.
        Differs: not the self-distillation of arXiv:2402.13669, in which the base model rewrites the right answers once.
    """

    temperature: float = 1.0
    decay: float = 0.99
    top_k: int = 20

    replaces = False
    learns_answers = False
    takes_classes = False

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("sdft", "decay", self.decay, "[0, 1)")
        for name in ("temperature", "top_k"):
            check_option("sdft", name, getattr(self, name), "[0, inf)")

    def loss(self, run: Run, batch: Batch) -> Tensor:
        """Return the divergence on drawn answers."""
        rows = batch.rows.tolist()
        said = list(zip(rows, run.sampled(rows, Draw(temperature=self.temperature)), strict=True))
        student, counts = run.said_logits(said)
        teacher, others = run.said_logits(said, self.copy(run), [_shown(run.texts[row]) for row in rows])
        # After another prompt a tokenizer may part an answer in another way; such rows have nothing to compare.
        alike = counts == others
        found = self.divergence(student[alike.repeat_interleave(counts)], teacher[alike.repeat_interleave(others)])
        weights = (batch.inputs["labels"] != IGNORED).sum(dim=1) / counts
        return (found * weights[alike].repeat_interleave(counts[alike])).sum() / batch.tokens

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return KL(teacher || student) of logits, shape (token, vocabulary), token by token."""
        new, old = (functional.log_softmax(logits, dim=-1) for logits in (student, teacher))
        if 0 < self.top_k < new.shape[1]:
            best = old.topk(self.top_k).indices
            new, old = (_with_rest(logs.gather(1, best)) for logs in (new, old))
        return functional.kl_div(new, old, reduction="none", log_target=True).sum(dim=1)

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Keep the model that learned, not its teacher."""
        return {}


def _shown(text: Text) -> str:
    return f"{text.question} {text.answer}\n\n"


def _with_rest(logs: Tensor) -> Tensor:
    """Append the logarithm of what is left of a probability of 1."""
    rest = (1 - logs.exp().sum(dim=1, keepdim=True)).clamp_min(torch.finfo(logs.dtype).tiny)
    return torch.cat([logs, rest.log()], dim=1)
