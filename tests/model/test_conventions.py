"""What models of many kinds say about tokens and positions, and what is made of it when they are loaded."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from refusals import refused
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.model.conventions import first_position, pads_left, read_tokens, takes_positions

_SMALL = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LAYERS = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
_GPT = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32}
_BART = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}
_BART |= {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "decoder_start_token_id": 2}
KINDS = {
    # configuration, its size: most tokens of a prompt, positions it was made for, first position, whether padding may come first
    "Llama": ({**_LAYERS, "max_position_embeddings": 32}, (None, 32, 0, True)),
    "GPT2": (_GPT, (32, None, 0, True)),
    "GPTJ": ({**_GPT, "rotary_dim": 4}, (32, None, 0, True)),
    "OPT": ({**_LAYERS, "ffn_dim": 8, "max_position_embeddings": 32, "word_embed_proj_dim": 8}, (32, None, 0, True)),
    "Bloom": ({"hidden_size": 8, "n_layer": 1, "n_head": 2}, (None, None, 0, True)),
    "Mpt": ({"d_model": 8, "n_layers": 1, "n_heads": 2, "max_seq_len": 32}, (32, None, 0, True)),
    "Roberta": ({**_LAYERS, "max_position_embeddings": 33, "is_decoder": True}, (32, None, 1, True)),
    "Bart": ({**_BART, "max_position_embeddings": 32}, (32, None, 0, False)),
    "Mamba": ({"num_hidden_layers": 1, "hidden_size": 8, "state_size": 2}, (None, None, 0, True)),
    "Rwkv": ({"num_hidden_layers": 2, "hidden_size": 8, "attention_hidden_size": 8}, (None, 1024, 0, False)),
}


def made(kind, auto=AutoModelForCausalLM, **more):
    options, facts = KINDS[kind]
    return auto.from_config(getattr(transformers, f"{kind}Config")(**{**_SMALL, **options, **more})).eval(), facts


@pytest.mark.parametrize("kind", KINDS)
def test_positions_end_where_the_model_would_fail(kind, backbone):
    model, (positions, made_for, first, left) = made(kind)
    tokens = read_tokens(backbone().tokenizer, model, backbone().reference)
    assert (tokens.positions, tokens.made_for) == (positions, made_for)
    assert (first_position(model), pads_left(model)) == (first, left)
    ids = torch.arange(40)[None] + 3
    with torch.no_grad():
        model(input_ids=ids[:, : positions or 40])
        if positions is not None:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=ids[:, : positions + 1])


def test_an_encoder_decoder_has_positions_on_both_sides(backbone):
    config = transformers.LEDConfig(
        **_SMALL, **_BART, max_encoder_position_embeddings=32, max_decoder_position_embeddings=16, attention_window=4
    )
    base = backbone("t5")
    tokens = read_tokens(base.tokenizer, AutoModelForSeq2SeqLM.from_config(config), base.reference)
    assert (tokens.positions, tokens.answer_positions, tokens.start) == (32, 16, 2)
    assert (base.tokens.positions, base.tokens.answer_positions, base.tokens.made_for) == (None, None, None)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "encoder-decoder"])
def test_what_agrees_is_decided_as_the_tokenizer_has_it(backbone, family):
    base = backbone(family)
    end = base.tokenizer.eos_token_id if base.tokenizer.eos_token_id is not None else base.tokenizer.sep_token_id
    assert (base.tokens.end(), base.tokens.ends(), base.tokens.disagreement) == (end, (end,), "")
    assert base.tokens.pad == base.tokenizer.pad_token_id == base.model.generation_config.pad_token_id
    if base.kind == "seq2seq":
        labels = torch.tensor([[5, 6, end], [7, end, -100]])
        theirs = base.model.prepare_decoder_input_ids_from_labels(labels=labels)
        assert base.tokens.decoder_inputs(labels).equal(theirs)


def test_a_padding_token_without_an_embedding_is_replaced(model_folder, tmp_path):
    shutil.copytree(model_folder("gpt2"), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "model")
    base = load_backbone(find_model(str(tmp_path / "model")), device=torch.device("cpu"))
    assert base.tokens.pad == base.tokenizer.pad_token_id == base.tokenizer.eos_token_id < base.tokens.rows


def test_nothing_of_the_models_own_way_to_generate_is_left(model_folder, tmp_path):
    shutil.copytree(model_folder("llama"), tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    own = json.loads(path.read_text())
    own |= {"repetition_penalty": 5.0, "min_new_tokens": 9, "num_return_sequences": 1, "suppress_tokens": [5]}
    path.write_text(json.dumps(own))
    config = load_backbone(find_model(str(tmp_path / "model")), device=torch.device("cpu")).model.generation_config
    assert config.eos_token_id == [own["eos_token_id"]]
    assert (config.repetition_penalty, config.min_new_tokens, config.suppress_tokens) == (None, None, None)


def test_a_folder_without_a_tokenizer_is_told(model_folder, tmp_path):
    shutil.copytree(model_folder("llama"), tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text('{"model": 3}')
    with refused("base-model-not-loadable", "tokenizer"):
        load_backbone(find_model(str(tmp_path / "model")), device=torch.device("cpu"))


def test_positions_can_be_told_to_most(backbone):
    assert takes_positions(backbone("llama").model)
    assert not takes_positions(made("Mamba")[0])
