"""Soft prompts before the prompts of a task (layer L3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from clora_cli.base.errors import OptionError
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.backbone import Backbone
from clora_cli.model.soft_prompts import SoftPrompts
from clora_cli.model.task_vectors import embeddings
from clora_cli.routing.learned_weights import weighing_method
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Prompted", "check_way"]

# Ways to combine adapters that soft prompts have too: one or several of them stand before an input, or the method chooses tokens.
_WAYS = ("sum", "last", "task-id", "progressive", "none", "learned")


def check_way(members: Sequence[AdapterFolder], combine: str) -> None:
    """Refuse to combine soft prompts as only changes of weights can be.

    Args:
        members: Soft prompts, at least one.
        combine: How.

    Raises:
        OptionError: If that is asked for.
    """
    if combine not in _WAYS:
        raise OptionError(
            f"--combine {combine}: {members[0].path} holds a soft prompt, which is combined by {', '.join(_WAYS[:-1])} or "
            f"{_WAYS[-1]} alone",
            code="soft-prompts-not-combined-so",
        )


class Prompted:
    """Puts soft prompts before a task's prompts: those of all adapters asked for, the newest first, or what their method chooses.

    Args:
        backbone: The base model.
        members: The adapters.
        combine: How.
    """

    def __init__(self, backbone: Backbone, members: Sequence[AdapterFolder], combine: str) -> None:
        self._backbone, self._soft = backbone, SoftPrompts(backbone.model, backbone.kind)
        self._vectors = {member.path: member.prompt() for member in members}
        self._method = weighing_method(members[-1]) if combine == "learned" else None

    def use(self, adapters: Sequence[AdapterFolder], prompts: Prompts) -> tuple[Prompts, None]:
        """Make these adapters act."""
        self._soft.activate(None)
        if not adapters:
            return prompts, None
        vectors = [self._vectors[adapter.path] for adapter in adapters]
        chosen = self._chosen(adapters, list(map(len, vectors)), prompts) + self._soft.first
        self._soft.activate(torch.cat(vectors))
        return prompts.after(chosen.expand(len(prompts.ids), -1).tolist()), None

    def _chosen(self, adapters: Sequence[AdapterFolder], lengths: Sequence[int], prompts: Prompts) -> Tensor:
        """Return the numbers of the virtual tokens before each row, shape (row, token), or (1, token) for all alike."""
        if self._method is None:
            ends = list(itertools.accumulate(lengths))
            newest_first = zip(reversed(ends), reversed(lengths), strict=True)
            return torch.cat([torch.arange(end - length, end) for end, length in newest_first])[None]
        with torch.no_grad():
            states = [adapter.state() for adapter in adapters]
            found: Tensor = self._method.choose(states, lengths, embeddings(self._backbone, prompts.ids))
        return found.cpu()
