"""How a feature distribution was taken (layer L1): the record in the header of ``features.clora``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

from clora_cli.base import records
from clora_cli.base.entries import (
    Entry,
    Record,
    a_line,
    a_number,
    a_table,
    a_whole,
    records_of,
    some,
    the_record,
    whatever,
)
from clora_cli.store.manifest_parts import BaseRecord

if TYPE_CHECKING:
    from clora_cli.algebra.statistics import SecondMoment
    from clora_cli.model.base_model import ModelReference

__all__ = [
    "POOLS",
    "SOURCES",
    "TEXTS",
    "FeatureRecord",
    "Pool",
    "PrivacyRecord",
    "RowsRecord",
    "Source",
    "Taking",
    "Text",
]

Pool = Literal["prompt-mean", "last"]
Source = Literal["base", "adapted"]
Text = Literal["prompt", "body"]
POOLS: tuple[Pool, ...] = get_args(Pool)
SOURCES: tuple[Source, ...] = get_args(Source)
TEXTS: tuple[Text, ...] = get_args(Text)
T = TypeVar("T")
SECONDS = ("none", "diag", "full")


def _one_of(values: tuple[T, ...], meaning: str) -> Entry[T]:
    return Entry(records.one_of(*values), "string", meaning, lambda value: cast("T", value))


@dataclass(frozen=True)
class RowsRecord(Record):
    """One of ``data``: a task whose rows are in the distribution."""

    name = a_line("the task's name")
    fingerprint = some(
        whatever(records.maybe(records.name), "string or null", "of its rows; null beside a private release")
    )
    split = some(a_line("which split"))
    rows = some(a_whole("how many"))
    limit = some(a_whole("how many at most, drawn by the seed"))
    seed = some(whatever(lambda value: True, "whole number", "by which they were drawn"))


@dataclass(frozen=True)
class PrivacyRecord(Record):
    """``privacy``: the mechanism and its guarantee."""

    epsilon = a_number("bound on how much likelier one input makes the release", 0)
    delta = a_number("probability that the bound fails", 0)
    clip = a_number("clipping radius in mean distances of public texts", 0)


@dataclass(frozen=True)
class FeatureRecord(Record):
    """How a distribution was taken, but for ``schema``."""

    sha256 = some(a_line("checksum over names, types, shapes and bytes of all tensors"))
    base_model = the_record(
        BaseRecord, "`id`, `revision`, `fingerprint`, `kind`, `weights`, `settings`, as in a manifest", apart=False
    )
    encoder = some(
        the_record(
            BaseRecord,
            "the model whose embeddings the features are, in the same form, if not the base model's own",
            apart=False,
        )
    )
    source = _one_of(SOURCES, "`base`: features of the frozen model; `adapted`: of the model with the adapter at work")
    pool = _one_of(POOLS, "`prompt-mean` or `last`")
    text = _one_of(TEXTS, "`prompt`, or `body` without instruction and cue")
    max_length = a_whole("tokens of an input at most", 1)
    dtype = some(a_line("type of the base model's weights"))
    second_moment = some(_one_of(SECONDS, "which second moments: `none`, `diag`, `full`"))
    means = some(a_line("`class`, one mean a class, or the largest number of clusters; absent: one mean of all"))
    layer = some(a_line("which layer's sites were asked for"))
    module = some(a_line("which ending of sites was asked for"))
    data = records_of(
        RowsRecord, "`name`, `fingerprint`, `split`, `rows`, `limit`, `seed` of each task whose rows are in it"
    )
    adapter = some(a_line("SHA-256 of the adapter at work, where `source` is `adapted`"))
    privacy = some(
        Entry(
            records.maybe(lambda value: records.is_table(value) and PrivacyRecord.wrong(value) is None),
            "object or null",
            "the mechanism and its guarantee, where the numbers were clipped and noised",
            PrivacyRecord,
        )
    )
    versions = some(a_table("clora and the libraries", records.name))


@dataclass(frozen=True, kw_only=True)
class Taking:
    """How features are taken: the part of a distribution's record that its maker chooses.

    Attributes:
        source: Features of the ``base`` model, or of the model as the adapter changes it (``adapted``).
        encoder: The model whose embeddings they are, as a manifest describes a base model; None of the base model's own.
        pool: How they are pooled over tokens.
        text: The whole ``prompt``, or its ``body``.
        second_moment: Which second moments are stored.
        means: Which means: one of the ``task``, one of each ``class``, or of this number of clusters.
        layer: The layers whose sites were requested.
        module: The ending of the sites that were requested; empty for all.
        max_length: Most tokens of an input.
        dtype: Type of the base model's weights.
        privacy: The mechanism and its guarantee; None for exact numbers.
    """

    source: Source = "base"
    encoder: Mapping[str, Any] | None = None
    pool: Pool = "prompt-mean"
    text: Text = "prompt"
    second_moment: SecondMoment = "none"
    means: str = "task"
    layer: str = "all"
    module: str = ""
    max_length: int
    dtype: str
    privacy: Mapping[str, Any] | None = None

    def recorded(self, reference: ModelReference, data: Sequence[Mapping[str, Any]]) -> FeatureRecord:
        """Return the record of a distribution of these rows' features."""
        unsaid = {"means": "task", "encoder": None}
        chosen = {key: value for key, value in vars(self).items() if key not in unsaid or value != unsaid[key]}
        return FeatureRecord({**chosen, "base_model": reference.described(), "data": list(data)})
