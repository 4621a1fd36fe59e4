"""Train one LoRA on through all tasks, which also learns to write their rows, and rehearse those of earlier tasks."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.methods._written_rows import WrittenRows

__all__ = ["Lamol"]


@dataclass(frozen=True, kw_only=True)
class Lamol(WrittenRows):
    """Train one LoRA on through all tasks, which also learns to write their rows, and rehearse those of earlier tasks.

    ``L = L_QA + strength * L_LM``: the answer's tokens given the question, and all tokens of ``[task] question answer`` given
    ``[task]``. Before each new task the model writes ``share * rows`` rows in all, as many of every earlier task, from ``[task]``
    on; those that lack the line between question and answer, or repeat another's question, are dropped. That line is the
    questions' own, such as ``Answer:``; where they have none, ``The answer is:`` stands there. Rows are trained on as if they were
    the new task's. No row of an earlier task is needed.

    Args:
        share: Made rows of all earlier tasks together, as a share of the new task's, in [0, 1].
        strength: The weight of L_LM, at least 0.
        temperature: Of the rows that are written; 0 takes the likeliest tokens.
        top_k: Tokens are drawn from so many of the likeliest; 0 for all.

    References:
        Sun, Ho and Lee, LAMOL: LAnguage MOdeling for Lifelong Language Learning, ICLR 2020, arXiv:1909.03329. Both losses, what they are
        over, the rows' number, drawing and parting, strength (lambda) 0.25 and top_k 20 are those of its published code
        (jojotenya/LAMOL@03c31d9); share (gamma) is 0.2 in that code's example and 0.05 where nothing is said. An implementation by others
        has the same two losses, 0.25 and 0.2.
        Differs: LoRA where the paper trains GPT-2 whole, and words where it adds tokens to the vocabulary; as there, what parts question
        and answer is the same in both losses.
        Differs: the name of the task stands before its rows, as under that code's ``add_task_tokens``; otherwise it has one word for all.
        Differs: the mark counts as any other token, where that code weighs it five times in both losses.
        Differs: L_LM is each row's mean, weighed by its number of answer tokens, so that micro-batches of any size add up.
        Differs: rows are dropped for a repeated question too; then fewer are rehearsed, where the paper has repetitions.
        Differs: of a conversation the last turn is the question.
        Differs: public code for larger models has no L_LM, and lets the model continue a row of the new task: what comes
        of that is no earlier task's.
    """

    name = "lamol"
