"""Tokenizer, configurations and chat template name tokens; one place decides between them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from refusals import refused
from transformers.models.bart.modeling_bart import shift_tokens_right

from clora_cli.data import IGNORED, Example, Tokens, encode, encode_answers, encode_prompt
from clora_cli.data.templates import chat

TURNS = chat((("user", "hello there"),), ("good morning",))
PLAIN = Example("Definition: ", "the river rose by two metres", "\nOutput:", ("flood",))


def fake(**ids: Any) -> Any:
    known: dict[str, Any] = {f"{role}_token_id": None for role in ("bos", "eos", "pad", "sep", "unk", "cls")}
    known |= {"all_special_ids": [], "convert_ids_to_tokens": lambda token: f"word{token}"}
    return SimpleNamespace(**known | ids)


def test_an_answer_ends_where_tokenizer_and_model_agree() -> None:
    tokens = Tokens(fake(eos_token_id=2, all_special_ids=[2, 7]), stops=(7, 2))
    assert tokens.end() == 2
    assert tokens.ends() == (2, 7)
    assert tokens.disagreement == ""


def test_an_answer_ends_with_the_models_own_marker_where_the_tokenizers_would_not_stop_it() -> None:
    tokens = Tokens(fake(eos_token_id=2, all_special_ids=[2, 7]), stops=(7,))
    assert tokens.end() == 7
    assert tokens.ends() == (7, 2)  # adapters that learned to end with 2 are stopped too


def test_ordinary_text_ends_no_answer_where_the_tokenizer_has_an_end() -> None:
    tokens = Tokens(fake(eos_token_id=2, all_special_ids=[2]), stops=(7,), model="base model 'm'")
    assert (tokens.end(), tokens.ends()) == (2, (2,))
    assert "'word2', at which base model 'm' does not stop" in tokens.disagreement
    assert Tokens(fake(), stops=(7,)).end() == 7


def test_markers_are_known_by_their_spelling_too() -> None:
    spelled = {5: "<|im_end|>", 6: "<0x0A>", 7: "[SEP]", 8: "<end_of_turn>", 9: "the"}
    tokenizer = fake(eos_token_id=2, all_special_ids=[2])
    tokenizer.convert_ids_to_tokens = spelled.get
    assert Tokens(tokenizer, stops=(5, 6, 7, 8, 9)).ends() == (5, 2, 7, 8)


def test_an_end_that_the_model_has_no_embedding_for_is_passed_over() -> None:
    tokens = Tokens(fake(eos_token_id=50, sep_token_id=3, all_special_ids=[50, 3]), rows=50, answer_rows=50)
    assert (tokens.end(), tokens.ends()) == (3, (3,))
    with refused("no-end-token", "eos_token"):
        Tokens(fake(eos_token_id=50), answer_rows=50).end()


@pytest.mark.parametrize(
    ("stops", "end", "ends"),
    [
        ("</s> <|user|>", "<|user|>", {"</s>", "<|user|>"}),  # as Gemma's, whose turns end otherwise than texts
        ("</s>", "</s>", {"</s>", "<|user|>"}),  # a base model with a chat model's template
        ("<|user|>", "<|user|>", {"</s>", "<|user|>"}),
    ],
)
def test_in_a_chat_an_answer_ends_as_the_template_ends_a_turn(llama: Any, stops: str, end: str, ends: set[str]) -> None:
    number = llama.convert_tokens_to_ids
    old = llama.chat_template
    try:
        llama.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|user|>\n{% endfor %}"
        tokens = Tokens(llama, stops=tuple(map(number, stops.split())))
        assert tokens.end(chat=True) == number(end)
        assert set(tokens.ends(chat=True)) == set(map(number, ends))
        item = encode(TURNS, tokens, kind="causal", max_length=100, chat=True)
        assert item["labels"][-1] == number(end)
        assert encode_answers(TURNS, ["good morning"], tokens, kind="causal", chat=True)[0][-1] == number(end)
        assert tokens.end() == number("</s>" if "</s>" in stops else "<|user|>")
    finally:
        llama.chat_template = old


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{{ raise_exception('no') }}", "chat-template-refuses-roles"),
        ("{{ messages[9].content + 1 }}", "chat-template-refuses-roles"),
        ("{% if %}", "chat-template-refuses-roles"),
        ("{{ 1 / 0 }}", "chat-template-fails"),
    ],
)
def test_a_template_that_fails_is_told_in_one_line_and_hides_no_end(llama: Any, template: str, code: str) -> None:
    old = llama.chat_template
    try:
        llama.chat_template = template
        assert Tokens(llama).end(chat=True) == llama.eos_token_id
        with refused(code):
            encode_prompt(TURNS, llama, kind="causal", max_length=50, chat=True)
    finally:
        llama.chat_template = old


def test_padding_is_a_token_that_the_model_has() -> None:
    assert Tokens(fake(pad_token_id=50, eos_token_id=2), rows=50).pad == 2
    assert Tokens(fake(pad_token_id=50, eos_token_id=51), pads=(0,), rows=50, answer_rows=50).pad == 0
    assert Tokens(fake(pad_token_id=50, eos_token_id=2), rows=51, answer_rows=50).pad == 2


def test_padding_that_ends_answers_hides_no_end(llama: Any) -> None:
    tokens = Tokens(llama)
    assert tokens.pad == tokens.end()
    assert encode(PLAIN, tokens, kind="causal", max_length=100)["labels"][-1] == tokens.end()


def test_a_decoder_is_given_its_labels_one_later() -> None:
    labels = torch.tensor([[5, 6, 2], [7, 2, IGNORED]])
    tokens = Tokens(fake(pad_token_id=0, eos_token_id=2), starts=(9,))
    assert tokens.decoder_inputs(labels).tolist() == shift_tokens_right(labels, 0, 9).tolist()


def test_a_decoder_starts_with_what_is_named_first_and_the_model_has() -> None:
    assert Tokens(fake(bos_token_id=1), starts=(60, 5), answer_rows=50).start == 5
    assert Tokens(fake(cls_token_id=4), answer_rows=50).start == 4
    with refused("decoder-start-unknown", "decoder_start_token_id"):
        Tokens(fake()).start  # noqa: B018


def test_a_token_without_an_embedding_is_refused_by_its_name(llama: Any) -> None:
    highest = max(llama("Definition: flood")["input_ids"])
    tokens = Tokens(llama, rows=highest, answer_rows=highest, model="base model 'm'")
    with refused("tokenizer-other-model", "base model 'm'", highest):
        encode_prompt(PLAIN, tokens, kind="causal", max_length=100)
    with refused("tokenizer-other-model", "base model 'm'", highest):
        encode_answers(Example("", "a", "", ()), ["Definition: flood"], tokens, kind="seq2seq")


def test_prompts_and_answers_stay_within_the_positions(llama: Any) -> None:
    long = Example("Read: ", "the river rose by two metres " * 30, "\nOutput:", ("flood " * 60,))
    tokens = Tokens(llama, positions=40, answer_positions=12, model="base model 'm'")
    item = encode(long, tokens, kind="causal", max_length=512)
    assert len(item["input_ids"]) == 40
    assert sum(label != IGNORED for label in item["labels"]) == 20  # half of them at most
    item = encode(long, tokens, kind="seq2seq", max_length=512)
    assert (len(item["input_ids"]), len(item["labels"])) == (40, 12)
    assert len(encode_prompt(long, tokens, kind="causal", max_length=512)) == 40
    assert len(encode_prompt(long, tokens, kind="causal", max_length=None)) > 40
    with refused("prompt-too-long", "--max-length", "base model 'm' has 40 positions"):
        encode_prompt(Example("word0 " * 60, "", "", ()), tokens, kind="causal", max_length=512)


def test_a_prompt_of_nothing_is_the_start_of_a_text(t5: Any, llama: Any) -> None:
    nothing = Example("", "", "", ("flood",))
    assert encode_prompt(nothing, llama, kind="causal", max_length=9) == [llama.bos_token_id]
    assert encode(nothing, t5, kind="causal", max_length=9)["input_ids"][0] == t5.eos_token_id


def test_what_people_should_know_of_lengths_is_said() -> None:
    short = Tokens(fake(), positions=64, model="base model 'm'")
    assert short.remarks(64, 64) == []
    assert short.remarks(512, 64) == ["base model 'm' has 64 positions: prompts are cut to 64 tokens, not to 512"]
    assert short.remarks(512, 44, 20) == ["base model 'm' has 64 positions: prompts are cut to 44 tokens, not to 512"]
    rotary = Tokens(fake(), made_for=64, model="base model 'm'")
    assert rotary.remarks(512, 64) == []
    assert "made for 64 positions and goes beyond them" in rotary.remarks(512, 60, 5)[0]
    assert Tokens(fake()).remarks(512, 10_000) == []


def test_a_tokenizer_that_fails_is_told_in_one_line(llama: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="[UNK]"))  # which its vocabulary lacks
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")
    with refused("tokenizer-fails", "'a strange text'", "WordLevel error"):
        encode_prompt(Example("a strange text", "", "", ()), tokenizer, kind="causal", max_length=9)
