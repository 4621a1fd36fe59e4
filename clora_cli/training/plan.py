"""Make a plan from options: find and check everything before training (layer L3)."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import DataError, MismatchError, OptionError
from clora_cli.base.folder_names import folder_problem, twin
from clora_cli.base.intake import real_path
from clora_cli.base.options import recorded
from clora_cli.base.progress import Progress, Silent
from clora_cli.base.versions import versions
from clora_cli.data import Example, Rows, Task, load_task, tell_notes
from clora_cli.data.tools import with_model
from clora_cli.model.base_model import ModelReference, check_base, find_model
from clora_cli.options import TrainOptions
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.adapter_writing import check_place, finished
from clora_cli.store.heads import check_heads
from clora_cli.store.package import read_package
from clora_cli.store.withholding import WITHHELD
from clora_cli.training.composition import Composition, compose
from clora_cli.training.earlier import check_earlier
from clora_cli.training.encoders import check_augment, check_classes, check_encoder, told_of_one_class
from clora_cli.training.memory import read_memory
from clora_cli.training.row_order import order_of_examples, rows_to_read, run_seed, with_defaults

if TYPE_CHECKING:
    from clora_cli.store.ledger import Ledger

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A run that can start: its inputs exist and fit together.

    Attributes:
        options: What was asked for.
        method: The bound method or methods.
        reference: The base model.
        task: The data.
        past: The earlier adapters, by stage.
        stage: The new adapter's place, from 1.
        out: The new adapter's folder.
        drawn: The training rows.
        dependents: Later adapters that were trained on top of the one that ``out`` holds now.
        members: All other adapters of the package, later ones included.
        ledger: Who owns what of the LoRA that they share; None if there is none yet, or the method shares none.
        memory: Rows of earlier tasks that the run may read, by task.
        read: All adapters of the package, as they were when this was planned.
    """

    options: TrainOptions
    method: Composition
    reference: ModelReference
    task: Task
    past: Sequence[AdapterFolder]
    stage: int
    out: Path
    drawn: Rows
    dependents: Sequence[AdapterFolder] = ()
    members: Sequence[AdapterFolder] = ()
    ledger: Ledger | None = None
    memory: Sequence[Rows] = ()
    read: Sequence[AdapterFolder] = ()

    @property
    def rows(self) -> Sequence[Example]:
        """The task's own training rows."""
        return self.drawn.examples

    @property
    def remembered(self) -> int:
        """Number of earlier tasks' rows that are trained on again; they follow the task's own in ``order``."""
        memory = self.method.memory
        return sum(len(rows.examples) for rows in self.memory) if memory and memory.mixed else 0

    @property
    def parents(self) -> Sequence[AdapterFolder]:
        """The earlier adapters that this run builds on: all, the last, or none, as its method has it."""
        return self.parents_of(self.past)

    def parents_of(self, past: Sequence[AdapterFolder]) -> Sequence[AdapterFolder]:
        """Return those of all earlier adapters that this run builds on."""
        if self.method.lead.start == "previous":
            return past[-1:]
        return () if self.method.lead.past == "none" and self.method.lead.start == "fresh" else past

    @property
    def package(self) -> Path:
        """The package that the adapter will join."""
        return self.options.package

    @property
    def tunes_prompt(self) -> bool:
        """Whether the new adapter is a soft prompt."""
        return self.method.lead.virtual_tokens() > 0

    @property
    def rank(self) -> int:
        """The new adapter's rank."""
        return self.options.rank

    @property
    def seed(self) -> int:
        """The seed of this task's run."""
        return run_seed(self.options.seed, self.task.name)

    @property
    def work(self) -> Path:
        """The hidden folder that holds checkpoints while the run is unfinished."""
        return self.out.parent / f".{self.out.name}.unfinished"

    @property
    def order(self) -> list[int]:
        """The rows in the order in which the run reads them: the task's own by number, then those of the memory."""
        drawn = (self.drawn, *(self.memory if self.remembered else ()))
        lengths = [row.size for rows in drawn for row in rows.examples]
        return order_of_examples(len(lengths), self.options, self.seed, lengths)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run; 0 if its method trains nothing."""
        if not self.method.lead.trains:
            return 0
        rows = rows_to_read(len(self.rows) + self.remembered, self.options)
        return rows // (self.options.batch_size * self.options.grad_accum)

    def recipe(self) -> dict[str, Any]:
        """Return what decides the result: two runs with equal recipes write equal adapters."""
        options, task = self.options, self.task
        return {
            "task": task.name,
            "stage": self.stage,
            "method": self.method.recorded(),
            "base_model": self.reference.recorded(),
            "lora": self._form(),
            "parents": [{"task": member.task, "sha256": member.digest} for member in self.parents],
            "data": {
                "name": task.name,
                "fingerprint": task.fingerprint,
                "template": task.template,
                "metric": task.metric,
                "labels": list(task.labels),
                "train_rows": len(self.rows),
                **({"memory": self._remembered()} if self.method.memory else {}),
            },
            "training": recorded(options, "training"),
            "seed": options.seed,
        }

    def _form(self) -> dict[str, Any]:
        if self.tunes_prompt:
            return {"form": "prompt"}
        if self.method.full_rank:
            return {"form": "full-rank", "target_modules": list(self.options.target_modules)}
        return recorded(self.options, "lora")

    def _remembered(self) -> list[dict[str, Any]]:
        """Return what the recipe says of each earlier task's rows, which were drawn from those that it was trained on, or a file's."""
        if (memory := self.method.memory) is not None and memory.made:
            return [
                {"name": rows.task.name, "split": "train", "limit": rows.limit, "made": True} for rows in self.memory
            ]
        if memory is not None and memory.file:
            return [rows.recorded() for rows in self.memory]
        found = []
        for rows, member in zip(self.memory, self.past, strict=True):
            if (manifest := member.manifest) is None:
                continue
            drawn = {"of": manifest.data.train_rows, "seed": manifest.seed}
            kept = {"fingerprint": WITHHELD} if manifest.data.fingerprint == WITHHELD else {}
            found.append({**rows.recorded(), **drawn, **kept})
        return found

    def manifest(self, argv: Sequence[str], scores: Mapping[str, Any]) -> dict[str, Any]:
        """Return the manifest: the recipe, its inputs and its results."""
        used = {**versions(), "python": platform.python_version()}
        # --resume is left out: a resumed run writes the bytes that an undisturbed one writes.
        command = [word for word in argv if word != "--resume"]
        recipe = {**self.recipe(), "base_model": self.reference.described()}
        recipe["data"] |= {"source": self.task.source, "notes": list(self.task.notes)}
        recipe["data"] |= {"given": self.options.data, "columns": dict(self.options.columns)}
        return {**recipe, "argv": command, "versions": used, "scores": dict(scores)}

    def finished(self) -> AdapterFolder | None:
        """Return the adapter that an earlier run of this plan made, if there is one.

        Raises:
            OptionError: If the folder holds something that another plan made.
        """
        return finished(self.out, self.recipe())


def make_plan(options: TrainOptions, progress: Progress | None = None) -> Plan:
    """Find and check everything that a run needs, without loading the model.

    Args:
        options: What to train, on what and how.
        progress: Told what was noticed about the task's rows.

    Raises:
        CloraError: Whatever is missing, damaged, wrong or does not fit together.
    """
    method = compose(options.method, options.method_options)
    task = load_task(options.data, columns=options.columns)
    if not task.train:
        raise DataError(f"task '{task.name}' ({task.source}) has no training rows", code="task-has-no-rows")
    reference = find_model(options.model, options.revision)
    if reference.kind == "encoder":
        check_encoder(reference, method, options)
    check_augment(reference, options)
    out = options.out or options.package / task.name
    check_place(out)
    members = read_package([options.package], missing_ok=True)
    options = with_defaults(options, reference, method, members)
    if not out.exists():
        _check_name(members, out, task.name)
    past, stage = _place(members, options.package, out, task.name)
    for member in past:
        check_base(member.base, reference, member.path)
    others = [member for member in members if real_path(member.path) != real_path(out)]
    check_earlier(others, past, method, options)
    ledger = _ledger(others, method)
    drawn, note = with_model(Rows.draw(task, "train", options.train_rows, options.seed, options.learn), reference)
    if note:
        task = dataclasses.replace(task, notes=(*task.notes, note))
    if not drawn.examples:
        raise DataError(
            f"task '{task.name}' ({task.source}) has no training rows for this model: {note}", code="task-has-no-rows"
        )
    given = method.name, reference, options.seed, len(drawn.examples)
    memory = read_memory(method.memory, past, *given) if method.memory else ()
    check_heads(past, reference)
    if reference.kind == "encoder":
        for rows in (drawn, *memory):
            check_classes(rows)
        task = dataclasses.replace(task, notes=(*task.notes, *told_of_one_class(task, memory)))
    dependents = _dependents(members, out)
    plan = Plan(options, method, reference, task, past, stage, out, drawn, dependents, others, ledger, memory, members)
    for part in method.acting.values():
        part.check(plan)
    tell_notes([task], progress or Silent())
    return plan


def _place(members: Sequence[AdapterFolder], package: Path, out: Path, task: str) -> tuple[list[AdapterFolder], int]:
    same = next((m for m in members if real_path(m.path) == real_path(out)), None)
    if same is not None and same.stage is not None:
        return [m for m in members if m.stage is not None and m.stage < same.stage], same.stage
    others = [m for m in members if m is not same]
    if twin := next((m for m in others if m.task == task), None):
        raise MismatchError(
            f"package {package} already holds task '{task}' at {twin.path}; remove it or train into another --package",
            code="task-already-learned",
        )
    return others, 1 + max((m.stage or 0 for m in others), default=0)


def _check_name(members: Sequence[AdapterFolder], out: Path, task: str) -> None:
    """Refuse a folder name that clashes with another one on some file systems."""
    if problem := folder_problem(out.name):
        raise OptionError(
            f"'{out.name}' cannot be the adapter's folder: {problem}; pass another --out", code="name-unfit-for-folder"
        )
    folders = [member.path.name for member in members if real_path(member.path.parent) == real_path(out.parent)]
    if other := twin(out.name, folders) or twin(task, [member.task for member in members]):
        raise MismatchError(
            f"'{out.name if other in folders else task}' and '{other}', which the package holds, are one name on disks that "
            "do not tell case or accents apart; rename the data, or train into another --package",
            code="names-alike-on-disk",
        )


def _dependents(members: Sequence[AdapterFolder], out: Path) -> list[AdapterFolder]:
    replaced = [member.digest for member in members if real_path(member.path) == real_path(out)]
    return [
        member
        for member in members
        if replaced and member.manifest and any(parent.sha256 in replaced for parent in member.manifest.parents)
    ]


def _ledger(others: Sequence[AdapterFolder], method: Composition) -> Ledger | None:
    """Read which entries of the shared LoRA each task owns, if the method shares one."""
    if method.lead.start != "shared" or not others:
        return None
    from clora_cli.store.ledger import read_ledger

    return read_ledger(others)
