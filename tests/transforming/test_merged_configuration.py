"""A configuration that is written says exactly which layers are adapted, whatever those of the adapters said."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from refusals import refused
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    Gemma3Config,
    MixtralConfig,
)

from clora_cli.options import MergeOptions, TrimOptions
from clora_cli.store.package import read_package
from clora_cli.transforming import merge_adapters, plan_merge, plan_trim, trim_adapter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of what these tests are about
INPUT = torch.tensor([[5, 9, 17, 33]])
WHOLE = "model.layers.1.self_attn.q_proj"
SELECTIONS = {
    "layers_to_transform": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "layers_pattern": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
    "exclude_modules": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.0\..*"},
    "a regular expression": {"target_modules": r".*\.1\.self_attn\.[qo]_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "a whole path": {"target_modules": [WHOLE, "v_proj"]},
    "rank_pattern": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 5, r"1\.self_attn\.v_proj": 1}},
    "alpha_pattern": {"target_modules": ["q_proj"], "alpha_pattern": {r"layers\.1\..*q_proj": 40}, "use_rslora": True},
    "rank and alpha by a whole path": {
        "target_modules": ["q_proj"],
        "rank_pattern": {f"^{WHOLE}": 6},
        "alpha_pattern": {f"^{WHOLE}": 1},
    },
    "fan_in_fan_out": {"target_modules": ["q_proj"], "fan_in_fan_out": True},
}


def loader(base):
    config = json.loads((base / "config.json").read_text())
    if "vision_config" in config:
        return AutoModelForImageTextToText
    return AutoModelForSeq2SeqLM if config.get("is_encoder_decoder") else AutoModelForCausalLM


def adapt(base, folder, seed=1, **settings):
    """Write an adapter as PEFT itself does, of random numbers."""
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 2, "lora_alpha": 3, "init_lora_weights": False, **settings})
    model = get_peft_model(loader(base).from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.mul_(0.4)
    model.save_pretrained(folder)
    edit(folder, base_model_name_or_path=str(base))
    return folder


def edit(folder, **entries):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def logits(base, adapters=(), **settings):
    model = loader(base).from_pretrained(base)
    for number, adapter in enumerate(adapters):
        if number:
            model.load_adapter(adapter, str(number), **settings)
        else:
            model = PeftModel.from_pretrained(model, adapter, "0", **settings)
    if len(adapters) > 1:
        model.base_model.set_adapter([str(number) for number in range(len(adapters))])
    inputs = {"decoder_input_ids": INPUT} if loader(base) is AutoModelForSeq2SeqLM else {}
    with torch.no_grad():
        return model.eval()(input_ids=INPUT, **inputs).logits


def merged(adapters, out, **options):
    merge_adapters(plan_merge(read_package(adapters, distinct=False), MergeOptions(out=out, **options)))
    return out


def trimmed(adapters, out):
    (member,) = read_package(adapters)
    return trim_adapter(plan_trim(member, TrimOptions(by="density", by_options={"density": "1.0"}, out=out)))[0]


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("write", [merged, trimmed])
def test_peft_computes_with_what_is_written_what_it_computes_with_the_adapter(model_folder, tmp_path, selection, write):
    base = model_folder("llama")
    adapter = adapt(base, tmp_path / "ad", **SELECTIONS[selection])
    wanted = logits(base, [adapter])
    assert (wanted - logits(base)).abs().max() > 0.1
    out = write([adapter], tmp_path / "out")
    assert torch.allclose(logits(base, [out]), wanted, atol=1e-4)
    assert torch.allclose(logits(base, [out], low_cpu_mem_usage=True), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "one", "other"),
    [
        ("llama", "layers_to_transform", "exclude_modules"),
        ("llama", "rank_pattern", "all-linear"),
        ("gpt2", {"target_modules": ["c_attn"]}, {"target_modules": ["attn.c_proj"], "layers_to_transform": [0]}),
        ("t5", {"target_modules": ["q"]}, {"target_modules": r"decoder.*\.(v|wo)"}),
    ],
)
def test_adapters_that_select_differently_merge_into_the_sum_of_both(model_folder, tmp_path, family, one, other):
    base = model_folder(family)
    pair = [
        adapt(base, tmp_path / str(seed), seed, **(SELECTIONS[chosen] if isinstance(chosen, str) else chosen))
        for seed, chosen in enumerate((one, other))
    ]
    out = merged(pair, tmp_path / "merged")
    wanted = logits(base, pair)
    for settings in ({}, {"low_cpu_mem_usage": True}):
        assert torch.allclose(logits(base, [out], **settings), wanted, atol=2e-4)


# Sites are compared with the base model


def rename(folder, old, new):
    file = folder / "adapter_model.safetensors"
    save_file({key.replace(old, new): tensor for key, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "_fsdp_wrapped_module.", "module.", "_orig_mod.module."])
def test_an_adapter_under_a_wrappers_prefix_merges_with_one_without(model_folder, tmp_path, prefix):
    base = model_folder("llama")
    plain, wrapped = (adapt(base, tmp_path / str(seed), seed, target_modules=["q_proj"]) for seed in (1, 2))
    wanted = logits(base, [plain, wrapped])
    rename(wrapped, "base_model.model.", f"base_model.model.{prefix}")
    plan = plan_merge(read_package([plain, wrapped]), MergeOptions(out=tmp_path / "merged"))
    assert plan.merger.layers is not None and len(plan.shapes) == 2
    merge_adapters(plan)
    assert torch.allclose(logits(base, [tmp_path / "merged"]), wanted, atol=1e-4)


def test_layers_that_the_base_model_has_not_are_refused_with_the_nearest_name(model_folder, tmp_path):
    adapter = adapt(model_folder("llama"), tmp_path / "ad", target_modules=["q_proj"])
    rename(adapter, "self_attn", "attention")
    for chosen in (
        {},
        {"model": str(model_folder("llama"))},
        {"strategy": "magmax"},
        {"into_model": tmp_path / "merged"},
    ):
        with refused("base-model-lacks-layer", "'model.layers.0.attention.q_proj'", "self_attn.q_proj"):
            merged([adapter], tmp_path / "merged", **chosen)
    assert not (tmp_path / "merged").exists()


def test_without_the_base_model_it_is_said_that_nothing_was_compared(model_folder, tmp_path):
    adapter = adapt(model_folder("llama"), tmp_path / "ad", target_modules=["q_proj"])
    edit(adapter, base_model_name_or_path="someone/elsewhere")
    plan = plan_merge(read_package([adapter]), MergeOptions(out=tmp_path / "merged"))
    assert plan.merger.layers is None
    other = adapt(model_folder("llama"), tmp_path / "other", target_modules=["q_proj"])
    edit(other, base_model_name_or_path="someone/elsewhere")
    file = other / "adapter_model.safetensors"
    save_file({key: t[:, :8].clone() if "lora_A" in key else t for key, t in load_file(file).items()}, file)
    with refused("layer-shapes-differ", adapter, (32, 32), (32, 8)):
        plan_merge(read_package([adapter, other]), MergeOptions(out=tmp_path / "merged"))


# Numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strategy", ["sum", "magmax"])
def test_numbers_that_no_adapter_has_are_refused(model_folder, tmp_path, value, dtype, strategy):
    adapter = adapt(model_folder("llama"), tmp_path / "ad", target_modules=["q_proj"])
    file = adapter / "adapter_model.safetensors"
    tensors = {key: tensor.to(dtype) for key, tensor in load_file(file).items()}
    tensors[f"base_model.model.{WHOLE}.lora_B.weight"][3, 1] = value
    save_file(tensors, file)
    with refused("numbers-not-finite", adapter, WHOLE):
        merged([adapter], tmp_path / "merged", strategy=strategy)


def test_weights_beyond_all_bounds_are_refused(model_folder, tmp_path):
    adapter = adapt(model_folder("llama"), tmp_path / "ad", target_modules=["q_proj"])
    for weight, chosen in ((1e30, {}), (1e300, {}), (1e8, {"dense": True, "dtype": "float16"}), (1e8, {"rank": 1})):
        with refused("merged-change-too-large"):
            merged([adapter], tmp_path / "merged", strategy="linear", weights=(weight,), **chosen)
    assert not (tmp_path / "merged").exists()


# Names of another day


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    torch.manual_seed(0)
    size = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    config = MixtralConfig(**size, num_hidden_layers=1, num_local_experts=2, initializer_range=0.3)
    folder = tmp_path_factory.mktemp("mixtral")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def experts(folder, base, seed, names=("w1", "w2", "w3")):
    """Write an adapter of every expert's layers, as PEFT did while experts were modules."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for expert in range(2):
        for name in names:
            out, inner = (16, 24) if name == "w2" else (24, 16)
            site = f"base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.{name}"
            tensors[f"{site}.lora_A.weight"] = torch.randn(2, inner, generator=generator)
            tensors[f"{site}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2, "target_modules": list(names)}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    return folder


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # PEFT's, of its own conversion
@pytest.mark.parametrize("model", [True, False])
def test_adapters_of_experts_that_are_one_tensor_now_merge_into_what_peft_loads(mixtral, tmp_path, model):
    pair = [experts(tmp_path / str(seed), mixtral, seed) for seed in (1, 2)]
    if not model:
        for one in pair:
            edit(one, base_model_name_or_path="someone/elsewhere")
    out = merged(pair, tmp_path / "merged")
    assert json.loads((out / "adapter_config.json").read_text())["target_modules"] == ["w1", "w2", "w3"]
    whole = merged(pair, tmp_path / "whole", into_model=tmp_path / "whole", model=str(mixtral))
    assert (logits(whole) - logits(mixtral)).abs().max() > 0.1
    assert torch.allclose(logits(mixtral, [out]), logits(whole), atol=1e-4)


def test_names_of_a_vision_language_model_before_and_after_they_changed_merge(tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": 40, "num_key_value_heads": 1, "head_dim": 8}
    config = Gemma3Config(text_config=text, vision_config={**size, "image_size": 28, "patch_size": 14})
    config.initializer_range = config.text_config.initializer_range = 0.3
    base = tmp_path / "base"
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(base)
    chosen = {"target_modules": r".*language_model.*\.(q|v)_proj"}
    new, old = (adapt(base, tmp_path / name, seed, **chosen) for seed, name in enumerate(("new", "old")))
    wanted = [logits(base, [adapter]) for adapter in (new, old)]
    both = logits(base, [new, old])
    rename(old, "model.model.language_model.", "model.language_model.model.")
    assert torch.allclose(logits(base, [old]), wanted[1])  # PEFT knows the names of another day
    edit(tmp_path / "old", base_model_name_or_path="someone/elsewhere")
    alone = merged([old], tmp_path / "alone")
    known = merged([old], tmp_path / "known", model=str(base))
    for out in (alone, known):
        for settings in ({}, {"low_cpu_mem_usage": True}):
            assert torch.allclose(logits(base, [out], **settings), wanted[1], atol=1e-5)
    assert torch.allclose(logits(base, [merged([new, old], tmp_path / "both", model=str(base))]), both, atol=1e-4)
    assert torch.allclose(
        logits(merged([new], tmp_path / "whole", into_model=tmp_path / "whole")), wanted[0], atol=1e-4
    )
