"""Logits at chosen positions alone."""

from __future__ import annotations

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from support import write_random_adapter

from clora_cli.model.bank import AdapterBank
from clora_cli.model.output_layer import logits_at, output_layer, output_only_at

SIZE = {"vocab_size": 96, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZE |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# Heads of every kind: plain, with a bias, scaled, capped, with layers of their own before them, of a decoder.
CONFIGS = {
    "llama": transformers.LlamaConfig(**SIZE),
    "phi": transformers.PhiConfig(**SIZE),
    "cohere": transformers.CohereConfig(**SIZE, logit_scale=0.3),
    "granite": transformers.GraniteConfig(**SIZE, logits_scaling=7.0),
    "gemma2": transformers.Gemma2Config(**SIZE, head_dim=8, num_key_value_heads=1, final_logit_softcapping=0.5),
    "bert decoder": transformers.BertConfig(**SIZE, is_decoder=True),
    "gpt_neox": transformers.GPTNeoXConfig(**SIZE),
    "bart": transformers.BartConfig(
        **{"vocab_size": 96, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "decoder_start_token_id": 2},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
    ),
    "t5": transformers.T5Config(vocab_size=96, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
}
IDS = torch.randint(3, 96, (3, 7), generator=torch.Generator().manual_seed(5))
CHOSEN = torch.tensor([[0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1], [0] * 7]).bool()


def model_of(name):
    torch.manual_seed(0)
    config = CONFIGS[name]
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = kind.from_config(config).double().eval()
    for own, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if own.endswith("bias"):
            torch.nn.init.normal_(tensor)
    return model


def logits(model, *chosen):
    extra = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    if not chosen:
        return model(input_ids=IDS, **extra).logits
    with output_only_at(model, *chosen):
        return model(input_ids=IDS, **extra).logits


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_at_chosen_positions_are_those_of_all(name):
    model = model_of(name)
    expected, found = logits(model)[CHOSEN], logits(model, CHOSEN)
    assert found.shape == (1, 3, 96)
    assert torch.allclose(found[0], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(logits(model)[CHOSEN], expected)  # nothing stays behind


def test_nowhere_means_everywhere():
    model = model_of("llama")
    assert torch.equal(logits(model, CHOSEN & False), logits(model))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_an_adapter_in_the_output_layer_acts(name):
    model = model_of(name)
    before = logits(model)[CHOSEN]
    model = get_peft_model(model, LoraConfig(target_modules=["lm_head"], r=2, init_lora_weights=False)).double().eval()
    expected = logits(model)[CHOSEN]
    assert not torch.allclose(before, expected)
    assert torch.allclose(logits(model, CHOSEN)[0], expected, rtol=1e-12, atol=1e-12)


def test_a_bank_s_adapter_in_the_output_layer_acts(tmp_path, backbone):
    model = backbone("llama").model
    ids = IDS.clamp(max=40)
    member = write_random_adapter(tmp_path / "a", backbone("llama"), stage=1, targets=["lm_head"])
    before = model(input_ids=ids).logits[CHOSEN]
    bank = AdapterBank(model)
    bank.activate([member.deltas()])
    try:
        expected = model(input_ids=ids).logits[CHOSEN]
        with output_only_at(model, CHOSEN):
            found = model(input_ids=ids).logits
    finally:
        bank.clear()
    assert not torch.allclose(before, expected)
    assert torch.allclose(found[0], expected, rtol=1e-4, atol=1e-4)


def test_states_of_another_shape_are_left_alone():
    model = model_of("llama")
    with output_only_at(model, CHOSEN[:, :5]):
        found = model(input_ids=IDS).logits
    assert torch.equal(found, logits(model))
    assert not output_layer(model)._forward_pre_hooks


@pytest.mark.parametrize("inner", [CHOSEN.flip(1), torch.zeros_like(CHOSEN)])
def test_a_pass_inside_another_has_its_own_positions(inner):
    model = model_of("llama")
    every = model(input_ids=IDS).logits
    with output_only_at(model, CHOSEN):
        with output_only_at(model, inner):
            found = logits_at(model(input_ids=IDS).logits, inner)
        assert torch.allclose(logits_at(model(input_ids=IDS).logits, CHOSEN), every[CHOSEN])
    assert torch.allclose(found, every[inner])
    assert model(input_ids=IDS).logits.shape == every.shape
