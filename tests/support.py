"""Tiny models, tasks and adapters that the tests make on the spot: nothing is downloaded, nothing is pretrained."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from clora_cli.algebra.lora import Factor, factor_keys
from clora_cli.base import registry
from clora_cli.base.errors import InterruptedRunError, OptionError
from clora_cli.base.progress import Silent
from clora_cli.model.backbone import Backbone
from clora_cli.model.base_model import ModelReference
from clora_cli.model.linear_layers import find_sites
from clora_cli.options import TrainOptions
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.training import make_plan, train_task

FAMILIES = ("llama", "gpt2", "t5", "encoder-decoder")
LABELS = ("great", "very bad", "so so")
_SUBJECTS = ("the boat", "a quiet film", "this long book", "our lunch", "the last song", "a new lamp")
_VERBS = ("was", "seemed", "felt", "looked", "remained")
_ENDINGS = ("today", "to all of us", "in the end", "for a while and then some more", "again")
# Two groups of layers that adapters of a family may change beside query and value.
TARGETS = {
    "llama": (["q_proj"], ["v_proj", "o_proj"]),
    "gpt2": (["c_attn"], ["c_proj", "c_fc"]),
    "t5": (["q"], ["v", "wo"]),
    "encoder-decoder": (["query"], ["value", "crossattention.output.dense"]),
}
_SIZE = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


def sentences(seed: int, count: int) -> list[tuple[str, str]]:
    """Return distinct texts of several lengths, each with a label."""
    chosen = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        text = f"{chosen.choice(_SUBJECTS)} {chosen.choice(_VERBS)} {chosen.choice(_ENDINGS)} {chosen.randrange(90)}"
        rows[text] = chosen.choice(LABELS)
    return list(rows.items())


def write_task(folder: Path, seed: int = 0, train: int = 24, test: int = 9, start: str = "") -> Path:
    """Write a labelled task as train, dev and test files of JSON lines; all its texts may have a common start."""
    folder.mkdir(parents=True)
    rows = [{"text": start + text, "label": label} for text, label in sentences(seed, train + test + 4)]
    parts = {"train": rows[:train], "test": rows[train : train + test], "dev": rows[train + test :]}
    for split, part in parts.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return folder


def _corpus() -> list[str]:
    return [f"{text}\nAnswer: {label}" for text, label in sentences(99, 40)] + [f"Option: {', '.join(LABELS)}"] * 3


def _byte_level(special: Sequence[str], **roles: str) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    if "bos_token" in roles and roles["bos_token"] != roles["eos_token"]:
        start = roles["bos_token"]
        raw.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, raw.token_to_id(start))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **roles)


def _unigram() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    raw.train_from_iterator(
        _corpus(),
        trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _word_piece() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    raw.train_from_iterator(
        _corpus(), trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **roles)


def save_model(family: str, folder: Path, seed: int = 0) -> Path:
    """Save a random model of a family, two layers of width 32, with its tokenizer; nothing drops out in it."""
    set_seed(seed)
    makers = {"llama": _llama, "gpt2": _gpt2, "t5": _t5, "encoder-decoder": _encoder_decoder, "bert": _bert}
    tokenizer, model = makers[family]()
    # One seed per family, whatever the tokenizer's training drew.
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for _, parameter in sorted(model.named_parameters(), key=lambda named: named[0]):
            if parameter.ndim == 2:
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator) * 0.4
                )  # answers differ from row to row, attention does not saturate
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes and their pairs, with a start, an end and a padding token, 0 to 2."""
    return _byte_level(["<s>", "</s>", "<pad>"], bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def _llama() -> tuple[Any, Any]:
    tokenizer = llama_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **_SIZE,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return tokenizer, LlamaForCausalLM(config)


def _gpt2() -> tuple[Any, Any]:
    end = "<|endoftext|>"
    tokenizer = _byte_level([end], bos_token=end, eos_token=end, unk_token=end)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return tokenizer, GPT2LMHeadModel(config)


def _t5() -> tuple[Any, Any]:
    tokenizer = _unigram()
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0)
    config.decoder_start_token_id = config.pad_token_id = 0
    return tokenizer, T5ForConditionalGeneration(config)


def _encoder_decoder() -> tuple[Any, Any]:
    tokenizer = _word_piece()
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 128}
    sides = (BertConfig(vocab_size=len(tokenizer), **_SIZE, **still) for _ in range(2))
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*sides)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 2, 3, 0
    config.vocab_size = len(tokenizer)
    model = EncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id = 2
    model.generation_config.eos_token_id = 3
    return tokenizer, model


def _bert() -> tuple[Any, Any]:
    tokenizer = _word_piece()
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 128}
    return tokenizer, BertModel(BertConfig(vocab_size=len(tokenizer), **_SIZE, **still))


def random_factors(model: Any, seed: int, rank: int, targets: Sequence[str] = (), scaling: float = 1.0) -> dict:
    """Return factors of random numbers at a model's query and value projections, or at other targets."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for site, (rows, columns) in find_sites(model, targets).items():
        a = torch.randn(rank, columns, generator=generator) * 0.2
        b = torch.randn(rows, rank, generator=generator) * 0.2
        factors[site] = Factor(a, b, scaling)
    return factors


def doubled(adapter: Mapping[str, Factor]) -> dict[str, Factor]:
    """Return an adapter in float64."""
    return {site: Factor(f.a.double(), f.b.double(), f.scaling) for site, f in adapter.items()}


def write_random_adapter(
    folder: Path,
    backbone: Backbone,
    *,
    stage: int,
    rank: int = 2,
    alpha: float = 4,
    combine: str = "sum",
    targets: Sequence[str] = (),
    factor: float = 1.0,
    manifest: Mapping[str, Any] | None = None,
) -> AdapterFolder:
    """Write an adapter folder with random numbers, as training would write it; its name is its task's, ``factor`` scales B."""
    task = folder.name
    factors = random_factors(backbone.model, stage, rank, targets)
    tensors = {}
    for site, pair in factors.items():
        key_a, key_b = factor_keys(site)
        tensors |= {key_a: pair.a, key_b: pair.b * factor}
    reference = backbone.reference
    entries = manifest_of(task, stage, reference, combine) | dict(manifest or {})
    return write_adapter(folder, tensors, config_of(backbone, factors, rank, alpha), entries, {"README.md": "card\n"})


def config_of(backbone: Backbone, factors: Mapping[str, Factor], rank: int, alpha: float) -> dict[str, Any]:
    """Return an adapter_config.json."""
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(factors),
        "task_type": "SEQ_2_SEQ_LM" if backbone.kind == "seq2seq" else "CAUSAL_LM",
        "fan_in_fan_out": "gpt2" in type(backbone.model).__name__.lower(),
        "base_model_name_or_path": backbone.reference.id,
    }


def data_of(name: str, labels: Sequence[str] = LABELS) -> dict[str, Any]:
    """Return a manifest's entry of the data of a training."""
    return {
        "name": name,
        "source": "made up",
        "fingerprint": "0" * 64,
        "template": "plain",
        "metric": "exact-match",
        "labels": list(labels),
        "train_rows": 24,
        "notes": [],
    }


def manifest_of(task: str, stage: int, reference: ModelReference, combine: str = "sum") -> dict[str, Any]:
    """Return a manifest as training records it, but for schema and files."""
    return {
        "task": task,
        "stage": stage,
        "method": {
            "name": "inc-lora",
            "options": {"inc-lora": {}},
            "past": "sum",
            "start": "fresh",
            "combine": combine,
        },
        "base_model": {
            "id": reference.id,
            "kind": reference.kind,
            "revision": None,
            "fingerprint": reference.fingerprint,
        },
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": []},
        "parents": [],
        "data": data_of(task),
        "training": {"lr": 0.001},
        "seed": 42,
        "argv": ["clora", "train-task"],
        "scores": {"last_step": {"loss": 1.0}},
        "versions": {},
    }


def options_for(model: Path, task: Path, package: Path, **chosen: Any) -> TrainOptions:
    """Return the options of a short run on the CPU."""
    defaults = {"rank": 2, "alpha": 4, "max_steps": 3, "batch_size": 4, "lr": 1e-2, "device": "cpu"}
    return TrainOptions(**{**defaults, "model": str(model), "data": str(task), "package": package, **chosen})


def train(model: Path, task: Path, package: Path, **chosen: Any) -> AdapterFolder:
    """Train a short run and return its folder."""
    return train_task(make_plan(options_for(model, task, package, **chosen)), argv=["clora", "train-task"])[0]


def one_line(result: Any) -> str:
    """Check that a command's error is one line on stderr and nothing on stdout; return it."""
    assert result.out == ""
    assert result.err.startswith("error: "), result.err
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    return str(result.err)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Signals(Silent):
    """Sends this process a signal after so many steps, and keeps what it was told."""

    def __init__(self, after=0, number=signal.SIGINT):
        self.after, self.number, self.steps = after, number, 0
        self.warnings, self.notes = [], []

    def warn(self, text):
        self.warnings.append(text)

    def note(self, text):
        self.notes.append(text)

    @contextlib.contextmanager
    def track(self, title, total):
        def advance(done, status):
            self.steps += done
            if self.steps == self.after:
                os.kill(os.getpid(), self.number)

        yield advance


def continued(plan, after=2, number=signal.SIGINT, **given):
    """Return the adapter of a run that a signal interrupts after so many steps and that then goes on."""
    with pytest.raises(InterruptedRunError):
        train_task(plan, progress=Signals(after, number), **given)
    return train_task(plan, resume=True, **given)[0]


def check_source_given(kind: str, name: str) -> None:
    """Check that a plug-in's docstring begins with a sentence and names its source."""
    text = registry.load(kind, name).__doc__
    assert text.splitlines()[0].endswith(".")
    assert "    References:" in text
    assert re.search(r"arXiv:|RFC \d", text)


def check_numbers_refused(kind: str, name: str, message: str, texts: Callable[[str], Sequence[str]]) -> None:
    """Check that every number among a plug-in's options refuses these texts, with a message that names the option."""
    plugin = registry.load(kind, name)
    for option, parameter in registry.options(plugin).items():
        if float in (parameter.annotation, *get_args(parameter.annotation)):
            for text in texts(option):
                with pytest.raises(OptionError, match=message.format(option=option, name=name)):
                    plugin(**registry.bind(plugin, name, {option: text}))


def trainer_for(plan: Any, built: Any) -> Any:
    """Return the Trainer of a run whose methods have not begun."""
    from clora_cli.training.fit import encoded_rows, methods_of, trainer_of

    items = encoded_rows(plan, built)
    return trainer_of(plan, built, items, methods_of(plan, built, items))


def run_of(plan: Any, built: Any, progress: Any = None) -> Any:
    """Return a run as its first method sees it."""
    from clora_cli.training.fit import encoded_rows
    from clora_cli.training.run import TrainingRun

    return TrainingRun(next(iter(plan.method.parts)), plan, built, encoded_rows(plan, built), progress)
