from __future__ import annotations

import pytest
import torch
from refusals import refused

from clora_cli.data import Collator
from clora_cli.model.attribution import attributions, down_projections, spearman

FAMILIES = ("llama", "gpt2", "t5", "encoder-decoder")
NEURONS = {"llama": 2 * 64, "gpt2": 2 * 128, "t5": 4 * 64, "encoder-decoder": 4 * 64}


def case(base):
    """Return a model in float64 with a padded batch of rows of different lengths, and its labels."""
    model = base.model.double()
    first = {"input_ids": [5, 9, 11, 17, 23, 8, 30], "labels": [-100] * 4 + [23, 8, 30]}
    second = {"input_ids": [7, 12, 19, 6], "labels": [-100, -100, 19, 6]}
    if base.kind == "seq2seq":
        first["labels"], second["labels"] = [23, 8, 30], [19, 6]
    batch = Collator(base.tokenizer)([first, second])
    labels = batch.pop("labels")
    if base.kind == "seq2seq":
        batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=labels)
    return model, batch, labels, base.kind == "causal"


def log_probability(model, batch, labels, shift, replaced):
    """Return each row's log-probability of its answer with some layers' inputs replaced; the naive way."""
    handles = [
        model.get_submodule(layer).register_forward_pre_hook(lambda _, given, value=value: (value,))
        for layer, value in replaced.items()
    ]
    logits = model(**batch).logits
    for handle in handles:
        handle.remove()
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    tokens = logits.log_softmax(-1).gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    return (tokens * (labels != -100)).sum(-1)


def inputs_of(model, batch, layers):
    seen = {}
    handles = [
        model.get_submodule(layer).register_forward_pre_hook(
            lambda _, given, layer=layer: seen.update({layer: given[0]})
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen


def naive(model, batch, labels, shift, layers, steps, together, answer):
    neurons = inputs_of(model, batch, layers)
    result = {layer: 0 for layer in layers}
    for group in [layers] if together else [[layer] for layer in layers]:
        for k in range(1, steps + 1):
            scaled = {layer: (neurons[layer] * (k / steps)).requires_grad_() for layer in group}
            value = log_probability(model, batch, labels, shift, scaled)
            value = (value.exp() if answer == "probability" else value).sum()
            for layer, slope in zip(group, torch.autograd.grad(value, list(scaled.values())), strict=True):
                result[layer] = result[layer] + (neurons[layer] * slope / steps).sum(dim=(0, 1)) / len(labels)
    return torch.cat([result[layer] for layer in layers])


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_are_the_inputs_of_the_feed_forward_output(backbone, family):
    model = backbone(family).model
    layers = down_projections(model)
    count = 2 if family in {"llama", "gpt2"} else 4
    assert len(layers) == count
    assert not any("attention" in layer or "attn" in layer for layer in layers)
    wide = {"gpt2": 128}.get(family, 64)
    seen = inputs_of(model, case(backbone(family))[1], layers)
    assert {value.shape[-1] for value in seen.values()} == {wide}


def test_a_model_without_feed_forward_layers_is_told():
    model = torch.nn.ModuleDict({"attention_wo": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    with refused("no-feed-forward-layer", "ModuleDict"):
        down_projections(model)


@pytest.mark.parametrize("answer", ["probability", "log-probability"])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_as_a_plain_loop_with_autograd(backbone, family, together, answer):
    model, batch, labels, shift = case(backbone(family))
    layers = down_projections(model)
    expected = naive(model, batch, labels, shift, layers, 4, together, answer)
    for at_once in (0, 3):
        found = attributions(model, batch, labels, layers, steps=4, together=together, answer=answer, at_once=at_once)
        assert found.shape == (NEURONS[family],)
        assert found.dtype == torch.float32
        largest = float(expected.abs().max())
        assert largest > 0
        assert torch.allclose(found.double() / largest, expected / largest, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_joint_attributions_add_up_to_what_the_neurons_do(backbone, family):
    model, batch, labels, shift = case(backbone(family))
    layers = down_projections(model)
    nothing = {layer: torch.zeros_like(value) for layer, value in inputs_of(model, batch, layers).items()}
    with torch.no_grad():
        whole, without = (log_probability(model, batch, labels, shift, given) for given in ({}, nothing))
    found = attributions(model, batch, labels, layers, steps=1000, together=True, answer="log-probability", at_once=500)
    assert float(found.sum()) == pytest.approx(float((whole - without).mean()), rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_counts_nothing(backbone, family):
    model, batch, labels, shift = case(backbone(family))
    layers = down_projections(model)
    both = attributions(model, batch, labels, layers, steps=3, answer="log-probability")
    base = backbone(family)
    alone = []
    for items in ([0], [1]):
        model, batch, labels, shift = case(base)
        row = {name: tensor[items] for name, tensor in batch.items()}
        length = int(row["attention_mask"].sum())
        answer = int((labels[items] != -100).sum())
        row = {n: t[:, : answer if n.startswith("decoder") else length] for n, t in row.items()}
        own = labels[items][:, : answer if not shift else length]
        alone.append(attributions(model, row, own, layers, steps=3, answer="log-probability"))
    assert torch.allclose(both, (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-5 * float(both.abs().max()))


def test_blocks_below_the_scaled_layer_run_once(backbone):
    model, batch, labels, _ = case(backbone("t5"))
    runs = []
    block = model.encoder.block[0]
    original = type(block).forward
    counted = lambda self, *a, **k: (runs.append(self), original(self, *a, **k))[1]  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(block), "forward", counted)
        attributions(model, batch, labels, down_projections(model), steps=2)
    # The plain pass and the four scaled ones run 4 + 4 + 3 + 2 + 1 blocks.
    assert len(runs) == 14
    assert "forward" not in vars(block)


def test_the_model_is_left_as_it_was(backbone):
    model, batch, labels, _ = case(backbone("llama"))
    with torch.no_grad():
        before = model(**batch).logits
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    attributions(model, batch, labels, down_projections(model), steps=2)
    assert hooks == [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_layer_that_runs_twice_is_told(backbone):
    model, batch, labels, _ = case(backbone("llama"))
    model.model.layers[1].mlp.down_proj = model.model.layers[0].mlp.down_proj
    with refused("layer-runs-several-times", "model.layers.0.mlp.down_proj", 2):
        attributions(model, batch, labels, ["model.layers.0.mlp.down_proj"])


def test_spearman_by_hand():
    # Ranks 1, 2.5, 2.5, 4 and 2, 1, 3.5, 3.5: differences -1, 1.5, -1, 0.5.
    one, other = torch.tensor([1.0, 5.0, 5.0, 9.0]), torch.tensor([3.0, 2.0, 7.0, 7.0])
    # About their mean 2.5: (-1.5, 0, 0, 1.5) and (-0.5, -1.5, 1, 1): 2.25 / sqrt(4.5 * 4.5).
    assert spearman(one, other) == pytest.approx(0.5)
    assert spearman(one, -one) == pytest.approx(-1)
    assert spearman(one, one**3) == pytest.approx(1)


@pytest.mark.parametrize("other", [torch.zeros(3), torch.tensor([1.0, float("nan"), 2.0])])
def test_spearman_where_it_is_not_defined(other):
    assert spearman(torch.tensor([1.0, 2.0, 3.0]), other) == 0
    assert spearman(other, torch.tensor([1.0, 2.0, 3.0])) == 0
