"""Which adapters an input goes to, from what the base model makes of it (layer L3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clora_cli.backbone import Backbone
from clora_cli.data import Example
from clora_cli.distribution import agree, read_distribution, read_record, read_sites
from clora_cli.errors import MismatchError
from clora_cli.features import prompt_ids, read_features
from clora_cli.package import AdapterFolder
from clora_cli.routing import RouteOptions, Routing, common_sites, nearness
from clora_cli.statistics import Moments

__all__ = ["Guide"]

_NOTHING: Callable[[int], None] = lambda rows: None  # noqa: E731


class Guide:
    """Reads adapters' feature distributions and inputs' features, and brings the two together.

    Features are taken exactly as the distributions were: same pooling, same part of the prompt, same longest length.

    Args:
        backbone: The base model, whose forward pass no adapter takes part in while ``features`` is called.
        members: The adapters, at least one.
        options: How inputs choose.
        batch_size: Inputs of one forward pass.

    Raises:
        ArtifactError: If an adapter has no distribution, or a damaged one.
        MismatchError: If the distributions do not compare, or come from another base model.
    """

    def __init__(
        self, backbone: Backbone, members: Sequence[AdapterFolder], options: RouteOptions, *, batch_size: int = 32
    ) -> None:
        records = [(member.features, read_record(member.features)) for member in members]
        agree(records)
        path, self.record = records[0]
        if self.record["base_model"]["fingerprint"] != backbone.reference.fingerprint:
            raise MismatchError(
                f"distribution {path} comes from base model '{self.record['base_model']['id']}', "
                f"not from '{backbone.reference.id}'; pass --model {self.record['base_model']['id']}"
            )
        self.backbone, self.options, self._batch_size = backbone, options, batch_size
        self.sites = common_sites([read_sites(member.features) for member in members], options)
        self._moments: list[Mapping[str, Moments]] = [
            read_distribution(member.features, self.sites).sites for member in members
        ]
        self._max_length = max(int(record["max_length"]) for _, record in records)

    def routing(self, count: int | None = None, threshold: float | None = None) -> Routing:
        """Return the weights' source for the first ``count`` adapters; for all by default.

        Raises:
            MismatchError: As ``Routing``.
        """
        return Routing(self._moments[:count], self.sites, self.options, threshold)

    def features(
        self, examples: Sequence[Example], *, chat: bool = False, done: Callable[[int], None] = _NOTHING
    ) -> dict[str, Tensor]:
        """Return the inputs' features.

        Args:
            examples: The inputs, at least one.
            chat: Use the tokenizer's chat template.
            done: Told the number of inputs after each batch.

        Returns:
            Deciding site to features, shape (input, feature), float32, on the CPU, in the order of the inputs.
        """
        ids = prompt_ids(self.backbone, examples, text=self.record["text"], max_length=self._max_length, chat=chat)
        found: dict[str, Tensor] = {}
        reading: dict[str, Any] = {"pool": self.record["pool"], "batch_size": self._batch_size, "done": done}
        for rows, features in read_features(self.backbone, ids, self.sites, **reading):
            for site, vectors in features.items():
                kept = found.setdefault(site, torch.empty(len(ids), vectors.shape[1]))
                kept[rows] = vectors.cpu()
        return found

    def threshold(self, examples: Sequence[Example], *, chat: bool = False) -> float:
        """Return the nearness below which ``options.abstain`` of these known inputs lie.

        Args:
            examples: Inputs of the adapters' own tasks that the distributions were not made from, at least one.
            chat: Use the tokenizer's chat template.
        """
        near = nearness(self.routing().similarities(self.features(examples, chat=chat)))
        return near.quantile(self.options.abstain).item()
