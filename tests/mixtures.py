"""Mixtures of adapters, input by input, and naive ones of dense deltas beside them."""

from __future__ import annotations

import torch
from torch.nn import functional

from clora_cli.model.linear_layers import is_transposed

TEXTS = ("the boat was great", "so so", "our lunch seemed very bad in the end")


def batch_of(backbone, texts=TEXTS):
    side = "left" if backbone.kind == "causal" else "right"
    tokens = backbone.tokenizer(list(texts), padding=True, padding_side=side, return_tensors="pt")
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def logits(backbone, inputs):
    if backbone.kind == "seq2seq":
        inputs = {**inputs, "decoder_input_ids": torch.tensor([[0, 5, 6]]).repeat(len(inputs["input_ids"]), 1)}
    with torch.no_grad():
        return backbone.model(**inputs).logits


def weights_of(bank, rows, adapters, one_hot=None, seed=0):
    """Return weights of their own for every site: random mixtures, or the same choice everywhere."""
    if one_hot is not None:
        return {site: functional.one_hot(torch.tensor(one_hot), adapters).float() for site in bank.sites}
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.rand(rows, adapters, generator=generator).softmax(1) for site in bank.sites}


def with_dense_mixture(base, adapters, weights, inputs):
    """Return logits of all inputs with one input's mixture added to the weights."""
    kept = {site: base.model.get_submodule(site).weight.detach().clone() for site in weights}
    with torch.no_grad():
        for site, mixture in weights.items():
            parts = [
                w.double() * a[site].scaling * (a[site].b @ a[site].a)
                for w, a in zip(mixture, adapters, strict=True)
                if site in a
            ]
            delta = sum(parts)
            base.model.get_submodule(site).weight += delta.T if is_transposed(base.model, site) else delta
        found = logits(base, inputs)
        for site, weight in kept.items():
            base.model.get_submodule(site).weight.copy_(weight)
    return found
