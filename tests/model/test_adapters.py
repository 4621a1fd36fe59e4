from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from refusals import refused
from support import FAMILIES, TARGETS, doubled, random_factors, write_random_adapter

from clora_cli.algebra.lora import Factor
from clora_cli.model.bank import AdapterBank
from clora_cli.model.linear_layers import is_transposed


def logits(backbone, model=None):
    """Return the logits of a padded batch."""
    tokens = backbone.tokenizer(["the boat was great", "so so"], padding=True, return_tensors="pt")
    inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
    if backbone.kind == "seq2seq":
        inputs["decoder_input_ids"] = torch.tensor([[0, 5, 6], [0, 7, 8]])
    with torch.no_grad():
        return (model or backbone.model)(**inputs).logits


def add_to_weights(model, adapters):
    """Add the float64 sum of dense deltas to the weights: the naive way."""
    for site in {site for adapter in adapters for site in adapter}:
        delta = sum(a[site].scaling * (a[site].b.double() @ a[site].a.double()) for a in adapters if site in a)
        weight = model.get_submodule(site).weight
        weight += (delta.T if is_transposed(model, site) else delta).to(weight.dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bank_adds_the_sum_of_dense_deltas(backbone, family):
    base = backbone(family)
    base.model.double()
    adapters = [
        doubled(random_factors(base.model, 1, 2, scaling=2.0)),
        doubled(random_factors(base.model, 2, 5, TARGETS[family][0], scaling=0.5)),
        doubled(random_factors(base.model, 3, 1, TARGETS[family][1], scaling=-1.0)),
        doubled(random_factors(base.model, 4, 3, ["all-linear"], scaling=0.1)),
    ]
    before = logits(base)
    bank = AdapterBank(base.model)
    bank.activate(adapters)
    summed = logits(base)
    bank.clear()
    assert torch.equal(logits(base), before)
    with torch.no_grad():
        add_to_weights(base.model, adapters)
    assert (summed - before).abs().max() > 0.1
    assert torch.allclose(summed, logits(base), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_adapter_gives_what_peft_gives(tmp_path, backbone, family):
    base, other = backbone(family), backbone(family)
    folder = write_random_adapter(tmp_path / "first", base, stage=1, rank=3, alpha=7)
    base.model.double()  # a model of random weights would blow rounding up
    AdapterBank(base.model).activate([folder.factors()])
    loaded = PeftModel.from_pretrained(other.model, folder.path).eval().double()
    assert torch.allclose(logits(base), logits(other, loaded), rtol=1e-5, atol=1e-5)


def test_clear_gives_the_base_model_bit_for_bit(backbone):
    base = backbone("llama")
    before = logits(base)
    bank = AdapterBank(base.model)
    bank.activate([random_factors(base.model, 1, 2)])
    assert not torch.equal(logits(base), before)
    bank.clear()
    assert torch.equal(logits(base), before)
    assert bank.sites == ()
    bank.activate([])
    assert torch.equal(logits(base), before)


def test_activating_replaces_what_was_active(backbone):
    base = backbone("llama")
    one, two = (random_factors(base.model, seed, 2) for seed in (1, 2))
    bank = AdapterBank(base.model)
    bank.activate([one])
    expected = logits(base)
    bank.activate([two])
    bank.activate([one])
    assert torch.equal(logits(base), expected)


def test_one_adapter_alone_for_a_while(backbone):
    base = backbone("llama")
    one, two = random_factors(base.model, 1, 2, scaling=2.0), random_factors(base.model, 2, 3, ["q_proj"])
    bank = AdapterBank(base.model)
    bare = logits(base)
    alone = []
    for adapter in (one, two):
        bank.activate([adapter])
        alone.append(logits(base))
    bank.activate([one, two])
    both = logits(base)
    for number, expected in ((0, alone[0]), (1, alone[1]), (None, bare)):
        with bank.only(number):
            assert torch.allclose(logits(base), expected, atol=1e-5)
        assert torch.equal(logits(base), both)


def test_dense_deltas_act_as_the_factors_that_they_come_from(backbone):
    base = backbone("gpt2")
    low, dense = random_factors(base.model, 1, 2), random_factors(base.model, 2, 2)
    bank = AdapterBank(base.model)
    bank.activate([low, dense])
    expected = logits(base)
    bank.activate([low, {site: factor.delta() for site, factor in dense.items()}])
    assert torch.allclose(logits(base), expected, atol=1e-4)
    sites = sorted(dense)
    assert torch.equal(bank.dense_of(sites)[1], dense[sites[1]].delta())
    assert bank.dense_of(["lm_head"]) is None


def test_the_past_is_stacked_without_a_copy(backbone):
    base = backbone("llama")
    one, two = random_factors(base.model, 1, 2, scaling=2.0), random_factors(base.model, 2, 3, ["q_proj"])
    bank = AdapterBank(base.model)
    bank.activate([one, two])
    q, v = ([f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1)] for name in ("q_proj", "v_proj"))
    assert [bank.owners(site) for site in (q[0], v[0], "lm_head")] == [(0, 0, 1, 1, 1), (0, 0), ()]
    a, b = bank.past_of(q)
    assert (a.shape, b.shape) == ((2, 5, 32), (2, 32, 5))
    assert a.data_ptr() == bank.past(q[0])[0].data_ptr()
    assert torch.equal(b[1], torch.cat([2.0 * one[q[1]].b, two[q[1]].b], dim=1))
    assert torch.equal(bank.past_of(q[1:])[0], a[1:])
    assert bank.past_of(["lm_head"]) is None
    assert bank.past("lm_head") is None


def test_a_site_that_the_model_lacks_does_not_fit(backbone):
    bank = AdapterBank(backbone("llama").model)
    factor = Factor(torch.zeros(1, 32), torch.zeros(32, 1), 1.0)
    with refused("base-model-lacks-layer", "model.layers.7.self_attn.q_proj"):
        bank.activate([{"model.layers.7.self_attn.q_proj": factor}])


@pytest.mark.parametrize(
    ("site", "code"),
    [
        ("model.layers.0.self_attn.v_proj", "layer-shapes-differ"),
        ("model.norm", "layer-kind-unsupported"),
        ("model.layers", "layer-kind-unsupported"),
    ],
)
def test_a_site_of_another_shape_or_kind_does_not_fit(backbone, site, code):
    base = backbone("llama")
    before = logits(base)
    bank = AdapterBank(base.model)
    factor = Factor(torch.zeros(1, 32), torch.zeros(32, 1), 1.0)
    with refused(code, f"'{site}'"):
        bank.activate([{site: factor}])
    assert torch.equal(logits(base), before)


def test_adapters_of_one_site_with_two_shapes_do_not_fit(backbone):
    bank = AdapterBank(backbone("llama").model)
    site = "model.layers.0.self_attn.q_proj"
    right = Factor(torch.zeros(1, 32), torch.zeros(32, 1), 1.0)
    wrong = Factor(torch.zeros(1, 48), torch.zeros(32, 1), 1.0)
    with refused("layer-shapes-differ", site):
        bank.activate([{site: right}, {site: wrong}])
