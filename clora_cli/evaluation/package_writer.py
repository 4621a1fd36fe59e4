"""What a package's model writes: new questions, answers to them, and what a method lets it write (layer L3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from clora_cli.base.errors import MismatchError
from clora_cli.base.progress import Progress
from clora_cli.data import Example, Task
from clora_cli.data.made_rows import MadeRow, asked
from clora_cli.evaluation.answers import generate, rank_labels
from clora_cli.evaluation.combine import Combination, active
from clora_cli.evaluation.evaluate import combination_of, how_routed
from clora_cli.evaluation.prompts import Before, Prompts
from clora_cli.evaluation.synthesis_plan import SynthesisPlan, own_way
from clora_cli.model.backbone import Backbone, load_backbone, pick_device
from clora_cli.model.drawing import Draw
from clora_cli.model.generation import write
from clora_cli.model.imagining import imagine, row_draws, row_seed
from clora_cli.options import EvalOptions

__all__ = ["made_rows"]


def made_rows(plan: SynthesisPlan, progress: Progress) -> Iterator[tuple[str, list[MadeRow]]]:
    """Yield each task's name with the rows that the model makes of it, with one load of the base model.

    Raises:
        CloraError: If the model cannot be loaded, or fails.
    """
    options = plan.options
    device = pick_device(options.device)
    backbone = load_backbone(
        plan.reference, device=device, dtype=options.dtype, quantize=options.quantize, progress=progress
    )
    # No adapter acts yet: it is the base model that makes questions.
    asked_first = {
        name: _questions(plan, backbone, name, progress) for name, rows in plan.sources.items() if rows.examples
    }
    routed = how_routed(plan.members, plan.combine, EvalOptions())
    combination = combination_of(backbone, plan.members, plan.combine, routed, plan.layers, progress)
    for name in plan.sources:
        writer = _Package(plan, backbone, combination, name, progress)
        yield name, writer.answered(asked_first[name]) if name in asked_first else writer.rows()


def _questions(plan: SynthesisPlan, backbone: Backbone, name: str, progress: Progress) -> list[str]:
    """Return new questions from examples in the prompt of the base model."""
    options = plan.options
    seed = row_seed(options.seed, name)
    with progress.track(f"questions of {name}", options.rows) as advance:
        return imagine(
            backbone,
            plan.sources[name].examples,
            options.rows,
            shots=options.shots,
            draw=Draw(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, seed=seed),
            max_length=options.max_length,
            batch_size=options.batch_size,
            done=lambda count: advance(count, ""),
        )


@dataclass(frozen=True, eq=False)
class _Package:
    """The package's model, which writes of one of its tasks; see ``methods.Writer``."""

    plan: SynthesisPlan
    backbone: Backbone
    combination: Combination
    name: str
    progress: Progress

    @cached_property
    def task(self) -> Task:
        return self.plan.sources[self.name].task

    def rows(self) -> list[MadeRow]:
        """Return the rows that the task's method makes."""
        member = next(member for member in self.plan.members if member.task == self.name)
        method = own_way(member)
        return list(method.rehearse(member, self.plan.options.rows, self)) if method else []

    def answered(self, questions: Sequence[str]) -> list[MadeRow]:
        """Return questions with the model's answers."""
        pairs = zip(questions, self.answers(questions), strict=True)
        return [MadeRow(question, answer) for question, answer in pairs if answer]

    def answers(self, questions: Sequence[str]) -> list[str]:
        """Return the model's answer to each question; of a closed task the likeliest label."""
        if not questions:
            return []
        prompts = self._prompts([asked(question, self.task.template) for question in questions])
        prompts, before = self._use(prompts)
        with self.progress.track(f"answers of {self.name}", len(questions)) as advance:

            def done(rows: int) -> None:
                advance(rows, "")

            if self.task.labels:
                return rank_labels(prompts, self.task.labels, done, before)
            return generate(prompts, prompts.room, done, before)

    def written(self, beginning: str, draw: Draw, *, count: int, most: int) -> list[str]:
        """Return texts that the model writes after a beginning.

        Raises:
            MismatchError: If its adapters are chosen by the prompt, or are soft prompts before it.
        """
        options = self.plan.options
        texts = [Example(beginning, "", "", ())] * count
        prompts = self._prompts(texts[:1])
        if self._use(prompts) != (prompts, None):
            raise MismatchError(
                f"{self.plan.combine} acts on whole prompts, and rows of '{self.name}' are written from their start",
                code="rows-not-writable-routed",
            )
        draws = row_draws(draw, count, options.seed, self.name)
        with self.progress.track(f"rows of {self.name}", count) as advance:
            return write(
                self.backbone,
                texts,
                draws,
                most=most,
                max_length=options.max_length,
                batch_size=options.batch_size,
                done=lambda rows: advance(rows, ""),
            )

    def _prompts(self, rows: Sequence[Example]) -> Prompts:
        options = self.plan.options
        limits = (options.max_length, options.batch_size, options.max_new_tokens)
        return Prompts.encode(self.backbone, self.task, rows, *limits)

    def _use(self, prompts: Prompts) -> tuple[Prompts, Before | None]:
        return self.combination.use(active(self.plan.members, self.plan.combine, self.name), prompts)
