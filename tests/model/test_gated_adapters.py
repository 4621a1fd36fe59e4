"""Adapters weighed input by input: against each adapter alone, and against naive mixtures of dense deltas in float64."""

from __future__ import annotations

import pytest
import torch
from mixtures import batch_of, logits, weights_of, with_dense_mixture
from refusals import refused
from support import FAMILIES, TARGETS, doubled, random_factors

from clora_cli.model.bank import AdapterBank


def three(base, family):
    """Return adapters of three ranks, two of which lack sites that the third has, in float64."""
    first, second = TARGETS[family]
    return [
        doubled(random_factors(base.model, 1, 2, scaling=2.0)),
        doubled(random_factors(base.model, 2, 5, first, scaling=0.5)),
        doubled(random_factors(base.model, 3, 3, [*first, *second], scaling=-1.0)),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_hot_weights_give_each_input_its_own_adapter(backbone, family):
    base = backbone(family)
    base.model.double()
    adapters, inputs = three(base, family), batch_of(base)
    bank, choice = AdapterBank(base.model), [2, 0, 1]
    alone = []
    for row, number in enumerate(choice):
        bank.activate([adapters[number]])
        alone.append(logits(base, inputs)[row])
    bank.activate(adapters)
    summed = logits(base, inputs)
    bank.gate(weights_of(bank, 3, 3, choice))
    mixed = logits(base, inputs)
    assert (mixed - summed).abs().max() > 0.1
    assert torch.allclose(mixed, torch.stack(alone), rtol=1e-9, atol=1e-9)
    bank.gate(None)
    assert torch.equal(logits(base, inputs), summed)


@pytest.mark.parametrize("family", FAMILIES)
def test_soft_weights_give_the_naive_mixture_of_dense_deltas(backbone, family):
    base = backbone(family)
    base.model.double()
    adapters, inputs = three(base, family), batch_of(base)
    bank = AdapterBank(base.model)
    bank.activate(adapters)
    weights = weights_of(bank, 3, 3)
    bank.gate(weights)
    mixed = logits(base, inputs)
    bank.clear()
    for row in range(3):
        expected = with_dense_mixture(base, adapters, {site: one[row] for site, one in weights.items()}, inputs)
        assert torch.allclose(mixed[row], expected[row], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}])
def test_generation_of_a_mixed_batch_is_that_of_each_adapter_alone(backbone, family, how):
    base = backbone(family)
    base.model.double()
    adapters, inputs, choice = three(base, family), batch_of(base), [1, 2, 0]
    bank, copies = AdapterBank(base.model), how.get("num_return_sequences", 1)

    def generate():
        torch.manual_seed(0)
        top = {"top_k": 1} if "do_sample" in how else {}  # sampling among one: the same path, without chance
        return base.model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, **how, **top)

    alone = []
    for row, number in enumerate(choice):
        bank.activate([adapters[number]])
        alone.append(generate()[row * copies : (row + 1) * copies])
    bank.activate(adapters)
    bank.gate(weights_of(bank, 3, 3, choice))
    assert torch.equal(generate(), torch.cat(alone))


def test_an_input_without_weights_gets_the_base_model(backbone):
    base = backbone("llama")
    inputs, bank = batch_of(base), AdapterBank(base.model)
    bare = logits(base, inputs)
    bank.activate([random_factors(base.model, 1, 2), random_factors(base.model, 2, 3)])
    weights = {site: torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]) for site in bank.sites}
    bank.gate(weights)
    mixed = logits(base, inputs)
    assert torch.allclose(mixed[1], bare[1], atol=1e-5)
    assert (mixed[0] - bare[0]).abs().max() > 0.1
    bank.gate({site: torch.zeros(3, 2) for site in bank.sites})
    assert torch.equal(logits(base, inputs), bare)


def test_adapters_that_no_input_asks_for_stay_out_of_the_products(backbone):
    base = backbone("llama")
    bank = AdapterBank(base.model)
    poison = {site: type(f)(f.a * float("nan"), f.b, f.scaling) for site, f in random_factors(base.model, 2, 3).items()}
    bank.activate([random_factors(base.model, 1, 2), poison])
    bank.gate({site: torch.tensor([[1.0, 0.0]]).repeat(3, 1) for site in bank.sites})
    assert logits(base, batch_of(base)).isfinite().all()


def test_dense_deltas_are_weighed_too(backbone):
    base = backbone("t5")
    base.model.double()
    low, dense = (doubled(random_factors(base.model, seed, 2)) for seed in (1, 2))
    inputs, bank = batch_of(base), AdapterBank(base.model)
    bank.activate([low, dense])
    weights = weights_of(bank, 3, 2)
    bank.gate(weights)
    expected = logits(base, inputs)
    bank.activate([low, {site: f.scaling * (f.b @ f.a) for site, f in dense.items()}])
    bank.gate(weights)
    assert torch.allclose(logits(base, inputs), expected, rtol=1e-9, atol=1e-9)


def test_gradients_flow_through_a_mixture(backbone):
    base = backbone("llama")
    bank = AdapterBank(base.model)
    bank.activate([random_factors(base.model, 1, 2), random_factors(base.model, 2, 3)])
    weights = weights_of(bank, 3, 2)
    embedded = base.model.get_input_embeddings()(batch_of(base)["input_ids"]).requires_grad_()
    bank.gate(weights)
    base.model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad is not None
    assert embedded.grad.abs().max() > 0


def test_weights_of_another_batch_or_number_of_adapters_are_refused(backbone):
    base = backbone("llama")
    bank = AdapterBank(base.model)
    bank.activate([random_factors(base.model, 1, 2)])
    with pytest.raises(ValueError, match="2 weights for 1 adapters"):
        bank.gate({site: torch.ones(3, 2) for site in bank.sites})
    bank.gate({site: torch.ones(2, 1) for site in bank.sites})
    with refused("gated-inputs-differ", 2):
        logits(base, batch_of(base))


def test_a_forward_pass_may_decide_for_itself_once(backbone):
    base = backbone("llama")
    bank, asked = AdapterBank(base.model), []
    bank.activate([random_factors(base.model, 1, 2), random_factors(base.model, 2, 3)])

    def choose(site, output):
        asked.append(site)
        return torch.tensor([[1.0, 0.0]]).repeat(len(output), 1)

    bank.gate_by(choose)
    base.model.generate(**batch_of(base), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert sorted(asked) == sorted(bank.sites)
    live = logits(base, batch_of(base))
    bank.activate([random_factors(base.model, 1, 2)])
    assert torch.allclose(live, logits(base, batch_of(base)), atol=1e-5)
