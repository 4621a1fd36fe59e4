"""Adapters that were trained without clora, by plain PEFT code, become one model that finds each input's adapter.

    python examples/plain-peft.py [FOLDER] [STEPS]

1. Two LoRA adapters are trained on JSON lines with Transformers, PEFT and a loop written by hand, each by "someone else".
2. `clora stat-features` gives each of them a feature distribution: one pass over its data through the base model.
3. `clora expand` puts them together, without training, and `clora eval --combine route` scores the result on both tasks
   without being told which input belongs to which.

On the bundled clora-nano and rows of two bundled tasks, in some two minutes on one core.
"""

# ruff: noqa: T201 - an example may print
from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from clora_cli.data import load_task
from clora_cli.nano import MODEL_PATH  # the bundled model is an ordinary Transformers folder

warnings.filterwarnings("ignore", module="peft|transformers")
logging.disable_progress_bar()
TASKS = {"desk": "topics-news", "mood": "sentiment-binary"}  # what they are called here, and the bundled rows
Rows = list[dict[str, str]]


def clora(*words: str) -> str:
    """Show a clora command, run it, and return what it prints."""
    print(f"$ clora {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "clora_cli", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def write_rows(folder: Path, bundled: str) -> Path:
    """Write a task as train, dev and test files of JSON lines with a prompt and its completion."""
    task = load_task(bundled)
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in (("train", task.train), ("dev", task.dev), ("test", task.test)):
        rows = [{"prompt": example.prompt, "completion": example.references[0]} for example in examples]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def batches(rows: Rows, tokenizer: PreTrainedTokenizerBase, steps: int, size: int = 16) -> Iterator[dict]:
    """Yield padded batches in random order; prompts and padding are no labels."""
    order: list[int] = []
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(len(rows)).tolist()
        texts = [rows[order.pop()] for _ in range(size)]
        prompts = [tokenizer(row["prompt"])["input_ids"] for row in texts]
        answers = [
            tokenizer(f" {row['completion']}", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            for row in texts
        ]
        width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
        for prompt, answer in zip(prompts, answers, strict=True):
            rest = width - len(prompt) - len(answer)
            batch["input_ids"].append(prompt + answer + [tokenizer.pad_token_id] * rest)
            batch["labels"].append([-100] * len(prompt) + answer + [-100] * rest)
            batch["attention_mask"].append([1] * (width - rest) + [0] * rest)
        yield {name: torch.tensor(values) for name, values in batch.items()}


def train(data: Path, folder: Path, steps: int) -> Path:
    """Train a LoRA as any PEFT script does, and save it as PEFT saves it."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    base = AutoModelForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=6e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, steps)
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    for batch in batches(rows, tokenizer, steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)
    print(f"{folder}: {steps} steps of plain PEFT, loss {loss.item():.3f}")
    return folder


def main() -> None:
    """Do all of it, in the folder that the command line names."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "plain-peft")
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 150
    data = {name: write_rows(root / "data" / name, bundled) for name, bundled in TASKS.items()}
    adapters = [train(data[name], root / f"{name}-author" / name, steps) for name in TASKS]

    for adapter in adapters:
        clora("stat-features", str(adapter), "--data", str(data[adapter.name]), "--second-moment", "full")
    package = str(root / "expanded.pkg")
    print(clora("expand", *map(str, adapters), "--out", package))
    both = [word for name in TASKS for word in ("--data", str(data[name]))]
    print(clora("eval", package, "--combine", "route", *both))


if __name__ == "__main__":
    main()
