"""Decide which adapters an input goes to, from its features in the base model (layer L1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clora_cli.base.errors import DataError, OptionError
from clora_cli.data import Example, Task, uses_chat
from clora_cli.model.backbone import Backbone
from clora_cli.model.base_model import ModelReference
from clora_cli.model.features import prompt_ids, read_features
from clora_cli.model.text_encoder import load_text_encoder
from clora_cli.options import RouteOptions
from clora_cli.routing.decided import check_finite
from clora_cli.routing.inputs import Input
from clora_cli.routing.profiles import known_by
from clora_cli.routing.weights import Routing, nearness
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Guide"]

_MOST_CALIBRATED = 200  # dev rows a task: enough for a share of percents, and no large task drowns the others
_NOTHING: Callable[[int], None] = lambda rows: None  # noqa: E731


class Guide:
    """Compares inputs' features with adapters' profiles.

    Adapters are known by feature distributions or by task vectors, as the similarity asks. Features are taken exactly as
    the distributions were: same pooling, same part of the prompt, same longest length; for task vectors as in training.

    Everything about the adapters is read and checked at once; the base model may be loaded later.

    Args:
        reference: The base model.
        members: The adapters, at least one.
        options: How inputs choose.
        backbone: The base model, loaded, if it is; else assigned before features are read. No adapter takes part in its
            forward pass then.
        batch_size: Inputs of one forward pass.

    Raises:
        ArtifactError: If an adapter has no distribution, or no task vector, or a damaged one.
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
        self._known = known_by(reference, members, options, backbone.model if backbone else None)
        self.record, self.sites, self.cut = self._known.record, self._known.sites, self._known.cut
        self.options, self._loaded, self._batch_size = options, backbone, batch_size

    @property
    def backbone(self) -> Backbone:
        """The loaded base model."""
        if self._loaded is None:
            raise RuntimeError("features are read before the base model is loaded")
        return self._loaded

    @backbone.setter
    def backbone(self, backbone: Backbone) -> None:
        self._loaded = backbone

    @property
    def reader(self) -> Backbone:
        """The model whose features are compared: the base model, or the text encoder that the distributions are of."""
        return self.backbone if self._embedder is None else self._embedder

    @cached_property
    def _embedder(self) -> Backbone | None:
        if (encoder := self._known.encoder) is None:
            return None
        return load_text_encoder(encoder, device=self.backbone.device, dtype=self.record.dtype or "auto")

    def routing(self, count: int | None = None, threshold: float | None = None) -> Routing:
        """Return the weights' source for the first ``count`` adapters; for all by default.

        Raises:
            MismatchError: As ``Routing``.
            OptionError: If there is a threshold, and features are those of the very pass that answers.
        """
        if threshold is not None and self.record.source == "adapted":
            raise OptionError(
                "--abstain: distributions made with --source adapted cannot recognise far inputs before a forward pass; "
                "make them with --source base",
                code="abstain-needs-base-features",
            )
        return self._known.routing(self.options, count, threshold)

    def features(
        self,
        examples: Sequence[Example],
        *,
        chat: bool = False,
        shared: bool = False,
        done: Callable[[int], None] = _NOTHING,
    ) -> dict[str, Tensor]:
        """Return the inputs' features.

        Args:
            examples: The inputs, at least one.
            chat: Use the tokenizer's chat template.
            shared: The processes that have met all ask for these, and read a share each.
            done: Told the number of inputs after each batch.

        Returns:
            Deciding site to features, shape (input, feature), float32, on the CPU, in the order of the inputs.
        """
        text, longest = self.record.text, self.record.max_length
        ids = prompt_ids(self.reader, examples, text=text, max_length=longest, chat=chat and not self._known.encoder)
        found: dict[str, Tensor] = {}
        reading: dict[str, Any] = {"pool": self.record.pool, "batch_size": self._batch_size}
        reading |= {"shared": shared, "done": done, "inputs": self._known.inputs}
        for rows, features in read_features(self.reader, ids, self.sites, **reading):
            for site, vectors in features.items():
                kept = found.setdefault(site, torch.empty(len(ids), vectors.shape[1]))
                kept[rows] = vectors.cpu()
        return found

    def reads(self, ids: Sequence[int]) -> bool:
        """Tell whether features are those of a prompt's own tokens, in a pass of the base model alone."""
        record = self.record
        whole = record.text == "prompt" and (record.max_length is None or len(ids) <= record.max_length)
        return whole and record.source == "base" and not (self._known.inputs or self._known.encoder)

    def ways(self, inputs: Iterable[Input]) -> list[bool]:
        """Return the ways in which inputs are written: without the chat template, with it."""
        return sorted({one.chat and bool(self.backbone.tokens.chat) for one in inputs})

    def of_inputs(self, inputs: Sequence[Input], ways: Collection[bool] | None = None) -> dict[str, Tensor]:
        """Return the features of inputs, conversations and plain prompts in any mixture, as ``features`` does.

        Args:
            inputs: The inputs.
            ways: The ways to make a pass for, whether or not an input is written so; the inputs' own by default.

        Raises:
            DataError: If an instruction is longer than what the adapters' own inputs were cut to.
        """
        found: dict[str, Tensor] = {}
        for chat in self.ways(inputs) if ways is None else ways:
            rows = [row for row, one in enumerate(inputs) if self.ways([one]) == [chat]]
            # Of none a pass is made all the same, which other processes need; what it gives is given up.
            for site, vectors in self._read([inputs[row] for row in rows or [0]], chat).items():
                found.setdefault(site, torch.empty(len(inputs), vectors.shape[1]))[rows] = vectors[: len(rows)]
        return found

    def threshold(self, routing: Routing, tasks: Sequence[Task]) -> tuple[float, int]:
        """Return the nearness below which the share ``options.abstain`` of known inputs lies.

        Args:
            routing: Of all adapters.
            tasks: The adapters' own tasks, with dev rows: inputs that the distributions were not made from.

        Returns:
            The threshold, and the number of inputs that it comes from.

        Raises:
            CloraError: If the base model's numbers are not finite: below no threshold, inputs would all abstain unseen.
        """
        near = []
        for task in tasks:
            chat = uses_chat(task, self.backbone.tokens)
            features = self.features(task.dev[:_MOST_CALIBRATED], chat=chat, shared=True)
            near.append(nearness(routing.similarities(features)))
            check_finite({"": near[-1]}, f"{task.name}, dev rows")
        return torch.cat(near).quantile(self.options.abstain).item(), sum(map(len, near))

    def _read(self, inputs: Sequence[Input], chat: bool) -> dict[str, Tensor]:
        try:
            return self.features([one.example for one in inputs], chat=chat)
        except DataError:
            for one in inputs:
                self._check_length(one, chat)
            raise

    def _check_length(self, one: Input, chat: bool) -> None:
        record = self.record
        try:
            chat = chat and not self._known.encoder
            prompt_ids(self.reader, [one.example], text=record.text, max_length=record.max_length, chat=chat)
        except DataError as error:
            if one.example.picture is not None:
                raise  # it names the image, which is not cut
            raise DataError(
                f"{one.where}: {error} (inputs are cut as those of {self.cut} were, by its --max-length)",
                code=error.code,
            ) from error
