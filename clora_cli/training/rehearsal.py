"""Rows of earlier tasks that a method makes itself, before training (layer L3)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clora_cli.base.errors import CloraError
from clora_cli.base.files import write_text
from clora_cli.base.progress import Progress
from clora_cli.data import Example, Rows, uses_chat
from clora_cli.data.made_rows import MadeRow, answered, asked, read_made, to_lines
from clora_cli.model.drawing import Draw
from clora_cli.model.generation import write
from clora_cli.model.imagining import row_draws
from clora_cli.processes.meeting import agree
from clora_cli.processes.ranks import is_main_process
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.training.build import Built
from clora_cli.training.plan import Plan
from clora_cli.training.prompting import last_prompt
from clora_cli.training.undisturbed import undisturbed

__all__ = ["rehearsed"]

_KEPT = "rehearsed.jsonl"


def rehearsed(plan: Plan, built: Built, progress: Progress) -> Plan:
    """Return the plan with the rows that its method makes of earlier tasks, if it makes any.

    They are kept beside the checkpoints: a run that is continued rehearses the same rows.

    Args:
        plan: The run.
        built: Its model before the first step, which is the previous model.
        progress: Who to tell.

    Raises:
        CloraError: If the model cannot generate, or processes make different rows.
    """
    memory = plan.method.memory
    if memory is None or not memory.made or not plan.memory:
        return plan
    kept = plan.work / _KEPT
    there = kept.is_file()
    agree(lambda: {"rehearsed rows": "there" if there else "none"})
    if there:
        lines = kept.read_text(encoding="utf-8")
        found = {rows.task.name: rows.examples for rows in read_made(kept)}
    else:
        made = [(rows.task, _made(plan, built, progress, rows)) for rows in plan.memory]
        lines = "".join(to_lines(task.name, rows, task.template) for task, rows in made)
        found = {task.name: [answered(row, task.template) for row in rows] for task, rows in made}
    agree(lambda: {"rehearsed rows": hashlib.sha256(lines.encode("utf-8")).hexdigest()})
    if is_main_process() and lines and not there:
        write_text(kept, lines)
    filled = [dataclasses.replace(rows, examples=found.get(rows.task.name, ())) for rows in plan.memory]
    return dataclasses.replace(plan, memory=filled)


def told(plan: Plan) -> dict[str, Any]:
    """Return what the manifest says of the rows that the method made itself."""
    if (memory := plan.method.memory) is None or not (memory.made and plan.memory):
        return {}
    return {"rehearsed": {r.task.name: {"rows": len(r.examples), "wanted": r.limit} for r in plan.memory}}


def _made(plan: Plan, built: Built, progress: Progress, rows: Rows) -> list[MadeRow]:
    """Return the rows that are made of one earlier task."""
    name, method = rows.task.name, plan.method.rehearsing
    member = next(member for member in plan.past if member.task == name)
    with progress.track(f"rows of {name}", rows.limit) as advance:
        found = list(method.rehearse(member, rows.limit, _Previous(plan, built, member, rows)))[: rows.limit]
        advance(rows.limit, "")
    if not all(isinstance(row, MadeRow) for row in found):
        raise CloraError(f"method {plan.method.name}: rehearse() is to return MadeRow", code="hook-returns-wrong")
    if not found:
        progress.warn(f"the model made no row of '{name}', which this run does not rehearse")
    return found


@dataclass(frozen=True, eq=False)
class _Previous:
    """The previous model, which writes; see ``methods.Writer``."""

    plan: Plan
    built: Built
    member: AdapterFolder
    rows: Rows

    def written(self, beginning: str, draw: Draw, *, count: int, most: int) -> list[str]:
        draws = row_draws(draw, count, self.plan.seed, self.member.task)
        return self._write([Example(beginning, "", "", ())] * count, draws, most, chat=False)

    def answers(self, questions: Sequence[str]) -> list[str]:
        prompts = [asked(question, self.rows.task.template) for question in questions]
        chat = uses_chat(self.rows.task, self.built.backbone.tokens)
        return self._write(prompts, [Draw()] * len(prompts), self.plan.options.max_answer_length, chat=chat)

    def _write(self, prompts: Sequence[Example], draws: Sequence[Draw], most: int, *, chat: bool) -> list[str]:
        options, backbone = self.plan.options, self.built.backbone
        vectors = self.built.past[-1].prompt() if self.plan.tunes_prompt else None
        with undisturbed(self.built.model), last_prompt(backbone, vectors) as before:
            return write(
                backbone,
                prompts,
                draws,
                most=most,
                max_length=options.max_length,
                batch_size=options.batch_size,
                chat=chat,
                before=before,
            )
