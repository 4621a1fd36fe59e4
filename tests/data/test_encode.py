"""Prompts keep their cue, labels mask exactly the prompt, and there is one end token, for each tokenizer family."""

from __future__ import annotations

from typing import Any

import pytest
from refusals import refused

from clora_cli.data import IGNORED, Example, encode, encode_answer, encode_answers, encode_prompt
from clora_cli.data.rendering import preceded
from clora_cli.data.templates import chat, options, options_head

LABELS = ("World", "Sports", "Business")
HEAD = options_head("What is the topic of the following paragraph?", LABELS)
SHORT = options(HEAD, "the boat left the harbour", ("Sports",))
LONG = options(HEAD, " ".join(f"word{i} of the river" for i in range(300)), ("Sports",))
FAST = ["llama", "llama_with_eos", "t5", "bert"]
CAUSAL = ["llama", "llama_with_eos"]
SEQ2SEQ = ["t5", "bert", "slow"]


def squeezed(text: str) -> str:
    return "".join(text.split()).casefold()


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode([i for i in ids if i != IGNORED], skip_special_tokens=True)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_labels_are_the_answer_and_one_end(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    item = encode(SHORT, tokenizer, kind="causal", max_length=200)
    prompt = encode_prompt(SHORT, tokenizer, kind="causal", max_length=200)
    assert item["input_ids"][: len(prompt)] == prompt
    assert item["labels"][: len(prompt)] == [IGNORED] * len(prompt)
    assert item["labels"][len(prompt) :] == item["input_ids"][len(prompt) :]
    assert squeezed(decoded(tokenizer, item["labels"])) == "sports"
    assert item["input_ids"].count(tokenizer.eos_token_id) == 1
    assert item["input_ids"].count(tokenizer.bos_token_id) == 1
    assert item["input_ids"][0] == tokenizer.bos_token_id


def test_causal_text_is_the_prompt_a_space_and_the_answer(llama: Any) -> None:
    item = encode(SHORT, llama, kind="causal", max_length=200)
    assert decoded(llama, item["input_ids"]) == f"{SHORT.prompt} Sports"


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_seq2seq_labels_have_no_start_and_one_end(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    item = encode(SHORT, tokenizer, kind="seq2seq", max_length=2000)
    assert item["input_ids"] == tokenizer(SHORT.prompt)["input_ids"]
    assert item["labels"].count(end) == 1 and item["labels"][-1] == end
    assert item["labels"][0] not in {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}
    assert squeezed(decoded(tokenizer, item["labels"])) == "sports"


@pytest.mark.parametrize("name", [*FAST, "slow"])
def test_long_prompts_keep_head_and_cue(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    kind = "causal" if name in CAUSAL else "seq2seq"
    budget = 300 if name == "slow" else 90
    ids = encode_prompt(LONG, tokenizer, kind=kind, max_length=budget)
    text = decoded(tokenizer, ids)
    assert budget - 4 <= len(ids) <= budget
    if name != "llama_with_eos":  # its vocabulary is too small to read the words back
        assert squeezed(text).startswith(squeezed(HEAD)[:40])
        assert squeezed(text).endswith("word299oftheriveranswer:")
        assert "word0" not in text


@pytest.mark.parametrize("name", FAST)
def test_cut_prompt_is_a_part_of_the_whole_tokenisation(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    whole = tokenizer(LONG.prompt)["input_ids"]
    ids = encode_prompt(LONG, tokenizer, kind="seq2seq", max_length=90)
    assert len(ids) == 90
    front = next(i for i in range(91) if ids[:i] + whole[len(whole) - 90 + i :] == ids)
    assert 0 < front < 90


@pytest.mark.parametrize("length", [60, 75, 90, 200, 10_000])
def test_causal_items_fit_and_answers_are_whole(llama: Any, length: int) -> None:
    item = encode(LONG, llama, kind="causal", max_length=length)
    assert len(item["input_ids"]) == len(item["labels"]) <= length
    assert decoded(llama, item["labels"]) == " Sports"
    assert decoded(llama, item["input_ids"]).endswith("\nAnswer: Sports")


@pytest.mark.parametrize("name", [*FAST, "slow"])
def test_prompt_that_cannot_fit_says_what_to_set(name: str, request: pytest.FixtureRequest) -> None:
    with refused("prompt-too-long", "--max-length", "What is the topic", " 5"):
        encode_prompt(LONG, request.getfixturevalue(name), kind="seq2seq", max_length=5)


def test_characters_of_several_tokens_are_cut_whole(llama: Any) -> None:
    example = Example("head ", "\N{GRINNING FACE}" * 40, "\nAnswer:", ("Sports",))
    for length in range(30, 60):
        text = decoded(llama, encode_prompt(example, llama, kind="causal", max_length=length))
        assert "\N{REPLACEMENT CHARACTER}" not in text


def test_long_answers_lose_their_tail_and_keep_the_end(llama: Any) -> None:
    example = Example("", "summarise the article", "\nOutput:", ("the river rose " * 50,))
    item = encode(example, llama, kind="causal", max_length=500, max_answer_length=10)
    labels = [i for i in item["labels"] if i != IGNORED]
    assert len(labels) == 10 and labels[-1] == llama.eos_token_id
    assert decoded(llama, labels).startswith(" the river rose")


@pytest.mark.parametrize(("prompt", "answer", "text"), [
    ("Q: one\nA: ", "two", "Q: one\nA: two"),
    ("Q: one\nA:", " two", "Q: one\nA: two"),
    ("Q: one\nA:", "two", "Q: one\nA: two"),
    ("Q: one\nA:\n", "two", "Q: one\nA:\ntwo"),
])  # fmt: skip
def test_one_space_joins_prompt_and_answer(llama: Any, prompt: str, answer: str, text: str) -> None:
    item = encode(Example("", prompt, "", (answer,)), llama, kind="causal", max_length=200)
    assert decoded(llama, item["input_ids"]) == text


@pytest.mark.parametrize("name", ["llama", "llama_with_eos", "t5", "bert"])
def test_ranked_labels_are_the_trained_labels(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    kind = "causal" if name in CAUSAL else "seq2seq"
    ranked = encode_answers(LONG, LABELS, tokenizer, kind=kind)
    for label, ids in zip(LABELS, ranked, strict=True):
        item = encode(LONG, tokenizer, kind=kind, max_length=120, answer=label)
        assert [i for i in item["labels"] if i != IGNORED] == ids
        assert encode_answer(LONG, label, tokenizer, kind=kind) == ids


def test_answer_that_would_fuse_with_the_prompt_is_tokenised_apart(llama: Any) -> None:
    example = Example("", "Answer: ", "", ("Sports",))
    prompt = encode_prompt(example, llama, kind="causal", max_length=50)
    joint = llama("Answer: Sports")["input_ids"]
    assert joint[: len(prompt)] != prompt  # the space at the prompt's end belongs to another token with an answer
    item = encode(example, llama, kind="causal", max_length=50)
    assert item["input_ids"][: len(prompt)] == prompt
    assert decoded(llama, item["labels"]) == "Sports" and decoded(llama, item["input_ids"]) == "Answer: Sports"


def test_a_prompt_without_text_still_has_an_answer(llama: Any) -> None:
    item = encode(Example("", "", "", ("Sports",)), llama, kind="causal", max_length=50)
    assert decoded(llama, item["input_ids"]) == "Sports"


def test_chat_template_writes_the_special_tokens_once(llama: Any) -> None:
    example = chat((("system", "be brief."), ("user", "hello there")), ("good morning",))
    item = encode(example, llama, kind="causal", max_length=200, chat=True)
    text = llama.decode(item["input_ids"])
    assert text == "<s><|system|>be brief.</s><|user|>hello there</s><|assistant|> good morning</s>"
    assert item["input_ids"].count(llama.bos_token_id) == 1


def test_a_plain_prompt_is_one_user_turn_cut_inside(llama: Any) -> None:
    ids = encode_prompt(LONG, llama, kind="causal", max_length=100, chat=True)
    text = llama.decode(ids)
    assert len(ids) <= 100
    assert text.startswith("<s><|user|>What is the topic") and text.endswith("\nAnswer:</s><|assistant|>")


def test_long_conversations_lose_their_oldest_exchanges_first(llama: Any) -> None:
    turns = [("system", "be brief.")]
    for i in range(20):
        turns += [("user", f"hello {i}"), ("assistant", f"good morning {i}")]
    example = chat((*turns, ("user", "the boat left")), ("the harbour",))
    text = llama.decode(encode_prompt(example, llama, kind="causal", max_length=60, chat=True))
    assert text.startswith("<s><|system|>be brief.</s><|user|>hello ")
    assert text.endswith("<|user|>the boat left</s><|assistant|>")
    assert "hello 0" not in text and "hello 19" in text


def test_the_last_turn_is_cut_when_it_alone_is_too_long(llama: Any) -> None:
    example = chat((("user", "hello"), ("assistant", "hi"), ("user", "the river rose " * 200)), ("flood",))
    ids = encode_prompt(example, llama, kind="causal", max_length=50, chat=True)
    text = llama.decode(ids)
    assert len(ids) <= 50 and text.startswith("<s><|user|>") and text.endswith("the river rose</s><|assistant|>")


def test_chat_without_a_template_is_refused(t5: Any) -> None:
    with refused("no-chat-template", "--chat"):
        encode_prompt(SHORT, t5, kind="seq2seq", max_length=50, chat=True)


def test_a_template_that_refuses_roles_is_one_line(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "chat_template", "{{ raise_exception('no tools here') }}")
    with refused("chat-template-refuses-roles", "no tools here"):
        encode_prompt(SHORT, llama, kind="causal", max_length=50, chat=True)


def test_a_conversation_that_opens_with_the_assistant_after_the_system(llama: Any) -> None:
    example = chat((("system", "be brief."),), ("hello",))
    assert llama.decode(encode_prompt(example, llama, kind="causal", max_length=50, chat=True)) == (
        "<s><|system|>be brief.</s><|assistant|>"
    )


def test_a_text_before_a_question_stands_before_its_instruction_or_in_the_last_turn():
    plain = preceded(Example("head ", "body", " cue", ("a",)), "shown ")
    assert (plain.prompt, plain.body) == ("shown head body cue", "body")
    turns = (("user", "one"), ("assistant", "two"), ("user", "three"))
    talk = preceded(Example("", "", "", ("a",), turns), "shown ")
    assert talk.turns == (*turns[:2], ("user", "shown three"))
