"""What a loaded causal model can share between texts while it reads them (layer L1).

Whether a model answers as if it had read each text by itself is tried out once, on a few tokens, rather than listed: positions,
masks, windows and caches of all kinds need no list. A model that fails is given whole texts.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import chain, cycle, islice
from typing import Any

import torch
from torch import Tensor

from clora_cli.model.continuations import Continuations
from clora_cli.model.conventions import first_position, pads_left, takes_positions
from clora_cli.model.prefix import UNFIT, WORTH, Beginning, alike_up_to, are_close, common_beginning, window

__all__ = ["Sharing"]

_TRIED = 12  # tokens of a beginning, and of what follows it, that are tried out
_MOST_NODES = 512  # tokens of continuations behind a text: a mask has as many rows and columns
_TRIALS_COST = 8 * _TRIED


class Sharing:
    """Lets a model read once what texts have in common; only where no adapter is weighed text by text.

    Args:
        model: A causal model.

    Attributes:
        shares: Whether anything is shared at all.
        positions: A text's first position; None for models that are not told positions.
    """

    shares = True

    def __init__(self, model: Any) -> None:
        self._model = model
        self._most = min(alike_up_to(model.config), window(model.config))
        cached = "past_key_values" in inspect.signature(model.forward).parameters
        self.positions = first_position(model) if takes_positions(model) else None
        self._goes_on = None if cached and pads_left(model) else False
        self._packs = None if self.positions is not None else False

    def begins(self, texts: Sequence[list[int]], more: int = 0) -> list[int]:
        """Return the tokens that all texts begin with, if reading them once pays and the model goes on from there; else none.

        Args:
            texts: Each one's tokens.
            more: How many tokens may come after a text.
        """
        if not (self.shares and texts) or self._goes_on is False or max(map(len, texts)) + more > self._most:
            return []
        length = common_beginning(texts)
        trial = _TRIALS_COST if self._goes_on is None else 0
        if (len(texts) - 1) * length <= WORTH * sum(map(len, texts)) + trial:
            return []
        if self._goes_on is None:
            self._goes_on = self._tried(texts, length)
        return texts[0][:length] if self._goes_on else []

    def begin(self, texts: Sequence[list[int]], more: int = 0) -> Beginning | None:
        """Read what all texts begin with, under the adapters that act, if it pays; arguments as for ``begins``."""
        ids = self.begins(texts, more)
        return Beginning.read(self._model, ids) if ids else None

    @torch.no_grad()
    def packs(self, texts: Sequence[list[int]], continuations: Sequence[list[int]], nodes: int) -> bool:
        """Tell whether the model reads continuations behind a text in one pass.

        Args:
            texts: Each one's tokens.
            continuations: Each one's tokens.
            nodes: As many tokens stand behind a text.
        """
        fits = nodes <= _MOST_NODES and max(map(len, texts)) + nodes <= self._most
        if self._packs is None and self.shares and fits:
            try:
                self._packs = self._packed_alike(*self._samples(texts[0], continuations))
            except UNFIT:
                self._packs = False
        return self.shares and fits and self._packs is True

    def _samples(self, text: list[int], continuations: Sequence[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
        """Return texts of two lengths and continuations of which two part at once, whatever those are that are to be read first."""
        some = sorted(continuations, key=len)[-4:]
        tokens = list(dict.fromkeys([*text, *chain(*some)]))[:2]
        if len({one[0] for one in some if len(one) > 1}) < 2 and len(tokens) == 2:
            some += [tokens, tokens[::-1]]
        room = self._most - len(Continuations(some, self._model.device).nodes)
        longer = _long(text, min(_TRIED, max(2, room)))
        return [longer, longer[: max(1, len(longer) - 4)]], some

    def _packed_alike(self, texts: Sequence[list[int]], continuations: Sequence[list[int]]) -> bool:
        """Tell whether what is foretold after texts and in their continuations is what is foretold in each pair alone."""
        tree = Continuations(continuations, self._model.device)
        found, expected = [], []
        for text, own in zip(texts, tree.logits(self._model, texts), strict=True):
            for one, places in zip(continuations, tree.places, strict=True):
                found.append(own[places[: len(one)]])
                expected.append(self._alone([*text, *one[:-1]])[-len(one) :])
        return are_close(torch.cat(found), torch.cat(expected))

    @torch.no_grad()
    def _tried(self, texts: Sequence[list[int]], length: int) -> bool:
        """Tell whether the model goes on from a beginning as if it had read all, also where padding stands in between."""
        first = texts[0][: min(length, _TRIED)]
        longest = _long(max(texts, key=len)[length:], min(_TRIED, max(2, self._most - len(first))))
        rests = [longest, longest[min(5, len(longest) - 1) :]]  # one is padded, also where all texts are alike
        widths = [len(longest) - len(rest) for rest in rests]
        batch = {
            "input_ids": self._tensor([rest[:1] * width + rest for rest, width in zip(rests, widths, strict=True)]),
            "attention_mask": self._tensor([[0] * width + [1] * (len(longest) - width) for width in widths]),
        }
        try:
            if (begun := Beginning.read(self._model, first)) is None:
                return False
            found = self._model(**begun.before(batch, self.positions), use_cache=True).logits[:, -1]
            return are_close(found, torch.stack([self._alone([*first, *rest])[-1] for rest in rests]))
        except UNFIT:  # also of a model that fails on whole texts, which tells why when it reads them
            return False

    def _alone(self, ids: list[int]) -> Tensor:
        given = self._tensor([ids])
        logits: Tensor = self._model(input_ids=given, attention_mask=torch.ones_like(given), use_cache=False).logits[0]
        return logits

    def _tensor(self, rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, device=self._model.device)


def _long(tokens: Sequence[int], length: int) -> list[int]:
    """Return so many tokens: those of a text, again and again."""
    return list(islice(cycle(tokens), length))
