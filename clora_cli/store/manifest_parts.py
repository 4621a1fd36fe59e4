"""The parts of ``clora.json`` (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clora_cli.base import records
from clora_cli.base.entries import Record, a_flag, a_line, a_number, a_table, a_text, a_whole, some, texts, whatever

__all__ = [
    "MANIFEST",
    "BaseRecord",
    "DataRecord",
    "HeadRecord",
    "LoraRecord",
    "MethodRecord",
    "OriginRecord",
    "ParentRecord",
    "TrainingRecord",
    "TrimRecord",
]


MANIFEST = "clora.json"


@dataclass(frozen=True)
class MethodRecord(Record):
    """``method``: how the adapter was trained, and how the package's adapters are combined."""

    name = a_line("the method, or several joined by `+`")
    options = a_table(
        "each method's name to its options, defaults included but for options that are younger than the method: absent is "
        "their default",
        records.is_table,
    )
    past = some(a_line("how earlier adapters took part in training: `none`, `sum`, `route`, or a merge's name"))
    start = some(a_line("where the adapter started: `fresh`, `previous`, or `shared`: as a part of one LoRA"))
    route = some(
        a_table(
            "of a method that routes: `similarity`, `top_k`, `temperature`, `layer`, `module`, `abstain` at evaluation"
        )
    )
    plugins = some(
        a_table(
            "what the run used from outside clora: kind to name to `distribution` and `version`, or `path` and `sha256` of a file",
            records.each(records.is_table),
        )
    )
    combine = a_line(
        "how the package's adapters are combined at evaluation: `sum`, `last`, `route`, `task-id`, `progressive` (that of the "
        "task and those that it builds on), `weighted`, `learned`, `none` (the base model alone), or a merge's name"
    )


@dataclass(frozen=True)
class BaseRecord(Record):
    """``base_model``: which model the adapter stands on."""

    id = a_line("`clora-nano`, a Hub id, or the folder as it was given")
    revision = some(whatever(records.maybe(records.name), "string or null", "Hub commit"))
    kind = some(a_line("`causal`, `seq2seq` or `encoder`"))
    weights = some(
        a_text(
            "SHA-256 over the model's type and each tensor's type, shape and 64 bytes from its middle, tensors in the order "
            "of their names; it tells a model that was saved again under another configuration from another model"
        )
    )
    settings = some(
        a_table(
            "what of its configuration decides what these weights compute (`rope_theta`, `rms_norm_eps`, heads, activations …), "
            "by key within the configuration's parts, and of an image model what its processor does (`image_processor.size` …); "
            "of two records, what both have MUST be equal where the weights are one"
        )
    )
    fingerprint = some(
        a_line(
            "SHA-256 over the configuration, with that of an image model's processor, and over each "
            "tensor's name, type, shape and 64 bytes from its middle; absent in "
            "a merge of folders that record none"
        )
    )


@dataclass(frozen=True)
class LoraRecord(Record):
    """``lora``: the adapter's form; a merge has other keys than what was trained."""

    rank = some(a_whole("as asked for"))
    alpha = some(a_number("as asked for"))
    dropout = some(a_number("as asked for"))
    target_modules = some(texts("as asked for; empty for query and value projections"))
    form = some(
        a_line(
            "of a merge: `factors` or `dense`; of soft prompts: `prompt`, and no other key; where whole weights were trained: "
            "`full-rank`, with `target_modules` alone"
        )
    )
    dtype = some(a_line("of a merge: the type of its dense deltas"))
    fan_in_fan_out = some(a_flag("of a merge: whether the base model stores its weights as (in, out)"))


@dataclass(frozen=True)
class ParentRecord(Record):
    """One of ``parents``: an adapter that this one builds on."""

    task = a_line("its task")
    sha256 = a_line("of its tensor file")


@dataclass(frozen=True)
class DataRecord(Record):
    """``data``: what the adapter was trained on."""

    name = a_line("the task's name")
    source = some(a_text("where it was found"))
    given = some(
        a_text(
            "what `--data` was given, as typed: a name, a path or a Hub id; a command that is not given data looks there, and "
            "refuses rows of another fingerprint"
        )
    )
    columns = some(a_table("role to column, as `--columns` gave them", records.name))
    fingerprint = some(
        a_line("SHA-256 over the rows of all splits, the labels and the template; empty where it is withheld (rule 40)")
    )
    template = some(
        a_line(
            "the prompt template: `options`, `options-named` with the names of task and dataset before it, "
            "`natural-instructions`, `plain`, `chat`, `image`"
        )
    )
    metric = some(a_line("`exact-match` or `rouge-l`"))
    labels = some(texts("the closed set of answers; empty when answers are open-ended"))
    train_rows = some(a_whole("rows that were trained on"))
    memory = some(
        whatever(
            lambda value: isinstance(value, list) and all(map(records.is_table, value)),
            "list of objects",
            "of a method that trains on rows of earlier tasks again, for each of them: `name`, `split`, `fingerprint`, `rows` "
            "(how many), `limit`, `of` (how many it was trained on), `seed` (that it was trained with and that they are drawn "
            "by); without `of` the rows are those of a file of made ones, drawn by the run's seed; `made`: "
            "the method made them itself, `limit` at most",
        )
    )
    merged = some(texts("of a merge: the `data.name` of every adapter in it", records.name))
    origins = some(
        whatever(
            lambda value: (
                isinstance(value, list)
                and all(isinstance(entry, Mapping) and records.name(entry.get("name")) for entry in value)
            ),
            "list of objects",
            "of a merge: for each of them `name`, `given`, `columns` and `fingerprint`, as far as its manifest has them",
        )
    )
    notes = some(texts("faults found in the source and what was done about them"))


@dataclass(frozen=True)
class HeadRecord(Record):
    """One of ``head``: the classes of one task."""

    task = a_line("its task")
    labels = texts("the labels, one for each row of the output layer")


@dataclass(frozen=True)
class TrainingRecord(Record):
    """``training``: the options that change the numbers; ``TrainOptions`` declares them."""

    max_length = some(a_whole("tokens of a prompt", 1))
    learn = some(a_line("which answers of a conversation are rows"))
    train_rows = some(a_whole("training rows that were asked for; 0 for all"))


@dataclass(frozen=True)
class OriginRecord(Record):
    """``origin``: what a member of a union was called in the package that it was trained in."""

    package = a_line("the package's folder")
    stage = whatever(records.maybe(records.whole()), "whole number or null", "its stage there")
    task = a_line("its task there")


@dataclass(frozen=True)
class TrimRecord(Record):
    """``trim``: what a trimmed adapter was trimmed by."""

    by = a_line("the trim")
    source = a_line("SHA-256 of the weights that were trimmed")
    earlier = whatever(
        lambda value: (
            isinstance(value, list)
            and all(isinstance(entry, Mapping) and records.name(entry.get("source")) for entry in value)
        ),
        "list of objects",
        "former trims, oldest first",
    )

    @property
    def sources(self) -> tuple[str, ...]:
        """The weights that it was trimmed from, and what those were trimmed from."""
        return (self.source, *(str(entry["source"]) for entry in self.earlier))
