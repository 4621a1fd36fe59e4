"""Greedy answers, and label sets ranked by likelihood (layer L3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clora_cli.base.errors import CloraError, MismatchError, translated
from clora_cli.evaluation.likelihoods import Likelihoods
from clora_cli.evaluation.prompts import Before, Prompts
from clora_cli.model.conventions import first_position, keeps_rows_apart, neutral_generation
from clora_cli.model.prefix import Beginning
from clora_cli.routing.routed_adapters import Gates

__all__ = ["continued", "generate", "greedy", "rank_labels"]

_NOBODY: Callable[[list[int]], None] = lambda rows: None  # noqa: E731


@torch.inference_mode()
def generate(
    prompts: Prompts,
    max_new_tokens: int,
    done: Callable[[int], None],
    before: Before | None = None,
    cut: Callable[[list[int]], None] = _NOBODY,
) -> list[str]:
    """Answer every prompt greedily.

    Args:
        prompts: The prompts of one task.
        max_new_tokens: Tokens of an answer at most.
        done: Told the number of rows after each batch.
        before: Called before each batch.
        cut: Told, after each batch, the rows whose answers had not ended when they were cut off.

    Returns:
        The answers, in the order of the rows, without special tokens.

    Raises:
        CloraError: The model cannot generate.
    """
    backbone = prompts.backbone
    ends, config = set(backbone.tokens.ends(chat=prompts.chat)), greedy(prompts, max_new_tokens)
    begun = prompts.begin(max_new_tokens) if before is None else None
    answers = [""] * len(prompts.ids)
    for rows, batch in prompts.batches(begun, max_new_tokens):
        if before is not None:
            before(rows, batch["attention_mask"])
        generated = continued(prompts, batch, config, begun)
        cut([row for row, ids in zip(rows, generated, strict=True) if not ends & set(ids)])
        texts = backbone.tokenizer.batch_decode([_until(ids, ends) for ids in generated], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text.strip()
        done(len(rows))
    return answers


def greedy(prompts: Prompts, max_new_tokens: int) -> Any:
    """Return the generation configuration of greedy answers to prompts."""
    backbone = prompts.backbone
    tokens = backbone.tokens
    start = {"decoder_start_token_id": tokens.start} if backbone.kind == "seq2seq" else {}
    search = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
    ends = {"eos_token_id": sorted(tokens.ends(chat=prompts.chat))}
    return neutral_generation(tokens, **search, **ends, **start, use_cache=keeps_rows_apart(backbone.model))


def continued(
    prompts: Prompts, batch: dict[str, Tensor], config: Any, begun: Beginning | None = None, **watching: Any
) -> list[list[int]]:
    """Return the tokens that a model gives one batch of prompts, padding included.

    Args:
        prompts: The prompts.
        batch: One of their batches.
        config: From ``greedy``.
        begun: What all prompts begin with, where the model has read it and the batch lacks it.
        watching: ``stopping_criteria`` and ``logits_processor`` of Transformers' ``generate``.

    Raises:
        CloraError: The model cannot generate.
    """
    backbone = prompts.backbone
    first = first_position(backbone.model) if backbone.kind == "causal" else 0
    inputs = dict(batch) if begun is None else begun.before(batch, backbone.sharing.positions)
    if first and begun is None:  # Transformers itself counts from 0
        inputs["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0) + first
    with translated(f"{backbone.tokens.model} cannot generate", CloraError, code="generation-failed"):
        output = backbone.model.generate(**inputs, generation_config=config, **watching)
    given = 1 if backbone.kind == "seq2seq" else batch["input_ids"].shape[1]
    return output[:, given:].tolist()  # type: ignore[no-any-return]


@torch.inference_mode()
def rank_labels(
    prompts: Prompts, labels: Sequence[str], done: Callable[[int], None], before: Before | None = None
) -> list[str]:
    """Give every prompt the label that the model finds likeliest.

    A label's likelihood is that of its tokens and the end of sequence, summed in logarithms: the labels are compared
    as whole answers, so that 'negative' does not win over 'very negative' by being shorter or longer.

    Returns:
        One label a row, in the order of the rows; the first of equals.

    Raises:
        MismatchError: A label has no room in the model's positions.
        CloraError: The model fails.
    """
    backbone = prompts.backbone
    longest = max(range(len(labels)), key=lambda index: len(prompts.labels[index]))
    if len(prompts.labels[longest]) > prompts.room:
        raise MismatchError(
            f"label '{labels[longest]}' has {len(prompts.labels[longest])} tokens, and {backbone.tokens.model} has room "
            f"for {prompts.room} after a prompt; pass a smaller --max-length or a model of more positions",
            code="label-too-long",
        )
    # Adapters that a pass over the prompts alone weighs, or that may be: the labels come after it.
    decides = before is not None and not (isinstance(before, Gates) and not before.within)
    chosen = [""] * len(prompts.ids)
    with translated(f"{backbone.tokens.model} cannot rank labels", CloraError, code="label-ranking-failed"):
        likelihoods = Likelihoods(backbone, prompts.labels, () if decides else prompts.ids)
        begun = prompts.begin(likelihoods.behind) if before is None and likelihoods.behind else None
    fewer = dataclasses.replace(prompts, batch_size=likelihoods.rows(prompts.batch_size))
    for rows, batch in fewer.batches(begun):
        if before is not None:
            before(rows, batch["attention_mask"])
        with translated(f"{backbone.tokens.model} cannot rank labels", CloraError, code="label-ranking-failed"):
            best = likelihoods.of(batch, begun, decides=decides).argmax(dim=1).tolist()
        for row, index in zip(rows, best, strict=True):
            chosen[row] = labels[index]
        done(len(rows))
    return chosen


def _until(ids: list[int], ends: set[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]
