"""Peak memory of whole training processes at the first task and at a later one, for several methods.

A random model of Llama's architecture with the bundled tokenizer learns tasks of a few steps, one ``clora train-task`` process
each; the kernel's record of the largest resident memory of the first and of the last process are compared. The rest of a
process (interpreter, libraries, base model) is in both; what is left is what a method keeps of earlier tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from clora_cli.nano import MODEL_PATH

LABELS = ("great", "poor")


def make_model(folder: Path, hidden: int, layers: int) -> None:
    """Write a random model with the bundled tokenizer."""
    vocabulary = json.loads((MODEL_PATH / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in MODEL_PATH.glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)


def make_task(path: Path, number: int) -> None:
    """Write a task of a few rows."""
    rows = [{"prompt": f"task {number}, text {row}:", "completion": LABELS[row % 2]} for row in range(64)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def peak(arguments: list[str]) -> int:
    """Run a command; return its process's largest resident memory in KiB."""
    process = os.posix_spawn(sys.executable, [sys.executable, "-m", "clora_cli", *arguments], os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit(f"clora {' '.join(arguments)} failed")
    return usage.ru_maxrss


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=["cast", "per-task", "inc-lora", "o-lora"])
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rank", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_model(root / "model", options.hidden, options.layers)
        for method in options.methods:
            peaks = []
            for number in range(options.tasks):
                make_task(root / f"task-{number}.jsonl", number)
                run = ["train-task", "--method", method, "--data", str(root / f"task-{number}.jsonl"), "-q"]
                run += ["--model", str(root / "model"), "--package", str(root / method), "--device", "cpu"]
                if method == "cast":
                    run += ["-o", f"trim=density,density={0.5 / options.tasks:g}"]
                peaks.append(peak([*run, "--rank", str(options.rank), "--max-steps", "4", "--batch-size", "4"]))
            first, last = peaks[0] / 1024, peaks[-1] / 1024
            print(
                f"{method:<10} first {first:7.1f} MiB   task {options.tasks} {last:7.1f} MiB   ratio {last / first:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
