"""Greedy answers, and label sets ranked by likelihood (layer L3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from clora_cli.backbone import Backbone
from clora_cli.data import Collator, Example, Task, encode_answers, encode_prompt, uses_chat
from clora_cli.processes import own_share

__all__ = ["Before", "Prompts", "generate", "rank_labels"]

# Told the rows of a batch and their attention mask, (row, token), before the model sees them.
Before = Callable[[list[int], Tensor], None]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Encoded prompts of one task, longest first in batches, so that little is padded and memory is known at once.

    Attributes:
        backbone: The model they are for.
        examples: The rows.
        ids: Their prompt tokens.
        labels: The label set's tokens, end of sequence included; empty for open-ended tasks.
        batch_size: Rows of one forward pass.
        chat: Whether they went through the tokenizer's chat template.
    """

    backbone: Backbone
    examples: Sequence[Example]
    ids: Sequence[list[int]]
    labels: Sequence[list[int]]
    batch_size: int
    chat: bool = False

    @classmethod
    def encode(
        cls, backbone: Backbone, task: Task, examples: Sequence[Example], max_length: int, batch_size: int
    ) -> Prompts:
        """Tokenise rows of one task. Labels follow the same cue in every row, so one row's tokens serve for all."""
        tokenizer, kind = backbone.tokenizer, backbone.prompt_kind
        chat = uses_chat(task, tokenizer)
        ids = [encode_prompt(row, tokenizer, kind=kind, max_length=max_length, chat=chat) for row in examples]
        labels = encode_answers(examples[0], task.labels, tokenizer, kind=kind, chat=chat)
        return cls(backbone, examples, ids, labels, batch_size, chat)

    def batches(self) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield row numbers and padded tensors, (batch, length), causal prompts padded on the left.

        Processes that have met get a share of the batches each.
        """
        collate = Collator(self.backbone.tokenizer, side="left" if self.backbone.kind == "causal" else "right")
        order = sorted(range(len(self.ids)), key=lambda row: (-len(self.ids[row]), row))
        for start in own_share(range(0, len(order), self.batch_size)):
            rows = order[start : start + self.batch_size]
            batch = collate([{"input_ids": self.ids[row]} for row in rows])
            yield rows, {key: value.to(self.backbone.device) for key, value in batch.items()}


@torch.inference_mode()
def generate(
    prompts: Prompts, max_new_tokens: int, done: Callable[[int], None], before: Before | None = None
) -> list[str]:
    """Answer every prompt greedily.

    Args:
        prompts: The prompts of one task.
        max_new_tokens: Tokens of an answer at most.
        done: Told the number of rows after each batch.
        before: Called before each batch.

    Returns:
        The answers, in the order of the rows, without special tokens.
    """
    backbone = prompts.backbone
    config = _greedy(backbone, max_new_tokens)
    answers = [""] * len(prompts.ids)
    for rows, batch in prompts.batches():
        if before is not None:
            before(rows, batch["attention_mask"])
        output = backbone.model.generate(**batch, generation_config=config)
        new = output if backbone.kind == "seq2seq" else output[:, batch["input_ids"].shape[1] :]
        for row, text in zip(rows, backbone.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            answers[row] = text.strip()
        done(len(rows))
    return answers


@torch.inference_mode()
def rank_labels(
    prompts: Prompts, labels: Sequence[str], done: Callable[[int], None], before: Before | None = None
) -> list[str]:
    """Give every prompt the label that the model finds likeliest.

    A label's likelihood is that of its tokens and the end of sequence, summed in logarithms: the labels are compared
    as whole answers, so that 'negative' does not win over 'very negative' by being shorter or longer.

    Returns:
        One label a row, in the order of the rows; the first of equals.
    """
    backbone = prompts.backbone
    width = max(map(len, prompts.labels))
    padded = torch.tensor([ids + [-100] * (width - len(ids)) for ids in prompts.labels], device=backbone.device)
    likelihood = _likelihood_seq2seq if backbone.kind == "seq2seq" else _likelihood_causal
    chosen = [""] * len(prompts.ids)
    # Every row goes through the model once for each label, with a cache of its own.
    fewer = dataclasses.replace(prompts, batch_size=max(1, prompts.batch_size // len(labels)))
    for rows, batch in fewer.batches():
        if before is not None:
            before(rows, batch["attention_mask"])
        best = likelihood(backbone.model, batch, padded).argmax(dim=1).tolist()
        for row, index in zip(rows, best, strict=True):
            chosen[row] = labels[index]
        done(len(rows))
    return chosen


def _greedy(backbone: Backbone, max_new_tokens: int) -> GenerationConfig:
    base = backbone.model.generation_config
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=backbone.tokenizer.pad_token_id,
        bos_token_id=base.bos_token_id,
        eos_token_id=base.eos_token_id if base.eos_token_id is not None else backbone.tokenizer.eos_token_id,
        decoder_start_token_id=base.decoder_start_token_id,
    )


def _likelihood_causal(model: Any, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    # The prompt runs once; its keys and values are then shared by all labels.
    count, width = labels.shape
    mask = batch["attention_mask"]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    prompt = model(**batch, position_ids=positions, use_cache=True)
    first = prompt.logits[:, -1:].repeat_interleave(count, dim=0)
    cache = prompt.past_key_values
    cache.batch_repeat_interleave(count)
    given = labels[:, :-1].clamp(min=0).repeat(len(mask), 1)
    after = positions[:, -1:].repeat_interleave(count, dim=0) + torch.arange(1, width, device=mask.device)
    longer = torch.cat([mask.repeat_interleave(count, dim=0), torch.ones_like(given)], dim=1)
    rest = model(input_ids=given, attention_mask=longer, position_ids=after, past_key_values=cache).logits
    return _sum_log_likelihood(torch.cat([first, rest], dim=1), labels, len(mask))


def _likelihood_seq2seq(model: Any, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    count = len(labels)
    mask = batch["attention_mask"]
    encoded = model.get_encoder()(**batch).last_hidden_state
    outputs = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded.repeat_interleave(count, dim=0)),
        attention_mask=mask.repeat_interleave(count, dim=0),
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels=labels).repeat(len(mask), 1),
    )
    return _sum_log_likelihood(outputs.logits, labels, len(mask))


def _sum_log_likelihood(logits: Tensor, labels: Tensor, rows: int) -> Tensor:
    """Sum log-probabilities of label tokens: logits (row * label, width, vocabulary) to (row, label)."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    wanted = labels.repeat(rows, 1)
    chosen = log_probabilities.gather(2, wanted.clamp(min=0).unsqueeze(2)).squeeze(2)
    return chosen.masked_fill(wanted < 0, 0.0).sum(dim=1).view(rows, len(labels))
