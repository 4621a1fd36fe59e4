"""A batch's mask comes from lengths, its labels are padded with -100, and it is never padded with the start token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from refusals import refused

from clora_cli.data import Collator, pad_id

CAUSAL = [{"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}, {"input_ids": [5], "labels": [5]}]
SEQ2SEQ = [{"input_ids": [5, 6, 7], "labels": [9]}, {"input_ids": [5], "labels": [8, 9]}]


def ids(pad: int | None = None, eos: int | None = None, bos: int | None = None, **more: int) -> Any:
    known = {"sep_token_id": None, "unk_token_id": None} | more
    return SimpleNamespace(pad_token_id=pad, eos_token_id=eos, bos_token_id=bos, **known)


def test_right_padding() -> None:
    batch = Collator(ids(pad=0))(CAUSAL)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7], [5, -100, -100]]


def test_left_padding_keeps_causal_labels_on_their_tokens() -> None:
    batch = Collator(ids(pad=0), side="left")(CAUSAL)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 7], [-100, -100, 5]]


def test_left_padding_leaves_decoder_labels_on_the_right() -> None:
    assert Collator(ids(pad=0), side="left")(SEQ2SEQ)["labels"].tolist() == [[9, -100], [8, 9]]


def test_padding_token_inside_a_text_is_attended_to() -> None:
    batch = Collator(ids(pad=7))([{"input_ids": [7, 7]}, {"input_ids": [5]}])
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert "labels" not in batch


def test_lengths_round_up_and_numbers_pass() -> None:
    batch = Collator(ids(pad=0), multiple_of=8)([{"input_ids": [1] * 9, "row": 3}, {"input_ids": [1], "row": 4}])
    assert batch["input_ids"].shape == (2, 16)
    assert batch["row"].tolist() == [3, 4]


@pytest.mark.parametrize(("tokenizer", "expected"), [
    (ids(pad=0, eos=2, bos=1), 0),
    (ids(eos=2, bos=1), 2),
    (ids(pad=1, eos=2, bos=1), 2),
    (ids(pad=50, eos=50, bos=50), 50),
    (ids(bos=1, unk_token_id=3), 3),
    (ids(bos=1), 1),
])  # fmt: skip
def test_padding_is_the_start_token_only_as_a_last_resort(tokenizer: Any, expected: int) -> None:
    assert pad_id(tokenizer) == expected


def test_a_tokenizer_without_special_tokens_is_refused() -> None:
    with refused("no-padding-token", "pad_token"):
        pad_id(ids())


def test_real_tokenizers(llama: Any, llama_with_eos: Any, t5: Any, bert: Any) -> None:
    assert pad_id(llama) == llama.eos_token_id
    assert pad_id(llama_with_eos) == llama_with_eos.eos_token_id
    assert pad_id(t5) == t5.pad_token_id
    assert pad_id(bert) == bert.pad_token_id
