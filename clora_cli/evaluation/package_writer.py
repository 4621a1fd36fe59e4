"""What a package's model writes: new questions, and answers to them (layer L3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from clora_cli.base.progress import Progress
from clora_cli.data.made_rows import MadeRow, asked
from clora_cli.evaluation.answers import generate, rank_labels
from clora_cli.evaluation.combine import Combination, active
from clora_cli.evaluation.evaluate import combination_of, how_routed
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.backbone import Backbone, load_backbone, pick_device
from clora_cli.model.drawing import Draw
from clora_cli.model.imagining import imagine, row_seed
from clora_cli.options import EvalOptions

if TYPE_CHECKING:
    from clora_cli.data import Task
    from clora_cli.evaluation.synthesis_plan import SynthesisPlan

__all__ = ["made_rows"]


def made_rows(plan: SynthesisPlan, progress: Progress) -> Iterator[tuple[str, list[MadeRow]]]:
    """Yield each task's name with the rows that the model makes of it, with one load of the base model.

    Raises:
        CloraError: If the model cannot be loaded, or fails.
    """
    options = plan.options
    device = pick_device(options.device)
    backbone = load_backbone(plan.reference, device=device, dtype=options.dtype, quantize=options.quantize)
    questions = {name: _questions(plan, backbone, name, progress) for name in plan.sources}
    routed = how_routed(plan.members, plan.combine, EvalOptions())
    combination = combination_of(backbone, plan.members, plan.combine, routed, plan.layers)
    for name, rows in plan.sources.items():
        yield name, _answered(plan, backbone, combination, rows.task, name, questions[name], progress)


def _questions(plan: SynthesisPlan, backbone: Backbone, name: str, progress: Progress) -> list[str]:
    """Return new questions from examples in the prompt of the base model, which no adapter acts on yet."""
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


def _answered(
    plan: SynthesisPlan,
    backbone: Backbone,
    combination: Combination,
    task: Task,
    name: str,
    questions: Sequence[str],
    progress: Progress,
) -> list[MadeRow]:
    """Return the questions with the answers of the package's model; of a closed task the likeliest label."""
    if not questions:
        return []
    options = plan.options
    examples = [asked(question, task.template) for question in questions]
    limits = (options.max_length, options.batch_size, options.max_new_tokens)
    prompts = Prompts.encode(backbone, task, examples, *limits)
    before = combination.use(active(plan.members, plan.combine, name), name, prompts)
    with progress.track(f"answers of {name}", len(questions)) as advance:

        def done(rows: int) -> None:
            advance(rows, "")

        answers = (
            rank_labels(prompts, task.labels, done, before)
            if task.labels
            else generate(prompts, prompts.room, done, before)
        )
    return [MadeRow(question, answer) for question, answer in zip(questions, answers, strict=True) if answer]
