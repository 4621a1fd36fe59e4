"""Small tokenizers of each family, built on the spot from a few lines of text: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "What is the topic of the following paragraph? Choose one from the option.",
    "Option: World, Sports, Business, Science or Technology",
    "sentence 1: the boat left the harbour at noon. sentence 2: the harbour is empty.",
    "Answer: Sports Answer: World Answer: Business Answer: very negative Answer: entailment",
    "Definition: summarise the article. Input: the river rose by two metres. Output: flood",
    "User: hello there Assistant: good morning, how can I help? System: be brief.",
    "word0 word1 word2 word3 word4 word5 word6 word7 word8 word9 0 1 2 3 4 5 6 7 8 9",
] * 3

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _wrap(tokenizer: Tokenizer, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


@pytest.fixture(scope="session")
def llama() -> Any:
    """Byte-level BPE that puts <s> before a text, as Llama 3 does, with a chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    raw.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]),
        ]
    )
    tokenizer = _wrap(raw, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "<s>" + CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def llama_with_eos() -> Any:
    """A causal tokenizer that appends its end token to every text, prompts included, and pads with the start token."""
    raw = Tokenizer(models.WordLevel(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<s>", "</s>"]
    raw.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return _wrap(raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<s>")


@pytest.fixture(scope="session")
def t5() -> Any:
    """A unigram tokenizer that ends every text with </s> and has no start token, as T5 does."""
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    raw.train_from_iterator(CORPUS, trainer)
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _wrap(raw, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="session")
def bert() -> Any:
    """A word-piece tokenizer with [CLS] and [SEP], lower-cased: the encoder of an encoder-decoder model."""
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    raw.train_from_iterator(CORPUS, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _wrap(raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


@pytest.fixture(scope="session")
def slow() -> Any:
    """A tokenizer written in Python, without character offsets: bytes, ended by </s>."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with no data root and no network allowed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLORA_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path
