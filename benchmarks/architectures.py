"""What works with which architecture: tiny random models, one step of training, every command, and PEFT beside it.

Each model is made on the spot from its configuration. Its commands run in this process; what they wrote, and adapters that
PEFT wrote, are put into the model by clora and by PEFT, and the answers compared.

    python benchmarks/architectures.py                      # all of them, about ten minutes on two cores
    python benchmarks/architectures.py --only gpt2 mixtral
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from clora_cli.base.errors import CloraError
from clora_cli.cli import main
from clora_cli.model.backbone import load_backbone, load_skeleton
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_model import ModelReference, find_model
from clora_cli.model.linear_layers import find_sites
from clora_cli.nano import MODEL_PATH
from clora_cli.store.adapter_folder import read_adapter

VOCABULARY = 2400
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
GROUPED = {**SIZE, "num_key_value_heads": 2}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GEMMA = {**GROUPED, "head_dim": 8, "sliding_window": 16}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "max_position_embeddings": 256,
}
BART |= {
    f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("attention_heads", 4), ("ffn_dim", 64))
}
HYBRID = {**GROUPED, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}

CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(
        **{"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2},
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZE),
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=8),
    "gemma3 text": lambda: transformers.Gemma3TextConfig(**GEMMA),
    "gemma3 vision": lambda: transformers.Gemma3Config(
        text_config=GEMMA,
        vision_config=VISION,
        **{"mm_tokens_per_image": 4, "image_token_index": 3, "boi_token_index": 4, "eoi_token_index": 5},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=4),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(**GROUPED, **EXPERTS, shared_expert_intermediate_size=16),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**GROUPED, **EXPERTS, head_dim=8),
    "falcon": lambda: transformers.FalconConfig(**SIZE),
    "bloom": lambda: transformers.BloomConfig(
        **{"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "phi3": lambda: transformers.Phi3Config(**GROUPED),
    "falcon_h1": lambda: transformers.FalconH1Config(**HYBRID),
    "t5": lambda: transformers.T5Config(**T5, decoder_start_token_id=0, pad_token_id=0, eos_token_id=2),
    "bart": lambda: transformers.BartConfig(
        **BART, **{"decoder_start_token_id": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    ),
    "bert": lambda: transformers.BertConfig(**{k: v for k, v in SIZE.items() if k != "bos_token_id"}),
}
# What older files call layers: the name now, and what stood there.
OLDER = {
    "gemma3 vision": ("base_model.model.model.language_model.", "base_model.model.language_model.model."),
    "gpt2": ("base_model.model.transformer.", "base_model.model."),
}
EXPERT_LAYERS = {
    "mixtral": ("block_sparse_moe.experts", {"w1": (64, 32), "w2": (32, 64), "w3": (64, 32)}),
    "qwen2_moe": ("mlp.experts", {"gate_proj": (16, 32), "up_proj": (16, 32), "down_proj": (32, 16)}),
    "qwen3_moe": ("mlp.experts", {"gate_proj": (16, 32), "up_proj": (16, 32), "down_proj": (32, 16)}),
}
COLUMNS = (
    *("train", "train all-linear", "eval", "features", "route", "merge", "own", "all-linear", "head", "embeddings"),
    *("older names", "merged"),
)
COMBINE = ("sum", "last", "route", "task-id", "none", "magmax", "average")
IDS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))


def clora(*words: object) -> str:
    """Run a command line in this process; return its output.

    Raises:
        RuntimeError: If it ends in an error, with the line that it printed.
    """
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["clora", *map(str, words)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    if code:
        raise RuntimeError(f"exit {code}: {err.getvalue().strip().splitlines()[-1]}")
    return out.getvalue()


def loader(reference: ModelReference) -> Any:
    """Return Transformers' class for a base model of its kind."""
    if reference.kind == "encoder":
        return transformers.AutoModel
    return transformers.AutoModelForSeq2SeqLM if reference.kind == "seq2seq" else transformers.AutoModelForCausalLM


def answers(model: Any, kind: str) -> Tensor:
    """Return the logits of a few random inputs, or an encoder's last states."""
    extra = {"decoder_input_ids": IDS} if kind == "seq2seq" else {}
    with torch.no_grad():
        output = model(input_ids=IDS, **extra)
    return output.last_hidden_state if kind == "encoder" else output.logits


def ours(reference: ModelReference, adapter: Path) -> Tensor:
    """Return the answers with an adapter as clora reads and adds it."""
    backbone = load_backbone(reference, device=torch.device("cpu"))
    bank = AdapterBank(backbone.model)
    bank.activate([read_adapter(adapter).on(bank.places).deltas()])
    return answers(backbone.model, reference.kind)


def theirs(reference: ModelReference, adapter: Path | None = None) -> Tensor:
    """Return the answers with an adapter as PEFT reads and adds it, or those of the base model."""
    model = loader(reference).from_pretrained(reference.path).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    return answers(model, reference.kind)


def compared(reference: ModelReference, adapter: Path, peft: Path | None = None) -> str:
    """Return the largest difference between both ways, and refuse to compare where an adapter does nothing.

    Args:
        reference: The base model.
        adapter: The adapter.
        peft: What PEFT loads in its place.
    """
    suffix = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = theirs(reference, peft or adapter)
    if any("missing adapter keys" in str(one.message) for one in caught):
        made = adapter.with_name(
            f"{adapter.name} merged"
        )  # PEFT leaves something out: the weights themselves are asked
        clora("merge", adapter, "--into-model", made, "--model", reference.path)
        expected = theirs(find_model(str(made)))
        suffix = " (merged)"
    effect = (expected - theirs(reference)).abs().max().item()
    difference = (ours(reference, adapter) - expected).abs().max().item()
    if not effect:
        raise RuntimeError("it has no effect")
    return f"{difference / effect:.0e}{suffix}"


def foreign(reference: ModelReference, out: Path, targets: Sequence[str]) -> Path:
    """Let PEFT write an adapter of random numbers."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False)
    model = get_peft_model(loader(reference).from_pretrained(reference.path), config)
    model.save_pretrained(str(out))
    return out


def module_name(reference: ModelReference, which: str) -> str:
    """Return the path of a model's input or output embeddings; an encoder-decoder's are its encoder's."""
    model = load_skeleton(reference)
    part = model.get_encoder() if reference.kind == "seq2seq" and which == "input" else model
    wanted = getattr(part, f"get_{which}_embeddings")()
    return next((name for name, module in model.named_modules() if module is wanted), "")


def older(name: str, reference: ModelReference, folder: Path) -> str:
    """Compare an adapter whose names are those of an earlier day."""
    out = folder / "older"
    if name in EXPERT_LAYERS:
        holder, layers = EXPERT_LAYERS[name]
        generator, tensors = torch.Generator().manual_seed(1), {}
        for place in (f"model.layers.{layer}.{holder}.{expert}" for layer in range(2) for expert in range(4)):
            for leaf, (rows, columns) in layers.items():
                site = f"base_model.model.{place}.{leaf}"
                tensors[f"{site}.lora_A.weight"] = torch.randn(4, columns, generator=generator) / 4
                tensors[f"{site}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) / 4
        out.mkdir()
        save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": list(layers), "bias": "none"}
        (out / "adapter_config.json").write_text(json.dumps(config))
        return compared(reference, out)
    if name not in OLDER:
        return ""
    now, before = OLDER[name]
    new = foreign(reference, folder / "newer", list(find_sites(load_skeleton(reference))))
    shutil.copytree(new, out)
    tensors = {key.replace(now, before): value for key, value in load_file(new / "adapter_model.safetensors").items()}
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    return compared(reference, out, new)


def checks(name: str, reference: ModelReference, folder: Path) -> dict[str, Callable[[], object]]:
    """Return what is done with a model, by the table's columns, in order."""
    model, package = reference.path, folder / "package"
    train = ("train-task", "-m", model, "--max-steps", 1, "--batch-size", 2, "--lr", 0.05)
    members = [package / "a", package / "b"]
    bare = foreign(reference, folder / "theirs", list(find_sites(load_skeleton(reference))))
    linear = foreign(reference, folder / "linear", [s for s in find_sites(load_skeleton(reference), ["all-linear"])])
    rows = folder / "a.jsonl"

    def evaluate() -> str:
        for combine in COMBINE:
            clora("eval", package, "-m", model, "--data", rows, "--combine", combine, "--score", "labels")
        clora("eval", package, "-m", model, "--data", rows, "--combine", "sum", "--test-rows", 2)
        return f"{len(COMBINE)} ways"

    def merged() -> str:
        made = folder / "model"
        difference = theirs(find_model(str(made))) - theirs(reference, bare)
        effect = (theirs(reference) - theirs(reference, bare)).abs().max()
        return f"{(difference.abs().max() / effect).item():.0e}"

    def tasks() -> None:
        for data in ("a", "b"):
            clora(*train, "--data", folder / f"{data}.jsonl", "-p", package)

    answering = {
        "train": tasks,
        "train all-linear": lambda: clora(
            *train, "--data", rows, "-p", folder / "all", "--target-modules", "all-linear"
        ),
        "features": lambda: clora(
            "stat-features", *members, "--data", f"a={rows}", "--data", f"b={rows}", "--limit", 12
        ),
        "route": lambda: clora("route", package, "--data", rows, "--limit", 12),
        "eval": evaluate,
    }
    features = ("stat-features", bare, "--data", rows, "--limit", 12, "--model", model)
    encoding = {
        "features": lambda: clora(*features, "--source", "adapted"),
        "route": lambda: clora("route", bare, "--data", rows, "--limit", 12, "--model", model),
    }
    head = module_name(reference, "output")
    return {
        **(encoding if reference.kind == "encoder" else answering),
        "merge": lambda: clora("merge", bare, "--into-model", folder / "model", "--model", model) and None,
        "own": lambda: compared(reference, bare if reference.kind == "encoder" else members[0]),
        "all-linear": lambda: compared(reference, linear),
        "head": lambda: compared(reference, foreign(reference, folder / "head", [head])) if head else "",
        "embeddings": lambda: compared(
            reference, foreign(reference, folder / "table", [module_name(reference, "input")])
        ),
        "older names": lambda: older(name, reference, folder),
        "merged": merged,
    }


def tried(name: str, verbose: bool) -> dict[str, str]:
    """Do everything with one architecture; return what came of it by column."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = CONFIGS[name]()
        torch.manual_seed(0)
        kinds = {"t5": "Seq2SeqLM", "bart": "Seq2SeqLM", "gemma3 vision": "ImageTextToText"}
        auto = f"AutoModelFor{kinds.get(name, 'CausalLM')}" if name != "bert" else "AutoModel"
        getattr(transformers, auto).from_config(config).save_pretrained(folder / "base")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MODEL_PATH / file, folder / "base" / file)
        for task in ("a", "b"):
            lines = ({"text": f"{task} {i} {'good' if i % 2 else 'bad'}", "label": f"{i % 2}"} for i in range(20))
            (folder / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        reference = find_model(str(folder / "base"))
        for column, check in checks(name, reference, folder).items():
            try:
                result = check()
                found[column] = result if isinstance(result, str) and "\n" not in result and result != "" else ""
                found[column] = "ok" if column in COLUMNS[:6] and column != "eval" else found[column]
            except (CloraError, RuntimeError, ValueError, KeyError, AttributeError, OSError, TypeError) as error:
                found[column] = "no"
                print(f"{name}, {column}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
                if verbose:
                    traceback.print_exc()
    return found


def report() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--verbose", action="store_true", help="with tracebacks")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    print(f"| | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name in options.only:
        found = tried(name, options.verbose)
        print(f"| {name} | {' | '.join(found.get(column, '') for column in COLUMNS)} |", flush=True)


if __name__ == "__main__":
    report()
