"""Which adapters an input goes to, from what the base model makes of it (layer L3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clora_cli.adapter_folder import AdapterFolder
from clora_cli.backbone import Backbone
from clora_cli.base_model import ModelReference
from clora_cli.data import Example, Task, uses_chat
from clora_cli.distribution import agree, read_distribution, read_record, read_sites
from clora_cli.errors import MismatchError
from clora_cli.features import prompt_ids, read_features
from clora_cli.routing import RouteOptions, Routing, common_sites, nearness

__all__ = ["Guide"]

_MOST_CALIBRATED = 200  # dev rows a task: enough for a share of percents, and no large task drowns the others
_NOTHING: Callable[[int], None] = lambda rows: None  # noqa: E731


class Guide:
    """Reads adapters' feature distributions and inputs' features, and brings the two together.

    Features are taken exactly as the distributions were: same pooling, same part of the prompt, same longest length.

    Everything about the adapters is read and checked at once; the base model may be loaded later.

    Args:
        reference: The base model.
        members: The adapters, at least one.
        options: How inputs choose.
        backbone: The base model, loaded, if it is; else assigned before features are read. No adapter takes part in its
            forward pass then.
        batch_size: Inputs of one forward pass.

    Raises:
        ArtifactError: If an adapter has no distribution, or a damaged one.
        MismatchError: If the distributions do not compare, or come from another base model.
    """

    def __init__(
        self,
        reference: ModelReference,
        members: Sequence[AdapterFolder],
        options: RouteOptions,
        *,
        backbone: Backbone | None = None,
        batch_size: int = 32,
    ) -> None:
        records = [(member.features, read_record(member.features)) for member in members]
        agree(records)
        path, self.record = records[0]
        if self.record["base_model"]["fingerprint"] != reference.fingerprint:
            raise MismatchError(
                f"distribution {path} comes from base model '{self.record['base_model']['id']}', "
                f"not from '{reference.id}'; pass --model {self.record['base_model']['id']}"
            )
        self.options, self._loaded, self._batch_size = options, backbone, batch_size
        self.sites = common_sites([read_sites(member.features) for member in members], options)
        self._paths = [member.features for member in members]
        self._max_length = max(int(record["max_length"]) for _, record in records)

    @property
    def backbone(self) -> Backbone:
        """The loaded base model."""
        if self._loaded is None:
            raise RuntimeError("features are read before the base model is loaded")
        return self._loaded

    @backbone.setter
    def backbone(self, backbone: Backbone) -> None:
        self._loaded = backbone

    def routing(self, count: int | None = None, threshold: float | None = None) -> Routing:
        """Return the weights' source for the first ``count`` adapters; for all by default.

        Raises:
            MismatchError: As ``Routing``.
        """
        # Read one at a time, and never kept: a thousand full second moments do not fit in memory, their sum does.
        members = (read_distribution(path, self.sites).sites for path in self._paths[:count])
        return Routing(members, self.sites, self.options, threshold)

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

    def threshold(self, routing: Routing, tasks: Sequence[Task]) -> tuple[float, int]:
        """Return the nearness below which the share ``options.abstain`` of known inputs lies.

        Args:
            routing: Of all adapters.
            tasks: The adapters' own tasks, with dev rows: inputs that the distributions were not made from.

        Returns:
            The threshold, and the number of inputs that it comes from.
        """
        near = []
        for task in tasks:
            chat = uses_chat(task, self.backbone.tokenizer)
            near.append(nearness(routing.similarities(self.features(task.dev[:_MOST_CALIBRATED], chat=chat))))
        return torch.cat(near).quantile(self.options.abstain).item(), sum(map(len, near))
