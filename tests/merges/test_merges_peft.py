"""What PEFT computes and what it does not: its ``cat`` is our ``linear``; its ``linear`` is another function."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from support import write_random_adapter

from clora_cli.algebra.lora import Factor
from clora_cli.base import registry
from clora_cli.merges import merge_sites

WEIGHTS = [1.0, 0.5, 2.0]


@pytest.fixture
def given(tmp_path, backbone):
    """Return three adapters of different ranks and scalings, as we read them and as PEFT does."""
    base = backbone("llama")
    folders = [
        write_random_adapter(tmp_path / name, base, stage=stage, rank=rank, alpha=6)
        for stage, (name, rank) in enumerate({"first": 2, "second": 3, "third": 2}.items(), 1)
    ]
    model = PeftModel.from_pretrained(base.model, folders[0].path, adapter_name="first")
    for folder in folders[1:]:
        model.load_adapter(folder.path, folder.task)
    return [folder.factors() for folder in folders], model


def by_peft(model, names, weights, kind):
    """Return the merged deltas that PEFT computes, by site."""
    model.add_weighted_adapter(names, weights, "merged", combination_type=kind)
    deltas = {
        name.removeprefix("base_model.model."): module.get_delta_weight("merged").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    model.delete_adapter("merged")
    return deltas


def by_us(adapters, weights):
    merge = registry.load("merges", "linear")()
    return {site: factor.delta() for site, factor in merge_sites(merge, adapters, torch.tensor(weights))}


def distance(left, right):
    assert set(left) == set(right)
    whole = sum(float(delta.norm()) for delta in right.values())
    return sum(float((left[site] - right[site]).norm()) for site in left) / whole


@pytest.mark.parametrize("weights", [WEIGHTS, [1.0, -1.0, 0.5]])
def test_linear_is_pefts_cat(given, weights):
    adapters, model = given
    theirs = by_peft(model, ["first", "second", "third"], weights, "cat")
    assert len(theirs) == 4
    assert distance(by_us(adapters, weights), theirs) < 1e-6


def test_pefts_linear_depends_on_signs_that_mean_nothing(given):
    adapters, model = given
    pair, names = [adapters[0], adapters[2]], ["first", "third"]
    before = by_peft(model, names, [1.0, 1.0], "linear")
    ours = by_us(pair, [1.0, 1.0])
    assert distance(before, ours) > 0.5  # not the sum of the two deltas
    for module in model.modules():
        if hasattr(module, "get_delta_weight"):
            kept = module.get_delta_weight("third").detach().clone()
            module.lora_A["third"].weight.data.neg_()
            module.lora_B["third"].weight.data.neg_()
            assert torch.equal(module.get_delta_weight("third"), kept)  # the adapter is the same function
    flipped = [pair[0], {site: Factor(-f.a, -f.b, f.scaling) for site, f in pair[1].items()}]
    assert distance(by_peft(model, names, [1.0, 1.0], "linear"), before) > 0.5
    assert distance(by_us(flipped, [1.0, 1.0]), ours) == 0
