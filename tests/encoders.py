"""Encoders of several families, and tasks of classes for them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from support import train
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from clora_cli.data import load_task
from clora_cli.evaluation.evaluate import evaluate
from clora_cli.options import EvalOptions
from clora_cli.store.package import read_package
from clora_cli.store.scores import Scores

WARM, COLD = ("orange", "red"), ("blue", "green", "violet")
_SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_SMALL |= {"max_position_embeddings": 64, "vocab_size": 200, "pad_token_id": 0}
_MARKS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
# Of each family, what its configuration needs beside that.
FAMILIES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "hidden_dim": 32, "n_layers": 1, "n_heads": 2},
    "roberta": {"max_position_embeddings": 66},
    "modernbert": {"global_attn_every_n_layers": 1, **_MARKS},
    "deberta": {"pooler_hidden_size": 32},
    "deberta-v2": {"pooler_hidden_size": 32},
}
# Of all others with a head that clora fills, and the layers that are adapted where there is no query and value.
_PADDED = {"max_position_embeddings": 66}
OTHERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "albert": ({"embedding_size": 16}, ()),
    "bert": ({}, ()),
    "big_bird": ({"attention_type": "original_full"}, ()),
    "camembert": (_PADDED, ()),
    "convbert": ({"embedding_size": 32, "head_ratio": 1}, ()),
    "data2vec-text": (_PADDED, ()),
    "electra": ({"embedding_size": 16}, ()),
    "ernie": ({}, ()),
    "eurobert": ({"num_key_value_heads": 2, **_MARKS}, ()),
    "fnet": ({}, ("dense",)),
    "layoutlm": ({}, ()),
    "megatron-bert": ({}, ()),
    "mobilebert": ({"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}, ()),
    "mpnet": (_PADDED, ()),
    "nomic_bert": ({}, ()),
    "nystromformer": ({}, ()),
    "rembert": ({"input_embedding_size": 16, "output_embedding_size": 16}, ()),
    "roberta-prelayernorm": (_PADDED, ()),
    "roformer": ({"embedding_size": 16}, ()),
    "xlm-roberta": (_PADDED, ()),
    "xlm-roberta-xl": (_PADDED, ()),
    "xmod": ({**_PADDED, "languages": ["en_XX"], "default_language": "en_XX"}, ()),
    "yoso": ({}, ()),
}


def write_colours(folder: Path, labels: Sequence[str]) -> Path:
    """Write a task of 24 training and 9 test rows that a text's colour decides."""
    folder.mkdir(parents=True)
    rows = [{"text": f"the {labels[i % len(labels)]} thing {i}", "label": labels[i % len(labels)]} for i in range(24)]
    for split, part in (("train", rows), ("test", rows[:9])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return folder


def save_encoder(family: str, folder: Path, like: Path) -> Path:
    """Save a random encoder of a family without its head, with the tokenizer of another one."""
    set_seed(0)
    given = {**_SMALL, **(FAMILIES[family] if family in FAMILIES else OTHERS[family][0])}
    config = transformers.AutoConfig.for_model(family, **given)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return folder


def train_both(model: Path, tasks: Sequence[Path], package: Path, **chosen: Any) -> Path:
    """Train one adapter after the other, a few steps each."""
    for task in tasks:
        train(model, task, package, **{"max_steps": 8, "target_modules": ("query", "value"), **chosen})
    return package


def scored(package: Path, tasks: Sequence[Path], **chosen: Any) -> Scores:
    """Score a package on tasks."""
    options = EvalOptions(**{"device": "cpu", **chosen})
    return evaluate(read_package([package]), [load_task(str(task)) for task in tasks], options)


def through_peft(model: Path, adapter: Path, classes: int) -> Any:
    """Return an encoder with an adapter and its head as PEFT reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=classes)
        return PeftModel.from_pretrained(base, str(adapter)).eval()


@torch.no_grad()
def answered(model: Any, tokenizer: Any, prompts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the likeliest class of each prompt."""
    found = [model(**tokenizer(prompt, return_tensors="pt")).logits.argmax().item() for prompt in prompts]
    return [labels[number] for number in found]
