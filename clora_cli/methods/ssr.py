"""Train one LoRA on through all tasks, and rehearse questions that the base model made, answered by the latest model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.clusters import clusters
from clora_cli.base.intervals import check_option
from clora_cli.methods import MadeRow, Memory, Method, Planned, Run, Writer
from clora_cli.methods._kept import check_kept
from clora_cli.model.drawing import Draw
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Ssr"]

_QUESTIONS = "questions"


@dataclass(frozen=True, kw_only=True)
class Ssr(Method):
    """Train one LoRA on through all tasks, and rehearse questions that the base model made, answered by the latest model.

    After a task, the base model writes new questions, its prompt a few of the task's own as examples. k-means divides them by
    their embeddings; of each cluster, those nearest to its centre are kept, as many as its share of all. Before each later task
    the model as it is then answers them, and they are trained on as if they were the new task's. The adapter keeps made
    questions, and no row of a task; one that repeats a row is dropped.

    Args:
        rows: Questions of each task that are kept at most, at least 1.
        surplus: How many times that are made to choose from, at least 1.
        shots: Examples in each prompt, at least 1.
        groups: Clusters at most, at least 1.
        temperature: Of the questions' tokens; 0 takes the likeliest.

    References:
        Huang et al., Mitigating Catastrophic Forgetting in Large Language Models with Self-Synthesized Rehearsal, ACL 2024,
        arXiv:2403.01244; the steps are those of its published code (DeepLearnXMU/SSR@38d2a06): 2 shots, temperature 0.9, 20 clusters of the
        made questions, those nearest to each centre, 200 rows a task, answered greedily by the model as it is before each task. Two
        implementations by others (ECNU-ICALK/EasyCL one of them) have the same three steps.
        Differs: rows are 50 here, as in replay. How many are made to choose from is clora's choice.
        Differs: only the body of a question is made; instruction and cue are those of an example. The base model is asked for no answer,
        which that code wants, to see where a question ends, and then leaves out.
        Differs: any examples, where that code takes all pairs of twenty rows; no repetition penalty of 1.2, no top-p of 0.6.
        Differs: the clusters' shares add up to the rows asked for, where that code rounds each.
        Differs: embeddings are means of the base model's token embeddings, where the paper takes those of SimCSE.
        Differs: questions are made while the task's own rows are at hand; the code reads some of each earlier task again.
    """

    past = "none"
    start = "previous"
    combine = "last"
    takes_classes = False

    rows: int = 50
    surplus: float = 2.0
    shots: int = 2
    groups: int = 20
    temperature: float = 0.9

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("rows", "surplus", "shots", "groups"):
            check_option("ssr", name, getattr(self, name), "[1, inf)")
        check_option("ssr", "temperature", self.temperature, "[0, inf)")

    def memory(self) -> Memory:
        """Return that earlier tasks' rows are made."""
        return Memory(rows=self.rows, made=True)

    def check(self, plan: Planned) -> None:
        """Check that all earlier adapters keep made questions.

        Raises:
            MismatchError: If one keeps none.
        """
        lacking = "keeps no made questions; train the whole package with --method ssr"
        check_kept(plan.past, lambda member: _QUESTIONS in member.state(), lacking)

    def rehearse(self, earlier: AdapterFolder, rows: int, writer: Writer) -> Sequence[MadeRow]:
        """Return an earlier task's questions with the latest model's answers."""
        questions = json.loads(bytes(earlier.state()[_QUESTIONS].tolist()))[:rows]
        pairs = zip(questions, writer.answers(questions), strict=True)
        return [MadeRow(question, answer) for question, answer in pairs if answer]

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return the questions that are kept, as JSON in bytes."""
        draw = Draw(temperature=self.temperature)
        made = run.imagined(math.ceil(self.surplus * self.rows), self.shots, draw)
        kept = [made[number] for number in self.chosen(run.embedded(made), run.seed)] if made else []
        return {_QUESTIONS: torch.frombuffer(bytearray(json.dumps(kept).encode()), dtype=torch.uint8)}

    def chosen(self, vectors: Tensor, seed: int) -> list[int]:
        """Return the numbers of the questions that stand for all, in order.

        Args:
            vectors: The questions' embeddings, shape (question, hidden).
            seed: Of the first centres.
        """
        owner, total = clusters(vectors, self.groups, seed), len(vectors)
        wanted, before, found = min(self.rows, total), 0, list[int]()
        for number, count in enumerate(owner.bincount().tolist()):
            members = (owner == number).nonzero().flatten()
            far = (vectors[members] - vectors[members].mean(dim=0)).norm(dim=1)
            share = wanted * (before + count) // total - wanted * before // total
            found += members[far.argsort(stable=True)[:share]].tolist()
            before += count
        return sorted(found)
