"""Plan feature distributions: whose inputs, taken how, and what is there already (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from clora_cli.base.errors import ArtifactError, DataError, OptionError
from clora_cli.base.files import differences
from clora_cli.base.progress import Progress, Silent
from clora_cli.data import Rows, Task, load_task, origins_of, recorded_columns, tell_notes
from clora_cli.data.tools import with_model
from clora_cli.model.backbone import dtype_name, pick_device
from clora_cli.model.base_model import ModelReference, check_base, check_pool, same_base
from clora_cli.model.text_encoder import find_text_encoder
from clora_cli.options import FeatureOptions
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.distribution import (
    Distribution,
    read_distribution,
    read_record,
    same_encoder,
)
from clora_cli.store.feature_record import FeatureRecord, RowsRecord, Taking
from clora_cli.store.package import find_base
from clora_cli.store.steady import Identity, identity, mark
from clora_cli.transforming.requests import assign_data
from clora_cli.transforming.row_groups import check_classes

__all__ = ["FeatureJob", "FeaturePlan", "State", "plan_features"]

State = Literal["made", "replaced", "added", "up to date"]


@dataclass(frozen=True, eq=False)
class FeatureJob:
    """One adapter's distribution, to be made or there already.

    Attributes:
        member: The adapter.
        rows: What goes in now.
        recipe: What decides the result: equal recipes write equal files.
        state: What to do; ``up to date`` if nothing.
        before: The existing distribution; only its record if it will be replaced.
        seen: The existing file's identity when it was read.
    """

    member: AdapterFolder
    rows: Sequence[Rows]
    recipe: FeatureRecord
    state: State
    before: Distribution | None = None
    seen: Identity | None = None

    @property
    def outdated(self) -> bool:
        """Whether the adapter or its distribution was replaced after this was planned."""
        return identity(self.member.path) != self.member.seen or mark(self.member.features) != self.seen

    @property
    def count(self) -> int:
        """Number of inputs that are read now."""
        return sum(len(rows.examples) for rows in self.rows)

    @property
    def tasks(self) -> str:
        """The tasks' names."""
        return ", ".join(rows.task.name for rows in self.rows)


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """Distributions that can be taken: adapters, data and base model exist and fit together.

    Attributes:
        options: How.
        reference: The base model.
        jobs: One for each adapter.
        encoder: The model whose embeddings are taken instead of the base model's features, if any.
    """

    options: FeatureOptions
    reference: ModelReference
    jobs: Sequence[FeatureJob]
    encoder: ModelReference | None = None


def plan_features(
    members: Sequence[AdapterFolder],
    options: FeatureOptions,
    *,
    force: bool = False,
    add: bool = False,
    progress: Progress | None = None,
) -> FeaturePlan:
    """Find and check everything that taking distributions needs, without loading the model.

    Args:
        members: The adapters, at least one; a folder that is given twice counts once.
        options: How.
        force: Replace distributions that were made differently.
        add: Add the rows to the distributions that are there.
        progress: Told where the adapters' own word leads to the Hub, and what was noticed about the rows.

    Raises:
        CloraError: Whatever is missing, damaged, wrong or does not fit together.
    """
    if force and add:
        raise OptionError(
            "--force replaces a distribution and --add keeps it: give one of them", code="options-exclude-each-other"
        )
    members = list({member.path.resolve(): member for member in members}.values())
    reference = find_base(members, options.model, options.revision, progress)
    check_pool(reference, options.pool)
    if reference.sees and options.privacy is not None:
        raise OptionError(
            f"--dp-epsilon takes its bounds from public texts, and base model '{reference.id}' sees images; leave it out",
            code="privacy-needs-texts",
        )
    encoder = find_text_encoder(options.encoder) if options.encoder else None
    if encoder and reference.sees:
        raise OptionError(
            f"--encoder {options.encoder} reads texts, and base model '{reference.id}' sees images; leave it out",
            code="text-encoder-needs-texts",
        )
    for member in members:
        check_base(member.manifest.base_model.raw if member.manifest else {}, reference, member.path)
    loaded: dict[str, Task] = {}
    jobs = []
    for member, names in zip(members, assign_data(members, options.data), strict=True):
        found = [_found(member, name, options, loaded) for name in names]
        rows = [_drawn(task, member, options, reference) for task in found]
        _check_rows(member, rows, options)
        recipe = _recipe(member, rows, options, reference, encoder)
        seen = mark(member.features)
        jobs.append(FeatureJob(member, rows, recipe, *_state(member.features, recipe, force, add), seen))
    tell_notes([rows.task for job in jobs for rows in job.rows], progress or Silent())
    return FeaturePlan(options, reference, jobs, encoder)


def _found(member: AdapterFolder, name: str, options: FeatureOptions, loaded: dict[str, Task]) -> Task:
    """Load the data of a name; an adapter's own data as it was recorded, and checked."""
    origin = next((one for one in origins_of(member.manifest) if one.name == name), None)
    key = name if origin is None else origin.fingerprint or origin.given
    if key not in loaded:
        mend = f"pass --data {member.task}=DATA"
        loaded[key] = (
            load_task(name, columns=options.columns or recorded_columns(name, [member]))
            if origin is None
            else origin.load(member.path, mend, options.columns)
        )
    return loaded[key]


def _drawn(task: Task, member: AdapterFolder, options: FeatureOptions, reference: ModelReference) -> Rows:
    if not getattr(task, options.split):
        raise DataError(
            f"task '{task.name}' ({task.source}) has no {options.split} rows; pass another --split",
            code="task-has-no-rows",
        )
    # Inputs of the adapter's own task are what it learned from: with every answer of a conversation learned, one for each.
    made = member.manifest
    own = made is not None and made.data.fingerprint == task.fingerprint
    learn = made.training.learn or "last" if made is not None and own else "last"
    rows, note = with_model(Rows.draw(task, options.split, options.limit, options.seed, learn), reference)
    return replace(rows, task=replace(task, notes=(*task.notes, note))) if note else rows


def _check_rows(member: AdapterFolder, rows: Sequence[Rows], options: FeatureOptions) -> None:
    marks = [entry.task.fingerprint for entry in rows]
    if twice := next((entry.task.name for entry in rows if marks.count(entry.task.fingerprint) > 1), None):
        raise OptionError(f"--data gives {member.path} the rows of '{twice}' twice", code="rows-given-twice")
    # Rows that are added count alone: who has seen the file before and after can tell them from the others.
    if (count := sum(len(entry.examples) for entry in rows)) < options.min_count:
        raise DataError(
            f"{member.path} would get a distribution of {count} inputs, too few to hide a single one; "
            f"give at least {options.min_count}, or pass --min-count {count}",
            code="too-few-inputs",
        )
    check_classes(member.path, rows, options)


def _recipe(
    member: AdapterFolder,
    rows: Sequence[Rows],
    options: FeatureOptions,
    reference: ModelReference,
    encoder: ModelReference | None,
) -> FeatureRecord:
    private = options.privacy is not None
    taking = Taking(
        source=options.source,
        encoder=encoder.described() if encoder else None,
        pool=options.pool,
        text=options.text,
        second_moment=options.second_moment,
        means=options.means,
        layer=options.layer,
        module=options.module,
        max_length=options.max_length,
        dtype=dtype_name(options.dtype, pick_device(options.device)),
        privacy=options.privacy.requested() if options.privacy else None,
    )
    recipe = taking.recorded(reference, [drawn.recorded(private=private) for drawn in rows])
    return FeatureRecord({**recipe.raw, "adapter": member.digest}) if options.source == "adapted" else recipe


def _state(path: Path, recipe: FeatureRecord, force: bool, add: bool) -> tuple[State, Distribution | None]:
    """Decide what to do at a place, given what is there."""
    if not path.exists():
        return "made", None
    if force:
        with contextlib.suppress(ArtifactError):  # a damaged one is replaced too
            return "replaced", Distribution({}, read_record(path))
        return "replaced", None
    before = read_distribution(path)
    if add:
        return _added(path, before, recipe)
    there, new = _comparable(before.record, recipe), _comparable(recipe, before.record)
    if changed := differences(new, there):
        addable = not differences({**new, "data": there["data"]}, there) and before.record.privacy is None
        mend = "pass --force to replace it" + (" or --add to add these rows" if addable else "")
        raise OptionError(f"{path} was made differently ({changed}); {mend}", code="output-made-differently")
    return "up to date", before


def _added(path: Path, before: Distribution, recipe: FeatureRecord) -> tuple[State, Distribution]:
    there, new = _comparable(before.record, recipe), _comparable(recipe, before.record)
    old = before.record.raw["data"]
    if changed := differences({**new, "data": there["data"]}, there):
        raise OptionError(
            f"rows cannot be added to {path}: it was made differently ({changed}); pass --force instead",
            code="rows-not-addable",
        )
    if recipe.privacy is not None:
        raise OptionError(
            f"rows cannot be added to {path}: its noise protects only the rows in it; pass --force and all --data",
            code="rows-not-addable",
        )
    if all(entry in old for entry in recipe.raw["data"]):
        return "up to date", before
    earlier = {(entry["fingerprint"], entry["split"]) for entry in old}
    if twice := next(
        (entry for entry in recipe.raw["data"] if (entry["fingerprint"], entry["split"]) in earlier), None
    ):
        raise OptionError(
            f"{path} has rows of '{twice['name']}' ({twice['split']}) already, which would count twice; "
            "pass --force and all --data instead",
            code="rows-given-twice",
        )
    return "added", before


def _comparable(record: FeatureRecord, other: FeatureRecord) -> dict[str, Any]:
    """Return what must be equal for two files to be the same, in words where that tells a difference better."""
    private = record.privacy
    mine, theirs = record.base_model.raw, other.base_model.raw
    mark = min(mine["fingerprint"], theirs["fingerprint"]) if same_base(mine, theirs) else mine["fingerprint"]
    marked = private is None and other.privacy is None
    return {
        **record.raw,
        "base_model": {"fingerprint": mark},
        "privacy": ", ".join(f"{key} {private.raw[key]:g}" for key in ("epsilon", "delta", "clip"))
        if private
        else "none",
        "data": "; ".join(_spelled(rows, marked) for rows in record.data),
        "encoder": _encoder(record, other),
        "adapter": record.adapter or "",
        "means": record.raw.get("means", "task"),
    }


def _encoder(record: FeatureRecord, other: FeatureRecord) -> str:
    """Return the text encoder's name; the same one's has one name, however it was given."""
    names = [str(one.encoder.id) if one.encoder else "" for one in (record, other)]
    return min(names) if same_encoder(record, other) else names[0]


def _spelled(rows: RowsRecord, marked: bool) -> str:
    drawn = f", {rows.limit} by seed {rows.seed}" if rows.limit else ""
    mark = f" [{rows.fingerprint[:8]}]" if marked and rows.fingerprint else ""
    return f"{rows.name}{mark} {rows.rows} {rows.split} rows{drawn}"
