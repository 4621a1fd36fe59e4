"""Many continuations of each text in one pass (layer L1).

Continuations are a tree: tokens that several begin with are read once. All its nodes stand behind the text, each at the position
that it has in its own continuation, and the attention mask lets each see the text and its own ancestors alone. So nothing of a
text is read, or kept, more than once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clora_cli.model.conventions import first_position
from clora_cli.model.output_layer import logits_at, output_only_at
from clora_cli.model.prefix import Beginning

__all__ = ["Continuations"]


class Continuations:
    """Continuations of a text, as a tree.

    Args:
        continuations: Each one's tokens, at least one.
        device: Where.

    Attributes:
        nodes: The tokens after which another one is foretold, parents before children; the text itself is no node.
        places: After what each continuation's tokens are foretold, (continuation, token): 0 is the text, then the nodes from 1.
    """

    def __init__(self, continuations: Sequence[Sequence[int]], device: torch.device) -> None:
        numbers: dict[tuple[int, ...], int] = {(): 0}  # 0 is the text's own last token
        for one in continuations:
            for stop in range(1, len(one)):
                numbers.setdefault(tuple(one[:stop]), len(numbers))
        paths = [path for path in numbers if path]
        self.nodes = [path[-1] for path in paths]
        self._depths = torch.tensor([len(path) for path in paths], dtype=torch.long, device=device)
        self._parents = [numbers[path[:-1]] - 1 for path in paths]  # -1 is the text
        width = max(map(len, continuations))
        places = [[numbers[tuple(one[:stop])] for stop in range(len(one))] for one in continuations]
        self.places = torch.tensor([row + [0] * (width - len(row)) for row in places], device=device)
        self._tokens = torch.tensor([[*one, *[0] * (width - len(one))] for one in continuations], device=device)
        self._lengths = torch.tensor([len(one) for one in continuations], device=device)

    @cached_property
    def _ancestors(self) -> Tensor:
        """Which nodes each node sees, itself included, (node, node)."""
        seen = torch.eye(len(self.nodes), dtype=torch.bool, device=self.places.device)
        for node, parent in enumerate(self._parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen

    def likelihoods(self, model: Any, texts: Sequence[list[int]], begun: Beginning | None = None) -> Tensor:
        """Return the log-likelihood of each continuation after each text, shape (text, continuation), float32 or wider.

        Args:
            model: A causal model that takes positions and any mask.
            texts: Each one's tokens.
            begun: What they begin with, if it has been read.
        """
        logits = self.logits(model, texts, begun)
        found = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = found[:, self.places, self._tokens] - found.logsumexp(dim=-1)[:, self.places]
        beyond = torch.arange(self._tokens.shape[1], device=chosen.device) >= self._lengths[:, None]
        return chosen.masked_fill(beyond, 0.0).sum(dim=2)

    def logits(self, model: Any, texts: Sequence[list[int]], begun: Beginning | None = None) -> Tensor:
        """Return what is foretold after each text and after each node, shape (text, 1 + node, vocabulary)."""
        start, device = len(begun.ids) if begun else 0, self.places.device
        rests = [text[start:] for text in texts]
        lengths = torch.tensor([len(rest) for rest in rests], device=device)
        width = int(lengths.max())
        # Filled up behind each text, where nothing looks back to.
        ids = torch.tensor([rest + rest[-1:] * (width - len(rest)) + self.nodes for rest in rests], device=device)
        positions = torch.arange(width, device=device).repeat(len(rests), 1)
        positions = torch.cat([positions, lengths[:, None] - 1 + self._depths], dim=1) + start + first_position(model)
        asked = torch.ones_like(ids, dtype=torch.bool)
        asked[:, :width] = torch.arange(width, device=device) == lengths[:, None] - 1
        given = {"past_key_values": begun.cache(len(rests)), "use_cache": True} if begun else {"use_cache": False}
        with output_only_at(model, asked):
            mask = self._mask(lengths, width, start, model.dtype)
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, **given).logits
        return logits_at(logits, asked).view(len(texts), 1 + len(self.nodes), -1)

    def _mask(self, lengths: Tensor, width: int, start: int, dtype: torch.dtype) -> Tensor:
        """Return what is added to attention, (text, 1, token, beginning and token)."""
        device, whole = lengths.device, width + len(self.nodes)
        seen = torch.zeros(len(lengths), whole, start + whole, dtype=torch.bool, device=device)
        seen[:, :, :start] = True
        seen[:, :width, start : start + width] = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        seen[:, width:, start : start + width] = torch.arange(width, device=device) < lengths[:, None, None]
        seen[:, width:, start + width :] = self._ancestors
        return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
