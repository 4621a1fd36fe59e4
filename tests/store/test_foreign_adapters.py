"""Adapters that other tools wrote, of every kind that PEFT loads: clora adds what PEFT adds, or says why it cannot."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from other_models import edit, expert_adapter, logits, model_of, peft_adapter, save_other, through_bank, through_peft
from refusals import refused
from safetensors.torch import load_file
from torch.testing import assert_close

from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_model import find_model
from clora_cli.model.capture import pooled
from clora_cli.model.places import Places, places_of
from clora_cli.options import MergeOptions
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.transforming import merge_adapters, plan_merge

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


def same(family, adapter):
    """Check that an adapter changes a model as under PEFT, and that it changes it at all."""
    expected = through_peft(model_of(family), adapter)
    model = model_of(family)
    before = logits(model)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert_close(through_bank(model, adapter), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("family", "target"),
    [
        ("llama", "lm_head"),
        ("gpt2", "lm_head"),
        ("llama", "embed_tokens"),
        ("gpt2", "wte"),
        ("gemma3", "embed_tokens"),
        ("bart", "encoder.embed_tokens"),
        ("gemma3-vision", "model.language_model.embed_tokens"),
    ],
)
def test_output_layers_and_embeddings_act_as_under_peft_tied_or_scaled(tmp_path, family, target):
    same(family, peft_adapter(family, tmp_path / "theirs", [target]))


@pytest.mark.parametrize("targets", [["q_proj", "lm_head", "embed_tokens"], r".*\.(q_proj|lm_head)", "all-linear"])
def test_targets_by_list_expression_and_kind_act_as_under_peft(tmp_path, targets):
    same("llama", peft_adapter("llama", tmp_path / "theirs", targets))


def test_experts_that_were_layers_act_as_under_peft(tmp_path):
    same("mixtral", expert_adapter(tmp_path / "theirs"))


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize("family", ["mixtral", "qwen2-moe"])
@pytest.mark.parametrize(
    ("targets", "settings"),
    [
        ([], {"target_parameters": EXPERTS}),
        (["q_proj"], {"target_parameters": EXPERTS[1:], "use_rslora": True}),
        (["q_proj"], {"target_parameters": ["mlp.gate.weight"]}),
        ("all-linear", {}),  # of mixtral, PEFT takes experts and routers for parameters
    ],
)
def test_experts_that_are_one_tensor_act_as_under_peft(tmp_path, family, targets, settings):
    same(family, peft_adapter(family, tmp_path / "theirs", targets, **settings))


def test_experts_of_one_tensor_are_told_apart_by_the_base_model_or_refused_with_a_reason(tmp_path):
    adapter = peft_adapter("mixtral", tmp_path / "theirs", [], target_parameters=EXPERTS)
    member = read_adapter(adapter)
    with refused("experts-need-base-model", adapter, "target_parameters", "--model"):
        member.factors()
    with refused("expert-tensor-missing", "(48, 16)", "'model.layers.0.mlp.experts'"):
        member.on(Places(model_of("llama"))).factors()
    wrong = "base_model.model.model.layers.0.mlp.experts.lora_"
    cut = {f"{wrong}A.weight": torch.zeros(15, 24), f"{wrong}B.weight": torch.zeros(16, 15)}
    edit(adapter, lambda tensors: tensors | cut)
    with refused("experts-factors-incomplete", adapter, "model.layers.0.mlp.experts", "4"):
        member.on(Places(model_of("mixtral"))).factors()


def test_a_merge_of_experts_of_one_tensor_is_one_that_peft_loads_and_the_model_takes(tmp_path):
    base = save_other("mixtral", tmp_path / "base")
    paths = [
        peft_adapter("mixtral", tmp_path / f"{seed}", ["q_proj"], seed, target_parameters=EXPERTS) for seed in (1, 2)
    ]
    expected = through_bank(model_of("mixtral"), *paths)
    members = [read_adapter(path) for path in paths]
    for options in ({"out": tmp_path / "made0"}, {"into_model": tmp_path / "made1"}):
        merge_adapters(plan_merge(members, MergeOptions(model=str(base), **options)))
    assert_close(through_peft(model_of("mixtral"), tmp_path / "made0"), expected, rtol=1e-4, atol=1e-4)
    assert_close(logits(model_of("mixtral", tmp_path / "made1")), expected, rtol=1e-4, atol=1e-4)
    assert len(read_adapter(tmp_path / "made0").factors()) == 2 + 2 * 4 * 3  # read alone, each expert by itself


def test_inputs_are_gated_at_experts_too(tmp_path):
    paths = [expert_adapter(tmp_path / "one"), expert_adapter(tmp_path / "two", seed=2)]
    alone = [through_peft(model_of("mixtral"), path) for path in paths]
    model = model_of("mixtral")
    bank = AdapterBank(model)
    bank.activate([read_adapter(path).on(bank.places).deltas() for path in paths])
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    bank.gate({site: weights for site in bank.sites})
    expected = torch.stack([alone[0][0], alone[1][1], logits(model_of("mixtral"))[2]])
    assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    with bank.only(1):
        assert_close(logits(model), alone[1], rtol=1e-5, atol=1e-5)
    bank.gate({site: torch.ones(3, 2) for site in bank.sites})
    both = logits(model)
    bank.gate(None)
    assert torch.equal(logits(model), both)


def test_inputs_are_gated_where_a_layer_keeps_an_axis_of_heads_before_its_tokens(tmp_path):
    targets = ["q_b_proj", "kv_b_proj"]
    paths = [peft_adapter("deepseek", tmp_path / f"{seed}", targets, seed) for seed in (1, 2)]
    alone = [through_peft(model_of("deepseek"), path) for path in paths]
    model = model_of("deepseek")
    bank = AdapterBank(model)
    bank.activate([read_adapter(path).on(bank.places).deltas() for path in paths])
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    bank.gate({site: weights for site in bank.sites})
    assert_close(logits(model), torch.stack([alone[0][0], alone[1][1], alone[0][2]]), rtol=1e-5, atol=1e-5)
    mask = torch.ones(3, 7)
    found = {}
    layer = model.model.layers[0].self_attn.kv_b_proj
    layer.register_forward_hook(lambda module, inputs, output: found.update(output=output))
    logits(model)
    for pool, expected in (("prompt-mean", found["output"].mean(dim=(1, 2))), ("last", found["output"][:, 0, -1])):
        assert_close(pooled(found["output"], mask, pool), expected)


def test_experts_are_themselves_again_after_a_pass_that_fails(tmp_path):
    model = model_of("mixtral")
    before = logits(model)
    bank = AdapterBank(model)
    bank.activate([read_adapter(expert_adapter(tmp_path / "theirs")).on(bank.places).deltas()])
    experts = model.model.layers[1].mlp.experts
    own = experts.gate_up_proj
    with pytest.raises((RuntimeError, IndexError, TypeError)):
        experts(torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.long), torch.ones(2, 2))
    assert experts.gate_up_proj is own
    bank.clear()
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    "old", ["base_model.model.language_model.model.", "base_model.model.model.language_model.model."]
)
def test_prefixes_of_earlier_days_act_as_under_peft(tmp_path, old):
    adapter = peft_adapter("gemma3-vision", tmp_path / "theirs", r".*language_model.*\.(q_proj|v_proj)")
    new = "base_model.model.model.language_model."
    expected = through_peft(model_of("gemma3-vision"), adapter)
    edit(adapter, lambda tensors: {key.replace(new, old): tensor for key, tensor in tensors.items()})
    assert_close(through_bank(model_of("gemma3-vision"), adapter), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "module."])
def test_a_wrapped_model_s_adapter_acts_as_without_the_wrapper(tmp_path, wrapper):
    adapter = peft_adapter("llama", tmp_path / "theirs", ["q_proj", "v_proj"])
    expected = through_peft(model_of("llama"), adapter)
    prefix = "base_model.model."
    edit(adapter, lambda tensors: {key.replace(prefix, prefix + wrapper, 1): t for key, t in tensors.items()})
    assert_close(through_bank(model_of("llama"), adapter), expected, rtol=1e-5, atol=1e-5)


def test_a_variant_of_lora_that_is_not_known_yet_is_refused_and_an_empty_configuration_told(tmp_path):
    adapter = peft_adapter("llama", tmp_path / "theirs", ["q_proj"], use_rslora=True)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert read_adapter(adapter).factors()
    for key, value in (("use_newlora", True), ("newlora_config", {"strength": 2})):
        (adapter / "adapter_config.json").write_text(json.dumps(config | {key: value}))
        with refused("adapter-not-plain-lora", adapter, key):
            read_adapter(adapter).factors()
    (adapter / "adapter_config.json").write_text("{}")
    with refused("adapter-config-damaged", adapter / "adapter_config.json"):
        read_adapter(adapter)


def test_two_adapters_in_one_file_are_refused(tmp_path):
    adapter = peft_adapter("llama", tmp_path / "theirs", ["q_proj"])
    edit(adapter, lambda tensors: tensors | {f"{QUERY}.lora_A.other.weight": torch.zeros(4, 16)})
    with refused("several-adapters-in-file", adapter, f"'{QUERY}.lora_A.weight'", "second lora_A"):
        read_adapter(adapter).factors()


def test_a_copy_of_the_base_weight_is_left_out_only_if_it_is_one(tmp_path):
    base = save_other("llama", tmp_path / "base")
    adapter = peft_adapter("llama", tmp_path / "theirs", ["q_proj", "lm_head"])
    copy = "base_model.model.lm_head.base_layer.weight"
    member = read_adapter(adapter)
    with refused("base-weights-need-comparison", adapter, "'lm_head'", "--model"):
        member.factors()
    places = places_of(find_model(str(base)))  # on disk
    assert set(member.on(places).factors()) == set(member.factors(compare=False))
    edit(adapter, lambda tensors: tensors | {copy: tensors[copy].half()})
    assert len(member.on(Places(model_of("llama", base))).factors()) == 3
    edit(adapter, lambda tensors: tensors | {copy: tensors[copy] + 1})
    for one in (places, Places(model_of("llama", base))):
        with refused("base-weights-changed", adapter, "'lm_head'"):
            member.on(one).factors()


def test_a_copy_beside_a_tied_output_layer_is_found_in_the_embeddings(tmp_path):
    base = save_other("gpt2", tmp_path / "base")
    adapter = peft_adapter("gpt2", tmp_path / "theirs", ["lm_head"])
    assert list(read_adapter(adapter).on(places_of(find_model(str(base)))).factors()) == ["lm_head"]


def test_a_pickle_alone_is_refused_with_the_command_that_converts_it(tmp_path, monkeypatch):
    adapter = peft_adapter("llama", tmp_path / "it's theirs", ["q_proj"])
    expected = read_adapter(adapter).factors()
    file = adapter / "adapter_model.safetensors"
    torch.save(load_file(file), adapter / "adapter_model.bin")
    file.unlink()
    with refused("adapter-weights-missing", adapter, "adapter_model.bin", "convert it with ") as info:
        read_adapter(adapter)
    command = str(info.value).partition("convert it with ")[2]
    change, where, _, python, option, code = shlex.split(command.removeprefix("(").removesuffix(")"))
    assert (change, where, python, option) == ("cd", str(adapter), "python", "-c")
    monkeypatch.chdir(where)
    exec(code)
    found = read_adapter(adapter).factors()
    assert all(torch.equal(found[site].b, factor.b) for site, factor in expected.items())
