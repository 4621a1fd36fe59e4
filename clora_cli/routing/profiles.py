"""Profiles by which inputs choose among adapters: feature distributions or task vectors (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from clora_cli.algebra.directions import leading_input
from clora_cli.algebra.statistics import Moments
from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.model.backbone import load_skeleton
from clora_cli.model.base_layers import BaseLayers
from clora_cli.model.base_model import ModelReference, check_base, same_base
from clora_cli.model.features import sites_of_prompts
from clora_cli.model.places import places_of
from clora_cli.model.task_vectors import read_task_vector, table_of
from clora_cli.model.text_encoder import find_text_encoder
from clora_cli.options import RouteOptions
from clora_cli.routing.learned_weights import LearnedWeights, weighing_method
from clora_cli.routing.weights import Routing, common_sites
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.distribution import agree, read_distribution, read_record, read_sites
from clora_cli.store.feature_record import FeatureRecord
from clora_cli.store.soft_prompt import no_deltas

__all__ = ["Directions", "Distributions", "Known", "Learned", "TaskVectors", "known_by"]

_PLAIN = 512  # tokens of an input of adapters that do not say


class Known(Protocol):
    """Profiles of adapters, read and checked.

    Attributes:
        record: How an input is looked at to be compared with it: ``source``, ``pool``, ``text`` and ``max_length``.
        sites: The sites that decide.
        cut: Whose ``--max-length`` that is, for messages.
        inputs: Whether an input is what the sites take in, instead of what they give.
        encoder: The model whose sites they are, if it is not the base model.
    """

    record: FeatureRecord
    sites: list[str]
    cut: str
    inputs: bool
    encoder: ModelReference | None

    def routing(self, options: RouteOptions, count: int | None, threshold: float | None) -> Routing:
        """Return the weights' source for the first ``count`` adapters; for all by default."""


class Distributions:
    """Adapters known by their feature distributions.

    Args:
        reference: The base model.
        members: The adapters, at least one.
        options: For the sites that decide.

    Raises:
        ArtifactError: If an adapter has no distribution, or a damaged one.
        MismatchError: If the distributions do not compare, or come from another base model.
    """

    cut = "`clora stat-features`"
    inputs = False

    def __init__(self, reference: ModelReference, members: Sequence[AdapterFolder], options: RouteOptions) -> None:
        records = [(member.features, read_record(member.features)) for member in members]
        agree(records)
        path, first = records[0]
        if not same_base(first.base_model.raw, reference.described()):
            raise MismatchError(
                f"distribution {path} comes from base model '{first.base_model.id}', "
                f"not from '{reference.id}'; pass --model {first.base_model.id}",
                code="feature-distribution-other-base",
            )
        longest = max(record.max_length for _, record in records)
        self.record = FeatureRecord({**first.raw, "max_length": longest})
        self.encoder = _encoder_of(path, first)
        paths = [member.features for member in members]
        self._written = [(path, {self._now(reference, site): site for site in read_sites(path)}) for path in paths]
        self.sites = common_sites([list(written) for _, written in self._written], options)

    def routing(self, options: RouteOptions, count: int | None, threshold: float | None) -> Routing:
        """Return the weights' source."""
        # Read one at a time, and never kept: a thousand full second moments do not fit in memory, their sum does.
        moments = (self._moments(path, written) for path, written in self._written[:count])
        return Routing(moments, self.sites, options, threshold)

    def _now(self, reference: ModelReference, site: str) -> str:
        """Return what a site is called now; version 0.1 read encoders without their head, and named their layers from the encoder on."""
        return places_of(reference).place(site).site if reference.kind == "encoder" and not self.encoder else site

    def _moments(self, path: Path, written: Mapping[str, str]) -> dict[str, Moments]:
        found = read_distribution(path, [written[site] for site in self.sites]).sites
        return {site: found[written[site]] for site in self.sites}


def _encoder_of(path: Path, record: FeatureRecord) -> ModelReference | None:
    """Find the text encoder that a distribution is of, where it names it; None if it is of the base model."""
    if (recorded := record.encoder) is None:
        return None
    mend = "put it there, or make the distributions again with `clora stat-features --force --encoder MODEL`"
    try:
        found = find_text_encoder(str(recorded.id), recorded.revision)
    except ArtifactError as error:
        raise ArtifactError(f"the text encoder of {path}: {error}; {mend}", code=error.code) from error
    if not same_base(recorded.raw, found.described()):
        raise MismatchError(
            f"distribution {path} comes from another text encoder than '{recorded.id}' is now; {mend}",
            code="feature-distribution-other-encoder",
        )
    return found


class TaskVectors:
    """Adapters known by their task vectors, which stand at the base model's table of token embeddings.

    Args:
        reference: The base model.
        members: The adapters, at least one.
        model: The base model, with or without weights; None to have its structure read here.

    Raises:
        ArtifactError: If an adapter has no task vector, or a damaged one.
        MismatchError: If an adapter stands on another base model, or vectors differ in length.
    """

    cut = "training"
    inputs = False
    encoder: ModelReference | None = None

    def __init__(self, reference: ModelReference, members: Sequence[AdapterFolder], model: Any = None) -> None:
        for member in members:
            check_base(member.base, reference, member.path)
        self._vectors = torch.stack(_vectors(members)).double()
        longest = max(map(_max_length, members))
        looked_at = {"source": "base", "pool": "prompt-mean", "text": "prompt"}
        self.record = FeatureRecord({**looked_at, "max_length": longest})
        self.sites = [table_of(model if model is not None else load_skeleton(reference), reference.kind)]

    def routing(self, options: RouteOptions, count: int | None, threshold: float | None) -> Routing:
        """Return the weights' source: each adapter's vector is the mean of one input."""
        moments = ({self.sites[0]: Moments(1, vector)} for vector in self._vectors[:count])
        return Routing(moments, self.sites, options, threshold)


class Learned:
    """Adapters weighed by what their method learned with them, from the embeddings of inputs.

    Args:
        reference: The base model.
        members: The adapters, at least one.
        model: The base model, with or without weights; None to have its structure read here.

    Raises:
        MismatchError: If the last one's method learns no weights, or an adapter stands on another base model.
    """

    cut = "training"
    inputs = False
    encoder: ModelReference | None = None

    def __init__(self, reference: ModelReference, members: Sequence[AdapterFolder], model: Any = None) -> None:
        for member in members:
            check_base(member.base, reference, member.path)
        self._method, self._members = weighing_method(members[-1]), members
        looked_at = {"source": "base", "pool": "prompt-mean", "text": "prompt"}
        self.record = FeatureRecord({**looked_at, "max_length": max(map(_max_length, members))})
        self.sites = [table_of(model if model is not None else load_skeleton(reference), reference.kind)]

    def routing(self, options: RouteOptions, count: int | None, threshold: float | None) -> Routing:
        """Return the weights' source."""
        return LearnedWeights(self._method, self._members[:count], self.sites[0], options, threshold)


class Directions:
    """Adapters known by their factors: at each site, the direction of its inputs that an adapter amplifies most.

    Args:
        reference: The base model.
        members: The adapters, at least one, from anywhere.
        options: For the sites that decide.
        model: The base model, with or without weights; None to have its structure read here.

    Raises:
        MismatchError: If an adapter stands on another base model, or they have no layer that sees prompts in common.
    """

    cut = "training"
    inputs = True
    encoder: ModelReference | None = None

    def __init__(
        self, reference: ModelReference, members: Sequence[AdapterFolder], options: RouteOptions, model: Any = None
    ) -> None:
        for member in members:
            check_base(member.base, reference, member.path)
        structure = model if model is not None else load_skeleton(reference)
        self._deltas = [member.deltas() for member in BaseLayers(reference).fitted(members)]
        seen = [sites_of_prompts(structure, reference.kind, deltas) for deltas in self._deltas]
        if not set(seen[0]).intersection(*seen[1:]):
            raise MismatchError(
                "these adapters change no layer that sees prompts in common, where their directions could be compared; give others, "
                "or compare distributions: --similarity l2",
                code="no-layer-in-common",
            )
        self.sites = common_sites(seen, options)
        longest = max(
            member.manifest.training.max_length or _PLAIN if member.manifest else _PLAIN for member in members
        )
        self.record = FeatureRecord({"source": "base", "pool": "prompt-mean", "text": "prompt", "max_length": longest})

    def routing(self, options: RouteOptions, count: int | None, threshold: float | None) -> Routing:
        """Return the weights' source: each adapter's direction is the mean of one input."""
        moments = (
            {site: Moments(1, leading_input(deltas[site])) for site in self.sites} for deltas in self._deltas[:count]
        )
        return Routing(moments, self.sites, options, threshold)


def known_by(
    reference: ModelReference, members: Sequence[AdapterFolder], options: RouteOptions, model: Any = None
) -> Known:
    """Read the profiles by which inputs choose among the adapters.

    Args:
        reference: The base model.
        members: The adapters, at least one.
        options: ``similarity`` says by what.
        model: The base model where it is loaded.

    Raises:
        CloraError: As ``Distributions``, ``TaskVectors``, ``Directions`` and ``Learned``; and of soft prompts.
    """
    if prompt := next((member for member in members if member.is_prompt), None):
        raise no_deltas(prompt.path)
    if options.reads == "learned":
        return Learned(reference, members, model)
    if options.reads == "factors":
        return Directions(reference, members, options, model)
    if options.reads == "task-vector":
        return TaskVectors(reference, members, model)
    if options.similarity == "auto" and (lacking := _without_distribution(members)):
        raise ArtifactError(
            f"adapter {lacking.path} has no feature distribution, but all have task vectors: pass --similarity task-vector, "
            "or run `clora stat-features` on them",
            code="feature-distribution-missing",
        )
    return Distributions(reference, members, options)


def _without_distribution(members: Sequence[AdapterFolder]) -> AdapterFolder | None:
    """Return the first adapter without a distribution, if task vectors could replace them."""
    lacking = next((member for member in members if not member.features.is_file()), None)
    return lacking if lacking and all(read_task_vector(member) is not None for member in members) else None


def _max_length(member: AdapterFolder) -> int:
    found = member.manifest.training.max_length if member.manifest else None
    if not isinstance(found, int):
        raise ArtifactError(
            f"adapter {member.path} does not record the prompt length of its training (training.max_length in clora.json), "
            "to which inputs are cut; restore it or train it again",
            code="prompt-length-not-recorded",
        )
    return found


def _vectors(members: Sequence[AdapterFolder]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for member in members:
        vector = read_task_vector(member)
        if vector is None:
            data = "" if member.data_names else " --data <its task>"
            raise ArtifactError(
                f"adapter {member.path} has no task vector, which only `clora train-task --method cast` gives; "
                f"or run `clora stat-features {member.path}{data}` on each adapter and pass --similarity l2 or mahalanobis",
                code="task-vector-missing",
            )
        if found and vector.shape != found[0].shape:
            raise MismatchError(
                f"the task vectors of {members[0].path} and {member.path} differ in length ({len(found[0])} and "
                f"{len(vector)}); give adapters of one base model",
                code="task-vectors-differ",
            )
        found.append(vector)
    return found
