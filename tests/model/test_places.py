"""Where a model keeps the weights that adapters change, under its own names and those that files of other days give them."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
)

from clora_cli.algebra.lora import Factor
from clora_cli.model.places import Places

SIZE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}


def made(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def gemma3():
    text = {**SIZE, "head_dim": 8, "sliding_window": 8}
    with torch.device("meta"):
        return Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, image_token_index=3)
        )


def test_a_layer_of_the_model_has_its_own_name():
    place = Places(made(LlamaConfig(**SIZE))).place("model.layers.1.self_attn.v_proj")
    assert (place.site, place.shape, place.transposed) == ("model.layers.1.self_attn.v_proj", (8, 16), False)


def test_a_layer_stored_as_in_and_out_is_told_by_its_type():
    place = Places(made(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2))).place("h.0.attn.c_attn")
    assert (place.site, place.shape, place.transposed) == ("transformer.h.0.attn.c_attn", (48, 16), True)
    weight = torch.arange(48 * 16.0).view(16, 48)
    assert torch.equal(place.view(weight), weight.T)


def test_a_table_of_embeddings_is_a_layer_of_tokens():
    place = Places(made(LlamaConfig(**SIZE))).place("model.embed_tokens")
    assert (place.shape, place.transposed, place.hooked) == ((16, 40), True, True)


@pytest.mark.parametrize(
    "old",
    [
        "language_model.model.layers.0.self_attn.q_proj",
        "model.language_model.layers.0.self_attn.q_proj",
        "model.language_model.model.layers.0.self_attn.q_proj",
    ],
)
def test_prefixes_that_moved_in_vision_language_models_are_known(old):
    assert Places(gemma3()).place(old).site == "model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("written", "parameter", "expert", "first"),
    [
        ("model.layers.0.block_sparse_moe.experts.2.w1", "model.layers.0.mlp.experts.gate_up_proj", 2, 0),
        ("model.layers.0.mlp.experts.2.w3", "model.layers.0.mlp.experts.gate_up_proj", 2, 24),
        ("model.layers.1.block_sparse_moe.experts.0.w2", "model.layers.1.mlp.experts.down_proj", 0, 0),
        ("model.layers.0.block_sparse_moe.gate", "model.layers.0.mlp.gate.weight", None, 0),
    ],
)
def test_experts_that_were_layers_once_are_found_in_the_tensor_that_fuses_them(written, parameter, expert, first):
    place = Places(made(MixtralConfig(**SIZE, num_local_experts=4))).place(written)
    assert (place.parameter, place.expert, place.first, place.hooked) == (parameter, expert, first, False)


def test_a_shared_expert_is_a_layer_like_any_other():
    places = Places(made(Qwen2MoeConfig(**SIZE, **MOE)))
    assert places.place("model.layers.0.mlp.shared_expert.gate_proj").hooked
    assert places.place("model.layers.0.mlp.experts.3.up_proj").first == 8


@pytest.mark.parametrize("site", ["model.layers.9.mlp.experts.0.w1", "model.layers.0.mlp.experts.4.w1"])
def test_an_expert_that_the_model_has_not_is_refused(site):
    with refused("base-model-lacks-layer", site):
        Places(made(MixtralConfig(**SIZE, num_local_experts=4))).place(site)


def test_an_unknown_layer_is_refused_with_both_spellings():
    with refused("base-model-lacks-layer", "'layer.0.q_proj'", "'model.layers.0.self_attn.q_proj'"):
        Places(made(LlamaConfig(**SIZE))).place("layer.0.q_proj")


def test_a_layer_that_is_no_matrix_is_refused_by_its_kind():
    with refused("layer-kind-unsupported", "model.norm", "LlamaRMSNorm"):
        Places(made(LlamaConfig(**SIZE))).place("model.norm")


def test_deltas_are_reconciled_with_the_model_and_two_of_one_layer_refused():
    places = Places(gemma3())
    factor = Factor(torch.zeros(1, 16), torch.zeros(16, 1), 1.0)
    old, new = "language_model.model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"
    assert places.reconcile({old: factor}) == {new: factor}
    with refused("layer-named-twice", f"'{old}'", f"'{new}'"):
        places.reconcile({old: factor, new: factor})
    with refused("layer-shapes-differ", (16, 16), (9, 16)):
        places.reconcile({old: Factor(torch.zeros(1, 16), torch.zeros(9, 1), 1.0)})


def test_a_models_files_are_searched_by_its_own_names(tmp_path):
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**SIZE, num_local_experts=4))
    model.save_pretrained(tmp_path)
    places = Places(model)
    sites = ["model.layers.0.mlp.experts.3.w3", "model.layers.1.mlp.experts.2.w2", "model.layers.1.self_attn.q_proj"]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = places.stored(sites, file.keys())
        for site in sites:
            own, parameter = places.place(site), model.get_parameter(places.place(site).parameter)
            assert torch.equal(stored[site].view(file.get_tensor(stored[site].parameter)), own.view(parameter))
    assert stored[sites[0]].parameter == "model.layers.0.block_sparse_moe.experts.3.w3.weight"


def test_a_tied_output_layer_has_no_tensor_of_its_own():
    places = Places(made(LlamaConfig(**SIZE, tie_word_embeddings=True)))
    assert places.tied("lm_head") == "model.embed_tokens.weight"
    assert places.tied("model.embed_tokens") == "lm_head.weight"
    with refused("weight-not-stored-alone", "'lm_head'", "'model.embed_tokens.weight'"):
        places.stored(["lm_head"], ["model.embed_tokens.weight"])


def test_a_weight_is_compared_in_the_coarser_type():
    layer = nn.Linear(3, 2)
    places = Places(nn.Sequential(layer))
    assert places.has("0", "weight", layer.weight.detach().bfloat16())
    assert not places.has("0", "weight", layer.weight.detach() + 1)
    assert not places.has("0", "weight", torch.zeros(4, 3))
