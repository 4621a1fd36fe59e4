"""Adapters travel both ways between clora and plain PEFT.

    python examples/peft-interop.py [FOLDER]

1. An adapter that clora trained is loaded with PEFT alone.
2. An adapter that PEFT saved, with no trace of clora, is scored by clora beside it.

On a clora-nano that learns for a few steps only, so the scores mean nothing; the point is that everything loads.
"""

# ruff: noqa: T201 - an example may print
from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from clora_cli.nano import MODEL_PATH  # the bundled model is an ordinary Transformers folder

warnings.filterwarnings("ignore", module="peft")


def clora(*words: str) -> str:
    """Run a clora command and return what it prints."""
    command = [sys.executable, "-m", "clora_cli", *words, "--quiet"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def load_with_peft(adapter: str) -> None:
    """Load an adapter of clora's as any PEFT adapter is loaded, and let it write."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    base = AutoModelForCausalLM.from_pretrained(MODEL_PATH)
    model = PeftModel.from_pretrained(base, adapter).eval()
    prompt = tokenizer("What is the sentiment of this comment?", return_tensors="pt")
    answer = model.generate(input_ids=prompt["input_ids"], max_new_tokens=5, do_sample=False)
    print(f"PEFT loads {adapter}: {model.peft_config['default'].peft_type.value}, writes {answer.shape[1]} tokens")


def save_with_peft(folder: Path) -> None:
    """Save a LoRA as any PEFT script does."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(MODEL_PATH)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(folder)


def main() -> None:
    """Do both, in the folder that the command line names."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "interop")
    task = "sentiment-binary"
    adapter = clora("train-task", "--data", task, "--package", str(root / "package"), "--max-steps", "4")
    load_with_peft(adapter)

    foreign = root / "from-peft"
    save_with_peft(foreign)
    # A bare PEFT folder names neither a task nor a combination, so the call does.
    score = clora(
        "eval", str(foreign), "--model", "clora-nano", "--data", task, "--combine", "last", "--test-rows", "20"
    )
    print(f"clora scores {foreign}: {score} %")


if __name__ == "__main__":
    main()
