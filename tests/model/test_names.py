"""Names of tensors in adapter files: factors, copies of base weights, and what wrappers put around both."""

from __future__ import annotations

import pytest
from refusals import refused

from clora_cli.algebra.lora import factor_keys
from clora_cli.model.names import TensorName, parse_name

SITE = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("embedding", [False, True])
def test_names_and_sites_are_inverse(embedding):
    for part, key in zip("AB", factor_keys(SITE, embedding), strict=True):
        assert parse_name(key) == TensorName(SITE, part, embedding)


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model._orig_mod.model.layers.0.self_attn.q_proj.lora_A.weight",
        "_orig_mod.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0._orig_mod.self_attn.q_proj.lora_A.weight",
        "_fsdp_wrapped_module.base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0._checkpoint_wrapped_module.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn.q_proj.lora_A.weight",
        "module.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.module.model.layers.0.self_attn.q_proj.lora_A.weight",
        "module.module.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model._forward_module.model.layers.0.self_attn.q_proj.lora_A.weight",
    ],
)
def test_prefixes_of_wrappers_are_no_part_of_a_site(key):
    assert parse_name(key) == TensorName(SITE, "A")


def test_the_name_of_an_adapter_is_no_part_of_a_site():
    assert parse_name(f"base_model.model.{SITE}.lora_B.default.weight") == TensorName(SITE, "B", adapter="default")
    assert parse_name("base_model.model.embed.lora_embedding_A.mine") == TensorName("embed", "A", True, adapter="mine")


def test_a_layer_may_be_called_like_a_wrapper_within_a_path():
    assert parse_name("base_model.model.encoder.module.q.lora_A.weight").site == "encoder.module.q"
    assert parse_name("base_model.model.my_orig_mod.q.lora_A.weight").site == "my_orig_mod.q"


@pytest.mark.parametrize("layer", ["lm_head", "lm_head.base_layer", "lm_head.original_module"])
@pytest.mark.parametrize("tensor", ["weight", "bias"])
def test_a_copy_of_a_base_weight_is_told_from_a_factor(layer, tensor):
    assert parse_name(f"base_model.model.{layer}.{tensor}") == TensorName("lm_head", "base", tensor=tensor)


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.q_proj.lora_magnitude_vector",
        "base_model.model.q_proj.lora_magnitude_vector.weight",
        "base_model.model.q_proj.lora_B.bias",
        "base_model.model.score.modules_to_save.weight",
        "base_model.model.q_proj.lora_A",
        "prompt_embeddings",
    ],
)
def test_other_tensors_are_refused(key):
    with refused("tensor-not-lora-factor", key):
        parse_name(key)
