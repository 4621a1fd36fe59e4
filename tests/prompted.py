"""Prompt-tuning folders that PEFT writes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import set_seed

CONFIGS = {"PROMPT_TUNING": PromptTuningConfig, "P_TUNING": PromptEncoderConfig}


def peft_prompt(
    base: Any,
    out: Path,
    tokens: int = 4,
    seed: int = 1,
    steps: int = 0,
    kind: str = "PROMPT_TUNING",
    scale: float = 0.5,
) -> Path:
    """Let PEFT make a soft prompt, train it for some steps on random tokens, and write it.

    Args:
        base: A loaded backbone, whose model is left as it was.
        out: The folder.
        tokens: Virtual tokens.
        seed: Of its start and of the rows.
        steps: Of AdamW.
        kind: PEFT's.
        scale: Standard deviation of its start.
    """
    set_seed(seed)
    seq2seq = base.kind == "seq2seq"
    config = CONFIGS[kind](
        task_type="SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM",
        num_virtual_tokens=tokens,
        base_model_name_or_path=str(base.reference.path),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base.model, config)
        if kind == "PROMPT_TUNING":
            torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight, std=scale)
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.1)
        for _ in range(steps):
            ids = torch.randint(5, base.model.config.vocab_size, (4, 8))
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(str(out))
    return out


def through_peft(base: Any, adapter: Path) -> Any:
    """Return a base model with a soft prompt as PEFT reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(base.model, str(adapter)).eval()
