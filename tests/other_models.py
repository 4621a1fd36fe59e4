"""Tiny models of architectures with experts, with vision, with state spaces: what adapters from elsewhere stand on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support import llama_tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BartConfig,
    BartForConditionalGeneration,
    DeepseekV2Config,
    FalconH1Config,
    Gemma3Config,
    Gemma3TextConfig,
    Gemma4Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Qwen2MoeConfig,
    set_seed,
)

from clora_cli.model.bank import AdapterBank
from clora_cli.store.adapter_folder import read_adapter

SIZE = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.3,
}
TEXT = {**SIZE, "head_dim": 8, "sliding_window": 8}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA4 = {**TEXT, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 320, "num_kv_shared_layers": 0}
VISION4 = {key: VISION[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
VISION4 |= {"num_key_value_heads": 2, "head_dim": 8}
IMAGES = {"mm_tokens_per_image": 4, "image_token_index": 3, "boi_token_index": 4, "eoi_token_index": 5}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
LATENT = {"num_key_value_heads": 2, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
LATENT |= {"v_head_dim": 8, "first_k_dense_replace": 2}
MAMBA = {"mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
BART = {"vocab_size": 320, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "scale_embedding": True}
BART |= {
    f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("attention_heads", 2), ("ffn_dim", 24))
}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SIZE),
    "gpt2": lambda: GPT2Config(vocab_size=320, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3),
    "gemma3": lambda: Gemma3TextConfig(**TEXT),
    "gemma3-vision": lambda: Gemma3Config(
        text_config=TEXT, vision_config=VISION, **IMAGES, bos_token_id=0, eos_token_id=1, pad_token_id=2
    ),
    "gemma4-vision": lambda: Gemma4Config(text_config=GEMMA4, vision_config=VISION4, audio_config=None),
    "mixtral": lambda: MixtralConfig(**SIZE, num_local_experts=4),
    "qwen2-moe": lambda: Qwen2MoeConfig(**SIZE, **EXPERTS),
    "falcon-h1": lambda: FalconH1Config(**SIZE, **MAMBA),
    "deepseek": lambda: DeepseekV2Config(**SIZE | LATENT),
    "bart": lambda: BartConfig(**BART, decoder_start_token_id=1, bos_token_id=0, eos_token_id=1, pad_token_id=2),
}
CLASSES = {"gemma3-vision": AutoModelForImageTextToText, "bart": BartForConditionalGeneration}
IDS = torch.randint(3, 320, (3, 7), generator=torch.Generator().manual_seed(5))


def model_of(family: str, path: Path | None = None) -> Any:
    """Return a family's model of random weights, or the one that a folder holds."""
    cls = CLASSES.get(family, AutoModelForCausalLM)
    if path is not None:
        return cls.from_pretrained(path).eval()
    set_seed(0)
    config = CONFIGS[family]()
    return (cls(config) if family == "bart" else cls.from_config(config)).eval()


def save_other(family: str, folder: Path) -> Path:
    """Save a family's model with a tokenizer, so that commands can take it."""
    model_of(family).save_pretrained(folder)
    llama_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """Return the answers to a few random inputs, shape (input, token, vocabulary)."""
    extra = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    return model(input_ids=IDS, **extra).logits


def through_peft(model: Any, adapter: Path) -> Tensor:
    """Return the answers of a model with an adapter as PEFT reads and adds it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return logits(PeftModel.from_pretrained(model, str(adapter)).eval())


def through_bank(model: Any, *adapters: Path) -> Tensor:
    """Return the answers of a model with adapters as clora reads and adds them; the model is left as it was."""
    bank = AdapterBank(model)
    bank.activate([read_adapter(path).on(bank.places).deltas() for path in adapters])
    found = logits(model)
    bank.clear()
    return found


def peft_adapter(family: str, out: Path, targets: Sequence[str] | str, seed: int = 1, **settings: Any) -> Path:
    """Let PEFT write an adapter of random numbers."""
    set_seed(seed)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(model_of(family), config).save_pretrained(str(out))
    return out


def edit(adapter: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> Path:
    """Change the tensors of an adapter's file."""
    file = adapter / "adapter_model.safetensors"
    save_file(dict(change(load_file(file))), file, metadata={"format": "pt"})
    return adapter


def expert_adapter(out: Path, seed: int = 1, leaves: Sequence[str] = ("w1", "w2", "w3")) -> Path:
    """Write an adapter of Mixtral's experts as PEFT did when each of them was a layer."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    shapes = {"w1": (24, 16), "w2": (16, 24), "w3": (24, 16)}
    for place in (f"model.layers.{layer}.block_sparse_moe.experts.{expert}" for layer in (0, 1) for expert in range(4)):
        for leaf in leaves:
            rows, columns = shapes[leaf]
            site = f"base_model.model.{place}.{leaf}"
            tensors[f"{site}.lora_A.weight"] = torch.randn(4, columns, generator=generator) / 2
            tensors[f"{site}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) / 2
    out.mkdir(parents=True)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "bias": "none", "target_modules": list(leaves)}
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out
