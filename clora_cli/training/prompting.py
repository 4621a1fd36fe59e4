"""Soft prompts before the rows of a training (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import PromptTuningConfig
from torch import Tensor
from torch.nn import functional

from clora_cli.base.errors import CloraError
from clora_cli.data.tokens import IGNORED
from clora_cli.model.backbone import Backbone
from clora_cli.model.soft_prompts import SoftPrompts, newest_first
from clora_cli.store.adapter_config import TASK_TYPES
from clora_cli.store.soft_prompt import PROMPT
from clora_cli.training.plan import Plan

__all__ = ["Prompting", "last_prompt", "prompt_config"]


class Prompting:
    """Puts virtual tokens before every row of a batch: of earlier adapters, which are frozen, and of the new one.

    Args:
        soft: Gives them their vectors.
        past: The earlier adapters' vectors, (token, width) each.
        count: The new adapter's virtual tokens.
        vectors: Gives their vectors, (token, width), in each forward pass.
        choose: Gives which virtual tokens stand before rows; see ``methods.Run.prompt``.
        causal: Whether labels stand beside the input's tokens.
    """

    def __init__(
        self,
        soft: SoftPrompts,
        past: Sequence[Tensor],
        count: int,
        vectors: Callable[[], Tensor],
        choose: Callable[[Tensor], Tensor] | None,
        *,
        causal: bool,
    ) -> None:
        self._soft, self._vectors, self._choose, self._causal = soft, vectors, choose, causal
        self._usual = newest_first([*map(len, past), count])
        self._last = range(sum(map(len, past[:-1])), sum(map(len, past)))
        self._shape = (count, soft.width)
        frozen = self._new().new_empty(0, soft.width)
        if past:
            frozen = torch.cat([one.to(frozen) for one in past])
        soft.activate(lambda: torch.cat([frozen, self._new()]))

    def chosen(self, rows: Tensor) -> Tensor:
        """Return which virtual tokens stand before training rows, shape (row, token)."""
        numbers = self._usual[None] if self._choose is None else self._choose(rows)
        return numbers.to(rows.device).expand(len(rows), -1)

    def before(self, rows: Tensor, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch with its virtual tokens.

        Args:
            rows: Numbers of its training rows, shape (row,).
            inputs: The model's arguments and perhaps the labels, padded on the right.
        """
        return self._put(self.chosen(rows), inputs)

    def instead(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch that has virtual tokens with those of the last earlier adapter in their place."""
        count = int((inputs["input_ids"][0] >= self._soft.first).sum())
        beside = {"input_ids", "attention_mask", *(("labels",) if self._causal else ())}
        own = {name: value[:, count:] if name in beside else value for name, value in inputs.items()}
        last = torch.tensor(self._last, device=own["input_ids"].device)
        return self._put(last.expand(len(own["input_ids"]), -1), own)

    def _put(self, numbers: Tensor, inputs: Mapping[str, Any]) -> dict[str, Any]:
        before, ids = (numbers.shape[1], 0), inputs["input_ids"]
        given = {
            **inputs,
            "input_ids": torch.cat([(numbers + self._soft.first).to(ids), ids], dim=1),
            "attention_mask": functional.pad(inputs["attention_mask"], before, value=1),
        }
        if self._causal and "labels" in inputs:
            given["labels"] = functional.pad(inputs["labels"], before, value=IGNORED)
        return given

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """Return what the finished adapter's file holds."""
        return {PROMPT: self._new().detach().clone()}

    def _new(self) -> Tensor:
        found = self._vectors()
        if tuple(found.shape) != self._shape:
            raise CloraError(
                f"what begin() gave to run.prompt() returns vectors of shape {tuple(found.shape)}; they are to be {self._shape}",
                code="prompt-vectors-shape",
            )
        return found


@contextlib.contextmanager
def last_prompt(backbone: Backbone, vectors: Tensor | None) -> Iterator[Sequence[int]]:
    """Let an earlier adapter's soft prompt act; gives the virtual tokens to put before texts, none without one.

    Args:
        backbone: The base model.
        vectors: The prompt's, shape (token, width); None without one.
    """
    if vectors is None:
        yield ()
        return
    soft = SoftPrompts(backbone.model, backbone.kind)
    soft.activate(vectors)
    try:
        yield range(soft.first, soft.first + len(vectors))
    finally:
        soft.activate(None)


def prompt_config(plan: Plan, width: int) -> PromptTuningConfig:
    """Return PEFT's configuration of a run's soft prompt.

    Args:
        plan: The run.
        width: Entries of a token's vector.
    """
    return PromptTuningConfig(
        num_virtual_tokens=plan.method.lead.virtual_tokens(),
        token_dim=width,
        num_transformer_submodules=1,
        base_model_name_or_path=plan.reference.id,
        revision=plan.reference.revision,
        task_type=TASK_TYPES[plan.reference.kind],
    )
