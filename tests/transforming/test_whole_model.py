"""A merge as a whole model: every weight of it is merged, and nothing beside them holds the old ones."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from refusals import refused
from safetensors.torch import load_file, save_file
from support import Signals, contents
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, T5Config, T5ForConditionalGeneration

from clora_cli.options import MergeOptions
from clora_cli.store.package import read_package
from clora_cli.transforming import merge_adapters, plan_merge

# PEFT warns of what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
INPUT = torch.tensor([[5, 9, 17, 33]])
SITE = "model.layers.0.self_attn.q_proj"
SMALL = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.3}
LLAMA = {**SMALL, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA |= {"num_key_value_heads": 1, "max_position_embeddings": 32}


def save(config, folder, dtype=torch.float32):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path):
    return save(LlamaConfig(**LLAMA), tmp_path / "base")


def adapt(base, folder, edit=None, **settings):
    """Write an adapter as PEFT itself does, of random numbers; then change its configuration."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, init_lora_weights=False, **settings)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    content = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(content | (edit or {})))
    return folder


def logits(base, adapter=None, **settings):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, **settings)
    with torch.no_grad():
        return model.eval()(INPUT).logits


def into(adapter, out, base=None, heard=None, **options):
    plan = plan_merge(read_package([adapter]), MergeOptions(into_model=out, model=base and str(base), **options))
    merge_adapters(plan, progress=heard)
    return out


@pytest.mark.parametrize("flag", [True, False, None])
@pytest.mark.parametrize("targets", [["attn.c_proj"], ["c_attn", "mlp.c_fc"]])
def test_the_models_own_layers_decide_over_fan_in_fan_out(tmp_path, flag, targets):
    base = save(GPT2Config(**SMALL, n_embd=16, n_layer=2, n_head=2, n_positions=32), tmp_path / "base")
    adapter = adapt(base, tmp_path / "ad", {"fan_in_fan_out": flag}, target_modules=targets)
    whole = into(adapter, tmp_path / "whole")
    assert torch.allclose(logits(whole), logits(base, adapter), atol=1e-5)
    assert not torch.allclose(logits(whole), logits(base), atol=1e-2)


def test_a_linear_layer_stays_one_under_fan_in_fan_out(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "ad", {"fan_in_fan_out": True}, target_modules=["q_proj", "o_proj"])
    assert torch.allclose(logits(into(adapter, tmp_path / "whole")), logits(llama, adapter), atol=1e-5)


# What may lie in a model's folder and hold its weights as they were, and how a loader would find them.
OTHERS = """
consolidated.safetensors consolidated.00-of-02.safetensors model.fp16.safetensors rust_model.ot pytorch_model.bin
pytorch_model.bin.index.json consolidated.00.pth tf_model.h5 flax_model.msgpack model.Q4_K_M.gguf model.onnx model.onnx_data
weights.npz params.json model.safetensors.index.json adapter_config.json adapter_model.safetensors adapter_model.bin
training_args.bin model.ckpt original/consolidated.00.pth original/params.json onnx/model.onnx onnx/config.json coreml/x/w.bin
nested/again/model.safetensors modeling_own.py custom_generate/generate.py README.md
""".split()
CARRIED = """
tokenizer.json vocab.txt qwen.tiktoken spiece.model chat_template.jinja LICENSE NOTICE.txt additional_chat_templates/tools.jinja
generation_config.json config.json
""".split()


def test_nothing_that_a_loader_might_prefer_has_the_old_weights(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "ad", target_modules=["q_proj"])
    for name in OTHERS + CARRIED:
        if not (file := llama / name).exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(llama / "model.safetensors", file)
    wanted = logits(save(LlamaConfig(**LLAMA), tmp_path / "plain"), adapter)
    heard = Signals()
    whole = into(adapter, tmp_path / "whole", llama, heard)
    found = set(contents(whole))
    assert found == {"model.safetensors", "clora.json", *CARRIED}
    (note,) = heard.notes
    for name in OTHERS:
        assert name.partition("/")[0] in note
    listed = note.partition(": ")[2].partition(": ")[2].split(", ")
    assert not {name.partition("/")[0] for name in CARRIED} & set(listed)
    assert torch.allclose(logits(whole), wanted, atol=1e-5)


def test_shards_keep_their_index_and_another_models_index_stays_behind(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "ad", target_modules=["q_proj", "v_proj"])
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(sharded, max_shard_size="4KB")
    save_file({f"{SITE}.weight": torch.zeros(16, 16)}, sharded / "model-00099-of-00099.safetensors")
    whole = into(adapter, tmp_path / "whole", sharded)
    index = json.loads((whole / "model.safetensors.index.json").read_text())["weight_map"]
    assert {file.name for file in whole.glob("*.safetensors")} == set(index.values())
    assert torch.allclose(logits(whole), logits(llama, adapter), atol=1e-5)


def test_a_type_that_cannot_hold_the_sum_is_refused_and_nothing_is_left(tmp_path):
    base = save(LlamaConfig(**LLAMA), tmp_path / "half", torch.float16)
    adapter = adapt(base, tmp_path / "ad", target_modules=["q_proj"])
    tensors = load_file(base / "model.safetensors")
    tensors[f"{SITE}.weight"].fill_(65504)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    factors = load_file(adapter / "adapter_model.safetensors")
    save_file({key: 20 * tensor.abs() for key, tensor in factors.items()}, adapter / "adapter_model.safetensors")
    with refused("merged-weight-overflows", f"{SITE}.weight", "float16"):
        into(adapter, tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ad", "half"]


def test_a_base_weight_that_is_no_number_is_refused(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "ad", target_modules=["q_proj"])
    tensors = load_file(llama / "model.safetensors")
    tensors[f"{SITE}.weight"][0, 0] = float("nan")
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    with refused("base-weight-not-finite", f"{SITE}.weight"):
        into(adapter, tmp_path / "whole")


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]])
@pytest.mark.parametrize("saved", ["one", "shards", "twice"])
def test_an_output_layer_that_is_one_with_the_embeddings_gets_its_own_weight(tmp_path, targets, saved):
    base = save(LlamaConfig(**LLAMA, tie_word_embeddings=True), tmp_path / "tied")
    adapter = adapt(base, tmp_path / "ad", target_modules=targets)
    wanted = logits(base, adapter)
    if saved == "shards":
        base = tmp_path / "sharded"
        AutoModelForCausalLM.from_pretrained(tmp_path / "tied").save_pretrained(base, max_shard_size="4KB")
    if saved == "twice":
        give_a_head(base, 1)
    heard = Signals()
    whole = into(adapter, tmp_path / "whole", base, heard)
    assert json.loads((whole / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.allclose(logits(whole), wanted, atol=1e-5)
    assert "'lm_head.weight' has numbers of its own" in heard.notes[0]


def give_a_head(base, factor):
    """Save a tied output layer's weight too, which Transformers takes for the table's if it is equal."""
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = factor * tensors["model.embed_tokens.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def test_an_output_layer_of_other_numbers_is_its_own_whatever_the_configuration_says(tmp_path):
    base = save(LlamaConfig(**LLAMA, tie_word_embeddings=True), tmp_path / "tied")
    give_a_head(base, 2)
    adapter = adapt(base, tmp_path / "ad", target_modules=["lm_head", "embed_tokens"])
    whole = into(adapter, tmp_path / "whole", base)
    assert torch.allclose(logits(whole), logits(base, adapter), atol=1e-5)
    assert set(load_file(whole / "model.safetensors")) == set(load_file(base / "model.safetensors"))


def test_a_layer_that_shares_its_weight_with_both_sides_of_a_model_is_refused(tmp_path):
    torch.manual_seed(0)
    base, sizes = tmp_path / "t5", {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=40, **sizes, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config)
    model.save_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"])).save_pretrained(tmp_path / "ad")
    with refused("weight-not-stored-alone", "'lm_head'", "'shared.weight'"):
        into(tmp_path / "ad", tmp_path / "whole", base)


def test_a_quantised_base_is_refused_as_that(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "ad", target_modules=["q_proj"])
    tensors = load_file(llama / "model.safetensors")
    tensors[f"{SITE}.qweight"] = tensors.pop(f"{SITE}.weight").to(torch.int32)
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    with refused("base-weight-quantised", SITE):
        into(adapter, tmp_path / "whole")


def test_the_base_models_folder_is_never_written_into(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "ad", target_modules=["q_proj"])
    with refused("output-would-change-input", "--into-model"):
        into(adapter, llama / "merged")


def test_a_model_that_transformers_does_not_know_is_merged_by_its_files_names(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "ad", target_modules=["q_proj", "v_proj"])
    wanted = logits(llama, adapter)
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(
        json.dumps({**config, "model_type": "new", "auto_map": {"AutoConfig": "own.New"}})
    )
    whole = into(adapter, tmp_path / "whole")
    (whole / "config.json").write_text(json.dumps(config))  # and now it is known again
    assert torch.allclose(logits(whole), wanted, atol=1e-5)
