"""Greedy answers, and label sets ranked by likelihood (layer L3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from clora_cli.base.errors import CloraError, MismatchError, translated
from clora_cli.evaluation.likelihoods import Likelihoods
from clora_cli.evaluation.prompts import Before, Prompts
from clora_cli.model.generation import continued, greedy, until
from clora_cli.model.output_layer import check_numbers
from clora_cli.routing.routed_adapters import Gates

__all__ = ["generate", "rank_labels"]

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
    ends, config = set(backbone.tokens.ends(chat=prompts.chat)), greedy(backbone, max_new_tokens, chat=prompts.chat)
    begun = prompts.begin(max_new_tokens) if before is None else None
    answers = [""] * len(prompts.ids)
    for rows, batch in prompts.batches(begun, max_new_tokens):
        if before is not None:
            before(rows, batch["attention_mask"])
        generated = continued(backbone, batch, config, begun)
        cut([row for row, ids in zip(rows, generated, strict=True) if not ends & set(ids)])
        texts = backbone.tokenizer.batch_decode([until(ids, ends) for ids in generated], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
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

    Raises:
        MismatchError: A label has no room in the model's positions.
        CloraError: The model fails, or computes values that are no numbers.
    """
    for _, part in (parts := list(prompts.by_labels())):
        _check_room(part, labels)
    chosen = [""] * len(prompts.ids)
    for numbers, part in parts:
        for row, index in _likeliest(part, done, before and _of_part(before, numbers)):
            chosen[numbers[row]] = labels[index]
    return chosen


def _check_room(prompts: Prompts, labels: Sequence[str]) -> None:
    longest = max(range(len(labels)), key=lambda index: len(prompts.labels[index]))
    if len(prompts.labels[longest]) > prompts.room:
        model = prompts.backbone.tokens.model
        raise MismatchError(
            f"label '{labels[longest]}' has {len(prompts.labels[longest])} tokens, and {model} has room "
            f"for {prompts.room} after a prompt; pass a smaller --max-length or a model of more positions",
            code="label-too-long",
        )


def _likeliest(prompts: Prompts, done: Callable[[int], None], before: Before | None) -> Iterator[tuple[int, int]]:
    """Yield each prompt's number and that of its likeliest label; after all prompts the labels are the same tokens."""
    backbone = prompts.backbone
    # Adapters that a pass over the prompts alone weighs, or that may be: the labels come after it.
    decides = before is not None and not (isinstance(before, Gates) and not before.within)
    with translated(f"{backbone.tokens.model} cannot rank labels", CloraError, code="label-ranking-failed"):
        likelihoods = Likelihoods(backbone, prompts.labels, () if decides else prompts.ids)
        begun = prompts.begin(likelihoods.behind) if before is None and likelihoods.behind else None
    fewer = dataclasses.replace(prompts, batch_size=likelihoods.rows(prompts.batch_size))
    for rows, batch in fewer.batches(begun):
        if before is not None:
            before(rows, batch["attention_mask"])
        with translated(f"{backbone.tokens.model} cannot rank labels", CloraError, code="label-ranking-failed"):
            found = likelihoods.of(batch, begun, decides=decides)
        check_numbers(found, backbone.tokens.model)
        yield from zip(rows, found.argmax(dim=1).tolist(), strict=True)
        done(len(rows))


def _of_part(before: Before, numbers: Sequence[int]) -> Before:
    """Return what to call before each batch of some of the prompts."""

    def weigh(rows: list[int], mask: Tensor) -> None:
        before([numbers[row] for row in rows], mask)

    return Gates(weigh, before.within) if isinstance(before, Gates) else weigh
