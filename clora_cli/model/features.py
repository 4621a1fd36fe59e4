"""Features of inputs: what a base model's own projections make of a prompt (layer L1).

A site's feature of one input is the layer's output ``W h`` (bias included), without any adapter's part, pooled over the
input's tokens. It is read by hooks in one forward pass over prompts alone, which ends as soon as the last site needed
has been read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.algebra.statistics import Groups, Moments, SecondMoment
from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.base.intake import natural
from clora_cli.data import Collator, Example, encode_prompt
from clora_cli.model.backbone import Backbone
from clora_cli.model.base_model import check_pool
from clora_cli.model.capture import Capture
from clora_cli.model.linear_layers import linear_shape, sees_rows, text_modules
from clora_cli.processes.ranks import gathered, own_share, processes, rank, spread
from clora_cli.store.feature_record import Pool

__all__ = [
    "Pool",
    "collect_moments",
    "layer_of",
    "prompt_ids",
    "prompt_sites",
    "read_features",
    "select_sites",
    "sites_of_prompts",
]

_BLOCK = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def prompt_ids(
    backbone: Backbone,
    examples: Iterable[Example],
    *,
    text: str = "prompt",
    max_length: int | None = 512,
    chat: bool = False,
) -> list[list[int]]:
    """Tokenise what features are taken of.

    Args:
        backbone: Whose tokenizer.
        examples: The inputs.
        text: ``prompt`` for the whole prompt, ``body`` to leave out the instruction and the cue where there is a body.
        max_length: Most tokens of an input; None for all of it, even where the model takes less.
        chat: Use the tokenizer's chat template.

    Raises:
        DataError: If an instruction alone is longer than ``max_length``.
    """
    shown = (_body(example) if text == "body" else example for example in examples)
    kind = backbone.prompt_kind
    return [encode_prompt(example, backbone.tokens, kind=kind, max_length=max_length, chat=chat) for example in shown]


def _body(example: Example) -> Example:
    return (
        dataclasses.replace(example, head="", cue="", turns=(), muted=(), tooling="")
        if example.body.strip()
        else example
    )


def prompt_sites(backbone: Backbone, sites: Collection[str]) -> list[str]:
    """Return the linear layers that see the prompt, in the model's order: not a decoder's behind an encoder, of vision, of positions."""
    return sites_of_prompts(backbone.model, backbone.kind, sites)


def sites_of_prompts(model: Any, kind: str, sites: Collection[str]) -> list[str]:
    """Return ``prompt_sites`` of a model of a kind, which may be without weights."""
    encoder = model.get_encoder() if kind == "seq2seq" else None
    inside = {id(module) for module in encoder.modules()} if encoder else text_modules(model)
    named = ((name, module) for name, module in model.named_modules() if name in sites)
    return [name for name, one in named if id(one) in inside and sees_rows(name) and _is_linear(one)]


def _is_linear(module: nn.Module) -> bool:
    # Tokens are no features; and a layer that is being trained is wrapped.
    return linear_shape(getattr(module, "base_layer", module)) is not None


def layer_of(site: str) -> int | None:
    """Return the number of the block that a site belongs to: the first whole number in its path; None outside blocks."""
    match = _BLOCK.search(site)
    return natural(match[1]) if match else None


def select_sites(sites: Sequence[str], layer: str = "all", module: str = "") -> list[str]:
    """Return the sites of some layers, or of one kind of projection.

    Args:
        sites: In the model's order.
        layer: ``all``, or one or several of ``middle``, ``last`` and blocks' numbers from 0, joined by commas.
        module: Ending of a module path, such as ``v_proj``; empty for any.

    Raises:
        OptionError: If nothing is left.
    """
    chosen = [site for site in sites if not module or site == module or site.endswith(f".{module}")]
    if not chosen:
        endings = sorted({site.rpartition(".")[2] for site in sites})
        raise OptionError(
            f"no site ends with '{module}'; the feature distributions have {', '.join(endings)}",
            code="module-matches-no-site",
        )
    layers = sorted({number for site in chosen if (number := layer_of(site)) is not None})
    if layer == "all" or not layers:
        return chosen
    named = {"middle": layers[len(layers) // 2], "last": layers[-1]}
    numbers = [named.get(part, natural(part)) for part in layer.split(",")]
    if unknown := [part for part, number in zip(layer.split(","), numbers, strict=True) if number not in layers]:
        raise OptionError(
            f"layer {unknown[0]}: choose all, middle, last or one of {', '.join(map(str, layers))}; several joined by commas",
            code="option-choice-unknown",
        )
    return [site for site in chosen if layer_of(site) in numbers]


@torch.no_grad()
def read_features(
    backbone: Backbone,
    ids: Sequence[list[int]],
    sites: Sequence[str],
    *,
    pool: Pool = "prompt-mean",
    batch_size: int = 32,
    shared: bool = False,
    done: Callable[[int], None] = lambda rows: None,
    inputs: bool = False,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Read features of prompts, batch by batch, the longest first; what all prompts begin with is read once, where that pays.

    The base model must be in evaluation mode. Adapters that act through hooks add nothing to the output that is read,
    but do change the inputs of later layers: switch them off for the base model's own features.

    Args:
        backbone: The base model.
        ids: Each prompt's tokens.
        sites: From ``prompt_sites``; at least one.
        pool: How to pool over tokens.
        batch_size: Prompts of one forward pass.
        shared: Let the processes that have met read one batch each at a time, and give it to all.
        done: Told the number of prompts after each batch, or after each such round of them.
        inputs: Read what the sites take in instead of what they give.

    Yields:
        The prompts' numbers, and site to features, shape (prompt, feature), float32, on the model's device.

    Raises:
        MismatchError: If the model has no such site, or a site is not reached by a prompt; if the model sees, and ``pool`` is ``last``.
    """
    check_pool(backbone.reference, pool)
    collate = Collator(backbone.tokens)
    order = sorted(range(len(ids)), key=lambda row: (-len(ids[row]), row))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    own, size = (rank(), processes()) if shared else (0, 1)
    # In the first block, or before it, there is nothing yet that a later token takes from an earlier one.
    # Processes that read other prompts each would make other passes over a divided model.
    alike = shared or not backbone.sharded
    shares = alike and backbone.kind == "causal" and any(layer_of(site) for site in sites)
    first = backbone.sharing.begins(ids) if shares else []
    with Capture(backbone.model, sites, pool, inputs) as capture:
        begun = capture.begin(backbone, first) if first else None
        start = len(begun.ids) if begun else 0
        for turn in range(0, len(batches), size):
            at_once = batches[turn : turn + size]
            # Who has none reads another's, so that all processes make equally many passes.
            batch = collate([{"input_ids": ids[row][start:]} for row in at_once[min(own, len(at_once) - 1)]])
            found = capture.run(backbone, {name: tensor.to(backbone.device) for name, tensor in batch.items()}, begun)
            parts = [found] if size == 1 else _exchanged(found, batch_size, backbone.device)
            yield from zip(at_once, _cut(parts, at_once), strict=True)
            done(sum(map(len, at_once)))


def _exchanged(found: Mapping[str, Tensor], most: int, device: torch.device) -> list[dict[str, Tensor]]:
    """Return the features that each process found, in rows filled up to the same number in all."""
    widths = [vectors.shape[1] for vectors in found.values()]
    mine = torch.cat(list(found.values()), dim=1)
    filled = torch.cat([mine, mine.new_zeros(most - len(mine), mine.shape[1])])
    return [dict(zip(found, torch.split(part, widths, dim=1), strict=True)) for part in gathered(filled, device)]


def _cut(parts: Sequence[Mapping[str, Tensor]], batches: Sequence[Sequence[int]]) -> Iterator[dict[str, Tensor]]:
    """Yield each batch's features alone."""
    for part, rows in zip(parts, batches, strict=False):
        yield {site: vectors[: len(rows)] for site, vectors in part.items()}


def collect_moments(
    backbone: Backbone,
    ids: Sequence[list[int]],
    sites: Sequence[str],
    *,
    second: SecondMoment = "none",
    change: Callable[[str, Tensor], Tensor] = lambda site, features: features,
    groups: Tensor | None = None,
    **reading: Any,
) -> dict[str, Moments]:
    """Take the moments of prompts' features; several processes share the work and get what one gets, bit by bit.

    Batches are read by all, and each site's are added up by one process, in the batches' order.

    Args:
        backbone: The base model.
        ids: Each prompt's tokens.
        sites: From ``prompt_sites``.
        second: Which second moments to keep.
        change: Applied to a site's features, shape (prompt, feature), before they are added up.
        groups: The number of each prompt's group, from 0, none of them empty; None keeps none apart.
        reading: ``pool``, ``batch_size`` and ``done`` of ``read_features``.

    Returns:
        Site to moments, on the CPU.
    """
    moments = {site: _nothing(backbone.model, site, second) for site in sites}
    own = own_share(list(sites))
    sizes = torch.zeros(0, dtype=torch.int64) if groups is None else groups.bincount()
    sums = {site: torch.zeros(len(sizes), len(one.mean), dtype=torch.float64) for site, one in moments.items()}
    for rows, features in read_features(backbone, ids, sites, shared=True, **reading):
        for site in own:
            vectors = change(site, features[site]).cpu()
            moments[site] = moments[site] + Moments.of(vectors, second)
            if groups is not None:
                sums[site].index_add_(0, groups[rows], vectors.double())
    return {
        site: _of_owner(moments[site], sizes, sums[site], number, backbone.device) for number, site in enumerate(sites)
    }


def _nothing(model: nn.Module, site: str, second: SecondMoment) -> Moments:
    module = model.get_submodule(site)
    shape = linear_shape(getattr(module, "base_layer", module))  # a layer that is being trained is wrapped
    if shape is None:
        raise MismatchError(
            f"'{site}' is no linear layer of the base model; was the adapter trained on another model?",
            code="layer-kind-unsupported",
        )
    mean = torch.zeros(shape[0], dtype=torch.float64)
    scatter = {"none": None, "diag": mean.clone(), "full": torch.zeros(shape[0], shape[0], dtype=torch.float64)}[second]
    return Moments(0, mean, scatter)


def _of_owner(moments: Moments, sizes: Tensor, sums: Tensor, number: int, device: torch.device) -> Moments:
    """Return a site's moments, which one process added up from the first batch to the last, in all of them."""
    owner = number % processes()
    count = spread(torch.tensor(moments.count), owner, device)
    scatter = None if moments.scatter is None else spread(moments.scatter, owner, device)
    groups = Groups(sizes, spread(sums, owner, device) / sizes[:, None]) if len(sizes) else None
    return Moments(int(count), spread(moments.mean, owner, device), scatter, groups)
