from __future__ import annotations

import json
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clora_cli.nano import MODEL_PATH
from clora_cli.nano.task_set import ORDER, rows, task

FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL_PATH)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_PATH)


def test_the_folder_is_whole_and_at_most_8_mb():
    assert {path.name for path in MODEL_PATH.iterdir()} == FILES
    assert sum(path.stat().st_size for path in MODEL_PATH.iterdir()) <= 8_000_000


def test_attention_is_grouped_so_that_v_proj_is_not_square(model):
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    rows_, columns = model.model.layers[0].self_attn.v_proj.weight.shape
    assert rows_ < columns


def test_weights_are_float32_and_finite(model):
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in model.parameters())


def test_special_tokens_are_distinct_and_agree_with_the_config(model, tokenizer):
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert len(set(ids)) == 3 and None not in ids
    assert ids == [model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id]
    assert ids == [getattr(model.generation_config, f"{name}_token_id") for name in ("pad", "bos", "eos")]


UNICODE = ["plain words", " Zoë\n\tnaïve  ,", "日本語 и кириллица", "😀👩‍🚀", "a" * 400, "\x00\u200b"]


@pytest.mark.parametrize("text", UNICODE)
def test_any_text_survives_encoding(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_prompts_are_short_and_answers_begin_a_token(tokenizer):
    for name in ORDER:
        about = task(name)
        for text, label in rows(name, "dev")[:20]:
            prompt = f"{about.instruction}\nOption: {', '.join(about.labels)}\n{text}\nAnswer:"
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            assert len(ids) <= 120
            answer = tokenizer(f" {label}", add_special_tokens=False)["input_ids"]
            assert tokenizer(f"{prompt} {label}", add_special_tokens=False)["input_ids"] == ids + answer


def test_generating_needs_no_advice(model, tokenizer):
    given = tokenizer(["Hello", "The farmer"], return_tensors="pt", padding=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = model.generate(input_ids=given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=4)
    assert out.shape[0] == 2


def test_every_encoded_text_begins_as_the_training_texts_did():
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    assert tokenizer("any text")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in tokenizer("any text", add_special_tokens=False)["input_ids"]


def test_the_tokenizer_is_what_the_script_makes():
    from pretrain import train_tokenizer

    made, shipped = (
        json.loads(text)
        for text in (
            train_tokenizer().backend_tokenizer.to_str(),
            (MODEL_PATH / "tokenizer.json").read_text(encoding="utf-8"),
        )
    )
    assert made["model"] == shipped["model"]
    assert made["post_processor"] == shipped["post_processor"]
