from __future__ import annotations

import dataclasses

import pytest
import torch
from refusals import refused
from support import random_factors, sentences

from clora_cli.algebra.statistics import SECOND_MOMENTS, Moments
from clora_cli.data import Example
from clora_cli.model.bank import AdapterBank
from clora_cli.model.capture import pooled
from clora_cli.model.features import (
    collect_moments,
    layer_of,
    prompt_ids,
    prompt_sites,
    read_features,
    select_sites,
)
from clora_cli.model.linear_layers import find_sites

FAMILIES = ("llama", "gpt2", "t5", "encoder-decoder", "bert")
EXAMPLES = [Example("Choose a word.\n", text, "\nAnswer:", (label,)) for text, label in sentences(3, 11)]


def naive(base, ids, sites, pool="prompt-mean"):
    """Read features one input at a time, without padding, in whole forward passes."""
    model = base.model.get_encoder() if base.kind == "seq2seq" else base.model
    found, rows = {}, {site: [] for site in sites}
    handles = [
        base.model.get_submodule(site).register_forward_hook(lambda m, i, out, site=site: found.update({site: out}))
        for site in sites
    ]
    with torch.no_grad():
        for tokens in ids:
            model(input_ids=torch.tensor([tokens]))
            for site in sites:
                outputs = found[site][0]
                rows[site].append(outputs.mean(dim=0) if pool == "prompt-mean" else outputs[-1])
    for handle in handles:
        handle.remove()
    return {site: torch.stack(vectors) for site, vectors in rows.items()}


def gathered(base, ids, sites, **chosen):
    found = {}
    for rows, features in read_features(base, ids, sites, **chosen):
        for site, vectors in features.items():
            kept = found.setdefault(site, torch.full((len(ids), vectors.shape[1]), torch.nan))
            kept[rows] = vectors
    return found


@pytest.mark.parametrize("pool", ["prompt-mean", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_projections_own_outputs_over_the_tokens_that_count(backbone, family, pool):
    base = backbone(family)
    ids, sites = prompt_ids(base, EXAMPLES), prompt_sites(base, find_sites(base.model))
    assert len({len(tokens) for tokens in ids}) > 3
    assert len(sites) == {"gpt2": 2}.get(family, 4)
    expected = naive(base, ids, sites, pool)
    for batch_size in (1, 4, 100):  # batches are padded, to the right
        found = gathered(base, ids, sites, pool=pool, batch_size=batch_size)
        for site in sites:
            assert torch.allclose(found[site], expected[site], rtol=1e-4, atol=1e-5), (site, batch_size)


def test_the_first_layers_feature_is_the_weight_times_the_mean_of_its_inputs(backbone):
    base = backbone("llama")
    site, ids = "model.layers.0.self_attn.v_proj", prompt_ids(base, EXAMPLES)
    weight, layer = base.model.get_submodule(site).weight, base.model.model.layers[0]
    for row, tokens in enumerate(ids):
        hidden = layer.input_layernorm(base.model.model.embed_tokens(torch.tensor(tokens)))
        found = gathered(base, ids, [site])[site][row]
        assert torch.allclose(found, weight @ hidden.mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_layer_behind_the_last_one_needed_is_run(backbone, family):
    base = backbone(family)
    sites = prompt_sites(base, find_sites(base.model))
    first = [site for site in sites if layer_of(site) == 0]
    later = next(site for site in sites if layer_of(site) == 1)
    ids, run = prompt_ids(base, EXAMPLES), []
    gathered(base, ids, sites)  # once, what the model can share is tried out
    base.model.get_submodule(later).register_forward_pre_hook(lambda *_: run.append("later"))
    base.model.get_submodule(first[0]).register_forward_pre_hook(lambda *_: run.append("first"))
    head = base.model.get_output_embeddings() if base.kind != "encoder" else None
    if head is not None:
        head.register_forward_pre_hook(lambda *_: run.append("head"))
    gathered(base, ids, first[:1])
    assert run == ["first"]
    gathered(base, ids, sites)  # also of the last, nothing behind it
    assert "head" not in run


def test_a_pass_leaves_nothing_behind(backbone):
    base = backbone("llama")
    ids, sites = prompt_ids(base, EXAMPLES), prompt_sites(base, find_sites(base.model))
    tokens = torch.tensor([ids[0]])
    with torch.no_grad():
        before = base.model(tokens).logits
        gathered(base, ids, sites)
        assert torch.equal(base.model(tokens).logits, before)
    assert not any(base.model.get_submodule(site)._forward_hooks for site in sites)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_adds_nothing_to_its_own_site_and_changes_what_later_ones_see(backbone, family):
    base = backbone(family)
    ids, sites = prompt_ids(base, EXAMPLES), prompt_sites(base, find_sites(base.model))
    plain = gathered(base, ids, sites)
    bank = AdapterBank(base.model)
    bank.activate([random_factors(base.model, 5, 2)])
    adapted = gathered(base, ids, sites)
    for site in sites:
        assert torch.equal(adapted[site], plain[site]) is (layer_of(site) == 0), site
    bank.clear()
    assert all(torch.equal(one, plain[site]) for site, one in gathered(base, ids, sites).items())


@pytest.mark.parametrize("second", SECOND_MOMENTS)
def test_moments_do_not_depend_on_batches(backbone, second):
    base = backbone("llama")
    ids, sites = prompt_ids(base, EXAMPLES), prompt_sites(base, find_sites(base.model))
    features = gathered(base, ids, sites)
    for batch_size in (1, 3, 64):
        told = []
        found = collect_moments(base, ids, sites, second=second, batch_size=batch_size, done=told.append)
        assert sum(told) == len(ids)
        for site, one in found.items():
            expected = Moments.of(features[site], second)
            assert (one.count, one.second) == (11, second)
            assert torch.allclose(one.mean, expected.mean, rtol=1e-5, atol=1e-6)
            if second != "none":
                assert torch.allclose(one.scatter, expected.scatter, rtol=1e-4, atol=1e-5)


def test_features_can_be_changed_before_they_are_added_up(backbone):
    base = backbone("llama")
    ids, sites = prompt_ids(base, EXAMPLES), prompt_sites(base, find_sites(base.model))[:2]
    plain = collect_moments(base, ids, sites)
    turned = collect_moments(base, ids, sites, change=lambda site, vectors: vectors * (2 if site == sites[0] else -1))
    assert torch.allclose(turned[sites[0]].mean, 2 * plain[sites[0]].mean)
    assert torch.allclose(turned[sites[1]].mean, -plain[sites[1]].mean)


def test_processes_make_equally_many_passes_and_all_get_what_each_read(backbone, monkeypatch):
    base = backbone("llama")
    ids, sites = prompt_ids(base, EXAMPLES), prompt_sites(base, find_sites(base.model))[:2]
    given = {"batch_size": 2, "shared": True}
    alone = list(read_features(base, ids, sites, **given))
    monkeypatch.setattr("clora_cli.model.features.processes", lambda: 4)

    def reads(number, told):
        """What a process reads, which writes down what it gives and is told what all gave."""
        mine = []
        monkeypatch.setattr("clora_cli.model.features.rank", lambda: number)
        monkeypatch.setattr("clora_cli.model.features.gathered", lambda t, _: mine.append(t) or told(len(mine) - 1, t))
        return mine, list(read_features(base, ids, sites, **given))

    gave = [reads(number, lambda turn, tensor: [tensor] * 4)[0] for number in range(4)]
    assert [len(mine) for mine in gave] == [2, 2, 2, 2]  # of six batches, the last of one prompt
    for number in range(4):
        found = reads(number, lambda turn, tensor: [mine[turn] for mine in gave])[1]
        assert [rows for rows, _ in found] == [rows for rows, _ in alone]
        assert all(torch.equal(a[site], b[site]) for (_, a), (_, b) in zip(found, alone, strict=True) for site in sites)


@pytest.mark.parametrize("pool", ["prompt-mean", "last"])
def test_padding_has_no_part_in_pooling(pool):
    output = torch.tensor([[[1.0], [3.0], [99.0]], [[2.0], [4.0], [9.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    left = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert pooled(output, mask, pool).tolist() == ([[2.0], [5.0]] if pool == "prompt-mean" else [[3.0], [9.0]])
    assert pooled(output.flip(1), left, pool).tolist() == ([[2.0], [5.0]] if pool == "prompt-mean" else [[1.0], [2.0]])


def test_half_precision_is_pooled_in_float32():
    output = torch.full((1, 4096, 1), 0.1, dtype=torch.bfloat16)
    found = pooled(output, torch.ones(1, 4096, dtype=torch.long), "prompt-mean")
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(output[0, 0, 0].item(), rel=1e-5)


def test_only_the_encoder_sees_the_prompt(backbone):
    for family in ("t5", "encoder-decoder"):
        base = backbone(family)
        everywhere = find_sites(base.model)
        inside = prompt_sites(base, everywhere)
        assert inside == [site for site in everywhere if site.startswith("encoder.")]
        decoder = next(site for site in everywhere if site.startswith("decoder."))
        with refused("layer-not-reached-by-prompt", decoder):
            gathered(base, prompt_ids(base, EXAMPLES), [inside[0], decoder])


def test_a_layer_that_does_not_exist_is_refused(backbone):
    base = backbone("llama")
    with refused("base-model-lacks-layer", "model.layers.9.x"):
        gathered(base, prompt_ids(base, EXAMPLES), ["model.layers.9.x"])


def test_the_body_leaves_out_what_all_inputs_of_a_task_share(backbone):
    base = backbone("llama")
    whole, body = (prompt_ids(base, EXAMPLES, text=text) for text in ("prompt", "body"))
    assert base.tokenizer.decode(body[0], skip_special_tokens=True) == EXAMPLES[0].body
    assert base.tokenizer.decode(whole[0], skip_special_tokens=True) == EXAMPLES[0].prompt
    empty = dataclasses.replace(EXAMPLES[0], body=" ")
    assert prompt_ids(base, [empty], text="body") == prompt_ids(base, [empty])
    assert max(map(len, prompt_ids(base, EXAMPLES, max_length=20))) <= 20 < max(map(len, whole))


LLAMA = [f"model.layers.{layer}.self_attn.{kind}_proj" for layer in range(12) for kind in "qv"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, LLAMA),
        ({"layer": "last"}, LLAMA[-2:]),
        ({"layer": "middle"}, LLAMA[12:14]),
        ({"layer": "10"}, LLAMA[20:22]),
        ({"layer": "last,0,middle"}, [*LLAMA[:2], *LLAMA[12:14], *LLAMA[-2:]]),
        ({"module": "v_proj"}, LLAMA[1::2]),
        ({"layer": "0", "module": "v_proj"}, LLAMA[1:2]),
        ({"module": "self_attn.v_proj"}, LLAMA[1::2]),
    ],
)
def test_sites_are_chosen_by_layer_and_ending(chosen, expected):
    assert select_sites(LLAMA, **chosen) == expected


@pytest.mark.parametrize(
    ("chosen", "code", "names"),
    [
        ({"layer": "12"}, "option-choice-unknown", ["layer 12", "0, 1, 2"]),
        ({"layer": "-1"}, "option-choice-unknown", ["layer -1"]),
        ({"layer": "lst"}, "option-choice-unknown", ["layer lst"]),
        ({"layer": "1,99"}, "option-choice-unknown", ["layer 99", "commas"]),
        ({"layer": "1,all"}, "option-choice-unknown", ["layer all"]),
        ({"module": "proj"}, "module-matches-no-site", ["'proj'", "q_proj, v_proj"]),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused(chosen, code, names):
    with refused(code, *names):
        select_sites(LLAMA, **chosen)


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        ("model.layers.11.self_attn.q_proj", 11),
        ("encoder.block.3.layer.0.SelfAttention.q", 3),
        ("transformer.h.0.attn.c_attn", 0),
        ("encoder.layer.4.attention.self.value", 4),
        ("score", None),
        ("conv1d.weight2", None),
    ],
)
def test_a_sites_layer_is_the_first_number_in_its_path(site, layer):
    assert layer_of(site) == layer
