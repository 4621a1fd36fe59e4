"""Plan what rows of a package's tasks its model is to make (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base import registry
from clora_cli.base.errors import DataError, OptionError, did_you_mean
from clora_cli.base.folder_names import check_file
from clora_cli.base.options import recorded
from clora_cli.base.progress import Progress
from clora_cli.data import Rows, load_task, origins_of
from clora_cli.data.made_rows import made_task
from clora_cli.evaluation.evaluate import mergeable, way_of
from clora_cli.methods import Method
from clora_cli.model.base_model import ModelReference, check_base, check_writes
from clora_cli.options import SynthesizeOptions
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.heads import check_heads
from clora_cli.store.package import find_base

if TYPE_CHECKING:
    from clora_cli.model.base_layers import BaseLayers

__all__ = ["SCHEMA", "SynthesisPlan", "own_way", "plan_synthesis"]

SCHEMA = "clora.synthesis/1"


@dataclass(frozen=True, eq=False)
class SynthesisPlan:
    """Rows that can be made: package, base model and examples exist and fit together.

    Attributes:
        options: How.
        reference: The base model.
        members: The package's adapters, by stage.
        combine: How they act together when they answer.
        layers: The base model's, where that is a merge.
        sources: The examples of each task, by its name.
    """

    options: SynthesizeOptions
    reference: ModelReference
    members: Sequence[AdapterFolder]
    combine: str
    layers: BaseLayers | None
    sources: Mapping[str, Rows]

    @property
    def record(self) -> Path:
        """Where the provenance stands, beside the rows."""
        return self.options.out.with_name(f"{self.options.out.stem}.clora.json")

    def recipe(self) -> dict[str, Any]:
        """Return what decides the rows."""
        return {
            "schema": SCHEMA,
            "base_model": self.reference.recorded(),
            "adapters": [{"task": member.task, "sha256": member.digest} for member in self.members],
            "combine": self.combine,
            "tasks": {name: rows.recorded() for name, rows in self.sources.items()},
            "options": recorded(self.options, "synthesis"),
            "seed": self.options.seed,
        }


def plan_synthesis(
    members: Sequence[AdapterFolder], options: SynthesizeOptions, *, progress: Progress | None = None
) -> SynthesisPlan:
    """Find and check everything that making rows needs, without loading the model.

    Args:
        members: The package's adapters, by stage.
        options: How.
        progress: Told where the adapters' own word leads to the Hub.

    Raises:
        CloraError: If a task is not in the package, or whatever is missing, damaged or does not fit together.
    """
    check_file(options.out, "--out")
    chosen = _chosen(members, options.task)
    if options.examples is not None and len(chosen) > 1:
        raise OptionError(
            f"--examples gives the rows of one task, and {len(chosen)} are asked for; name one with --task",
            code="examples-of-several-tasks",
        )
    reference = find_base(members, options.model, options.revision, progress)
    check_writes(reference)
    check_heads(members, reference)
    for member in members:
        check_base(member.base, reference, member.path)
    combine = way_of(members, "auto")
    layers = mergeable(members, combine, reference)
    sources = {member.task: _examples(member, options) for member in chosen}
    return SynthesisPlan(options, reference, members, combine, layers, sources)


def _chosen(members: Sequence[AdapterFolder], names: Sequence[str]) -> list[AdapterFolder]:
    known = {member.task: member for member in members}
    if unknown := next((name for name in names if name not in known), None):
        raise OptionError(
            f"--task {unknown}: the package has no such task; it has {', '.join(known)}{did_you_mean(unknown, known)}",
            code="task-not-in-package",
        )
    return [known[name] for name in dict.fromkeys(names)] or list(members)


def own_way(member: AdapterFolder) -> Method | None:
    """Return the method of an adapter, its options bound, if it makes rows itself and is here."""
    made = member.manifest.method if member.manifest else None
    for name, options in made.options.items() if made else ():
        if name in registry.names("methods") and not registry.missing("methods", name, made and made.raw):
            method: Method = registry.load("methods", name)(**options)
            if (memory := method.memory()) and memory.made:
                return method
    return None


def _examples(member: AdapterFolder, options: SynthesizeOptions) -> Rows:
    """Return the rows that a task's examples are taken from: those that it was trained on, or others that were named.

    Of an adapter whose method makes rows itself there are none.
    """
    if options.examples is None and own_way(member) is not None and member.manifest is not None:
        template = member.manifest.data.template or "plain"
        return Rows(made_task(member.task, (), template, f"made by the model of {member.path}"), "train", ())
    if options.examples is not None:
        task, size, seed, learn = load_task(options.examples), 0, options.seed, "last"
    else:
        mend = "name the examples' source with --examples"
        origins, made = origins_of(member.manifest), member.manifest
        if made is None or len(origins) != 1:
            raise DataError(f"{member.path} does not say what it was trained on; {mend}", code="earlier-rows-unknown")
        task = origins[0].load(member.path, mend)
        size, seed, learn = made.training.train_rows or 0, made.seed, made.training.learn or "last"
    if not task.train:
        raise DataError(f"task '{task.name}' ({task.source}) has no training rows", code="task-has-no-rows")
    return Rows.draw(task, "train", size, seed, learn)
