"""Which device a process takes, which class and which layers of a model are taken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    CLIPVisionConfig,
    DbrxConfig,
    DebertaV2Config,
    Llama4TextConfig,
    LlamaConfig,
    LlavaConfig,
    M2M100Config,
    MixtralConfig,
    MptConfig,
    NllbMoeConfig,
    OPTConfig,
    PhimoeConfig,
    SwitchTransformersConfig,
    T5Gemma2Config,
)

from clora_cli.model.backbone import _switch_off_dropout, pick_device
from clora_cli.model.base_model import ModelReference
from clora_cli.model.linear_layers import find_sites
from clora_cli.model.loading import load_skeleton

SIZE = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}

SEQ2SEQ = {"vocab_size": 99, "d_model": 16, "max_position_embeddings": 64}
SEQ2SEQ |= {
    f"{side}_{what}": n
    for side in ("encoder", "decoder")
    for what, n in (("layers", 3), ("attention_heads", 2), ("ffn_dim", 24))
}


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are GPUs."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda size, device: SimpleNamespace(device=torch.device(device)))


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [
        ("auto", None, "cuda:0"),
        ("auto", "1", "cuda:1"),
        ("cuda", "1", "cuda:1"),
        ("cuda:0", "1", "cuda:1"),
        ("cuda:3", None, "cuda:3"),
        ("cpu", "1", "cpu"),
    ],
)
def test_of_several_processes_each_takes_its_own_device(gpus, monkeypatch, name, rank, expected):
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert pick_device(name) == torch.device(expected)


def test_more_processes_than_devices_are_refused(gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    for name in ("auto", "cuda"):
        with refused("more-processes-than-devices", "process 2", "it sees 2", "--nproc auto"):
            pick_device(name)


def test_a_launcher_that_was_told_to_stay_on_the_cpu_is_obeyed(gpus, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert pick_device("auto") == torch.device("cpu")


def test_a_device_that_is_not_here_is_told():
    with refused("device-unavailable", "--device nonsense"):
        pick_device("nonsense")


def test_a_vision_language_model_without_a_class_for_texts_alone_is_loaded_and_its_text_layers_taken(tmp_path):
    vision = {key: value for key, value in SIZE.items() if key != "vocab_size"}
    seen = CLIPVisionConfig(**vision, image_size=28, patch_size=14)
    LlavaConfig(text_config=LlamaConfig(**SIZE), vision_config=seen, image_token_index=3).save_pretrained(tmp_path)
    model = load_skeleton(ModelReference("llava", tmp_path, "causal", "f" * 64))
    place = "model.language_model.layers.0.self_attn"
    assert list(find_sites(model)) == [f"{place}.q_proj", f"{place}.v_proj"]


def test_the_encoder_of_a_vision_language_encoder_decoder_reads_texts_too():
    text = {**SIZE, "head_dim": 8, "num_key_value_heads": 1}
    vision = {key: value for key, value in SIZE.items() if key != "vocab_size"} | {"image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 3, "boi_token_index": 4, "eoi_token_index": 5, "mm_tokens_per_image": 4}
    config = T5Gemma2Config(encoder={"text_config": text, "vision_config": vision, **tokens}, decoder=text)
    with torch.device("meta"):
        found = find_sites(AutoModelForSeq2SeqLM.from_config(config), ["all-linear"])
    sides = {".".join(site.split(".")[:3]) for site in found}
    assert sides == {"model.encoder.text_model", "model.decoder.layers"}


@pytest.mark.parametrize(
    ("auto", "config", "endings"),
    [
        (AutoModel, DebertaV2Config(**SIZE), {"query_proj", "value_proj"}),
        (AutoModelForCausalLM, MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=99), {"Wqkv"}),
    ],
)
def test_query_and_value_projections_are_found_under_less_usual_names(auto, config, endings):
    with torch.device("meta"):
        found = find_sites(auto.from_config(config))
    assert {site.rpartition(".")[2] for site in found} == endings


def test_all_linear_leaves_out_a_router_that_returns_more_than_its_product():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Llama4TextConfig(**SIZE, num_key_value_heads=2, head_dim=8))
    found = {site.rpartition(".")[2] for site in find_sites(model, ["all-linear"])}
    assert "router" not in found and {"q_proj", "down_proj"} <= found


@pytest.mark.parametrize(
    "config",
    [
        M2M100Config(encoder_layerdrop=0.5, decoder_layerdrop=0.5, **SEQ2SEQ),
        SwitchTransformersConfig(
            router_jitter_noise=0.5, vocab_size=99, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2
        ),
        MixtralConfig(router_jitter_noise=0.5, num_key_value_heads=1, num_local_experts=2, **SIZE),
        OPTConfig(layerdrop=0.5, ffn_dim=24, word_embed_proj_dim=16, **SIZE),
    ],
    ids=lambda config: config.model_type,
)
def test_nothing_is_left_to_chance_in_training_mode(config):
    _switch_off_dropout(config)
    torch.manual_seed(0)
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = loader.from_config(config).train()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    given = {"input_ids": ids, **({"decoder_input_ids": ids} if config.is_encoder_decoder else {})}
    logits = [model(**given).logits for _ in range(4)]
    assert all(torch.equal(one, logits[0]) for one in logits)
    assert torch.allclose(model.eval()(**given).logits, logits[0], atol=1e-5)


def test_a_part_of_a_configuration_is_looked_at_too():
    config = DbrxConfig(ffn_config={"moe_jitter_eps": 0.1})
    _switch_off_dropout(config)
    assert config.ffn_config.moe_jitter_eps == 0.0


def test_phimoe_keeps_what_its_router_needs_and_lets_its_inputs_be():
    config = PhimoeConfig(input_jitter_noise=0.1)
    _switch_off_dropout(config)
    assert (config.input_jitter_noise, config.router_jitter_noise) == (0.0, 0.01)


def test_a_rate_that_acts_in_evaluation_too_is_no_dropout():
    config = NllbMoeConfig(dropout=0.1, moe_token_dropout=0.2)
    _switch_off_dropout(config)
    assert (config.dropout, config.moe_token_dropout) == (0.0, 0.2)
