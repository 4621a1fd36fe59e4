"""Log-likelihoods of labels after prompts, for models of every cache (layer L3)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clora_cli.data import IGNORED, Collator
from clora_cli.model.backbone import Backbone
from clora_cli.model.continuations import Continuations
from clora_cli.model.conventions import first_position, pads_left, takes_positions, token_positions
from clora_cli.model.output_layer import output_only_at
from clora_cli.model.prefix import Beginning, is_shareable

__all__ = ["Likelihoods"]


class Likelihoods:
    """Log-likelihoods of labels after prompts.

    A causal model reads the prompt once and in the same pass all labels, as a tree behind it. Where it cannot, it reads all labels
    from the prompt's cache, and where that cannot be shared, prompt and label together, once for each label. An
    encoder-decoder's encoder always reads the prompt once.

    Args:
        backbone: The model.
        labels: Each label's tokens, end of sequence included.
        prompts: The prompts' tokens, if they may be read together with labels.

    Attributes:
        behind: Tokens of labels that stand behind a prompt in one pass; 0 if labels are read by themselves.
        shares: Whether labels share what a causal model keeps of a prompt; certain once a batch has been read.
    """

    def __init__(self, backbone: Backbone, labels: Sequence[list[int]], prompts: Sequence[list[int]] = ()) -> None:
        self._backbone, self._labels = backbone, labels
        self._tree = Continuations(labels, backbone.device)
        self._longest, nodes = max(map(len, prompts), default=0), len(self._tree.nodes)
        fits = bool(prompts) and backbone.kind == "causal" and backbone.sharing.packs(prompts, labels, nodes)
        self.behind = nodes if fits else 0
        width = max(map(len, labels))
        padded = [ids + [IGNORED] * (width - len(ids)) for ids in labels]
        self._padded = torch.tensor(padded, device=backbone.device)
        self.shares = backbone.kind == "causal" and width > 1 and pads_left(backbone.model)

    def rows(self, most: int) -> int:
        """Return how many prompts to read in one pass, for it to take about what so many without labels take."""
        if self.behind:
            return max(1, most * self._longest // (self._longest + self.behind))
        return max(1, most // len(self._labels))  # each label goes through the model in a row of its own

    def of(self, batch: dict[str, Tensor], begun: Beginning | None = None, *, decides: bool = False) -> Tensor:
        """Return the labels' log-likelihoods, shape (row, label).

        Args:
            batch: Prompts as ``Prompts.batches`` yields them.
            begun: What they begin with, and has been read.
            decides: Whether the first forward pass of a batch, over the prompts alone, decides how adapters take part.
        """
        if self._backbone.kind == "seq2seq":
            return self._after_encoder(batch)
        if self.behind:
            return self._tree.likelihoods(self._backbone.model, _texts(batch, begun), begun)
        if self.shares or decides:
            found = self._from_cache(batch)
            if found is not None:
                return found
        return self._whole(batch)

    def _from_cache(self, batch: dict[str, Tensor]) -> Tensor | None:
        # The prompt runs once; its keys and values are then shared by all labels.
        model, labels = self._backbone.model, self._padded
        count, width = labels.shape
        mask = batch["attention_mask"]
        positions = token_positions(mask, first_position(model))
        told = takes_positions(model)
        last = torch.zeros_like(mask, dtype=torch.bool)
        last[:, -1] = True
        with output_only_at(model, last):
            prompt = model(**batch, **({"position_ids": positions} if told else {}), use_cache=True)
        cache: Any = getattr(prompt, "past_key_values", None)
        self.shares = self.shares and is_shareable(cache)
        if not self.shares:
            return None
        first = prompt.logits[:, -1:].repeat_interleave(count, dim=0)
        cache.batch_repeat_interleave(count)
        given = labels[:, :-1].clamp(min=0).repeat(len(mask), 1)
        after = positions[:, -1:].repeat_interleave(count, dim=0) + torch.arange(1, width, device=mask.device)
        longer = torch.cat([mask.repeat_interleave(count, dim=0), torch.ones_like(given)], dim=1)
        later = {"position_ids": after} if told else {}
        rest = model(input_ids=given, attention_mask=longer, past_key_values=cache, **later).logits
        return _summed(torch.cat([first, rest], dim=1), labels, len(mask))

    def _whole(self, batch: dict[str, Tensor]) -> Tensor:
        # Padded on the right, as in training: no model sees what comes after a text.
        model, labels, device = self._backbone.model, self._padded, self._backbone.device
        prompts = _texts(batch)
        items = [{"input_ids": prompt + label} for prompt in prompts for label in self._labels]
        inputs = {name: tensor.to(device) for name, tensor in Collator(self._backbone.tokens)(items).items()}
        skipped = min(map(len, prompts)) - 1
        width = inputs["input_ids"].shape[1]
        fewer = "logits_to_keep" in inspect.signature(model.forward).parameters
        logits = model(**inputs, **({"logits_to_keep": width - skipped} if fewer else {})).logits
        starts = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device).repeat_interleave(len(labels))
        places = starts[:, None] + torch.arange(labels.shape[1], device=device) - (width - logits.shape[1])
        places = places.clamp(max=logits.shape[1] - 1)  # beyond a short label's end
        return _summed(logits[torch.arange(len(items), device=device)[:, None], places], labels, len(prompts))

    def _after_encoder(self, batch: dict[str, Tensor]) -> Tensor:
        model, labels, mask = self._backbone.model, self._padded, batch["attention_mask"]
        encoded = model.get_encoder()(**batch)
        encoded["last_hidden_state"] = encoded.last_hidden_state.repeat_interleave(len(labels), dim=0)
        outputs = model(
            encoder_outputs=encoded,
            attention_mask=mask.repeat_interleave(len(labels), dim=0),
            decoder_input_ids=self._backbone.tokens.decoder_inputs(labels).repeat(len(mask), 1),
        )
        return _summed(outputs.logits, labels, len(mask))


def _texts(batch: dict[str, Tensor], begun: Beginning | None = None) -> list[list[int]]:
    """Return a batch's rows without padding, with what they begin with."""
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [[*(begun.ids if begun else ()), *ids[mask.bool()].tolist()] for ids, mask in pairs]


def _summed(logits: Tensor, labels: Tensor, rows: int) -> Tensor:
    """Sum log-probabilities of label tokens: logits (row * label, width, vocabulary) to (row, label)."""
    log_probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    wanted = labels.repeat(rows, 1)
    chosen = log_probabilities.gather(2, wanted.clamp(min=0).unsqueeze(2)).squeeze(2)
    return chosen.masked_fill(wanted < 0, 0.0).sum(dim=1).view(rows, len(labels))
