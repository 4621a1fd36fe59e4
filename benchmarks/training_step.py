"""Seconds of a training step: as PEFT and Transformers compute it, with logits at answers alone, and with a shared beginning.

Three ways to the same loss and gradients of the new LoRA, in turns in one process:

- ``plain``: the model is given rows and labels and returns its loss, as under a ``Trainer``;
- ``answers``: logits at the answers' positions alone;
- ``beginning``: besides, the tokens that all rows begin with are run once, as ``clora train-task`` does where it can.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.base.progress import Silent
from clora_cli.data import Collator
from clora_cli.options import TrainOptions
from clora_cli.training import make_plan
from clora_cli.training.answer_logits import only_answers
from clora_cli.training.build import Built, build
from clora_cli.training.fit import encoded_rows
from clora_cli.training.loop import answer_loss
from clora_cli.training.plan import Plan
from clora_cli.training.sparing import Sparing

WAYS = ("plain", "answers", "beginning")
WORDS = "river glass quiet paper motion garden silver window market letter mountain engine summer copper signal".split()
LABELS = ["company", "school", "artist", "athlete", "office", "transport", "building", "nature", "village", "animal"]


def write_task(folder: Path, words: int, labels: int) -> Path:
    """Write a labelled task of random words; its prompts begin with an instruction that lists the labels."""
    chosen, names = random.Random(0), LABELS[:labels]
    asked = f"What is the following text about? Choose one of {', '.join(names)}.\nText:"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        texts = [" ".join(chosen.choices(WORDS, k=words + chosen.randrange(words))) for _ in range(40)]
        rows = [{"text": f"{asked} {text}", "label": names[i % labels]} for i, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tiny(folder: Path) -> Path:
    """Write a random Llama of four layers with the bundled model's tokenizer."""
    import shutil

    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from clora_cli.nano import MODEL_PATH

    size = len(AutoTokenizer.from_pretrained(MODEL_PATH))
    config = LlamaConfig(
        vocab_size=size, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8
    )
    config.num_key_value_heads = 4
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL_PATH / file, folder / file)
    return folder


class Step:
    """A run's model and one micro-batch, forward and backward in several ways."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.built: Built = build(plan, Silent())
        items = encoded_rows(plan, self.built)[: plan.options.batch_size]
        collate = Collator(self.built.backbone.tokens)
        self.batch = {name: tensor.to(device) for name, tensor in collate(items).items()}
        self.model: nn.Module = self.built.model.train()
        self.sparing = Sparing(self.built, plan.options, lambda: False)

    def seconds(self, way: str) -> tuple[float, list[Tensor]]:
        """Run a step; return its seconds and the gradients."""
        self.model.zero_grad()
        began = self._now()
        if way == "plain":
            loss = self.model(**self.batch).loss
        else:
            with self._inputs(way) as inputs:
                labels = inputs["labels"]
                outputs = self.model(**{name: value for name, value in inputs.items() if name != "labels"})
                loss = answer_loss(True)(outputs, labels)
        loss.backward()
        took = self._now() - began
        return took, [p.grad.clone() for p in self.model.parameters() if p.grad is not None]

    @contextlib.contextmanager
    def _inputs(self, way: str) -> Iterator[Mapping[str, Any]]:
        if way == "beginning":
            with self.sparing.forward(self.batch) as inputs:
                yield inputs
        else:
            with only_answers(self.model, self.batch["labels"], True):
                yield self.batch

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def shared(self) -> int:
        """Return how many tokens are run once."""
        with self.sparing.forward(self.batch) as inputs:
            return self.batch["labels"].shape[1] - inputs["labels"].shape[1]


def compared(step: Step, turns: int, ways: Sequence[str]) -> list[str]:
    """Return the table's rows beside the first way's: medians over turns, each of which begins with another way."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    slopes: dict[str, list[Tensor]] = {}
    for turn in range(-1, turns):  # the first one is not counted: allocators settle, the beginning is tried out
        for way in (*ways[turn % len(ways) :], *ways[: turn % len(ways)]):
            took, slopes[way] = step.seconds(way)
            if turn >= 0:
                seconds[way].append(took)
    norm = torch.stack([one.double().norm() for one in slopes[ways[0]]]).norm()
    rows = []
    for way in ways:
        pairs = zip(slopes[way], slopes[ways[0]], strict=True)
        apart = torch.stack([(one - other).double().norm() for one, other in pairs]).norm() / norm
        ratio = median(first / own for first, own in zip(seconds[ways[0]], seconds[way], strict=True))
        rows.append(f"| {way} | {median(seconds[way]):.3f} | {ratio:.2f} | {apart.item():.0e} |")
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a model's folder; a random Llama of four layers unless given")
    parser.add_argument("--data", help="a task; random words under an instruction with ten labels unless given")
    parser.add_argument("--words", type=int, default=40, help="least number of words of a random text")
    parser.add_argument("--steps", type=int, default=20, help="turns that count")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=WAYS, help="the first is what others are compared with"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        chosen = TrainOptions(
            model=options.model or str(tiny(folder / "model")),
            data=options.data or str(write_task(folder / "words", options.words, len(LABELS))),
            package=folder / "package",
            batch_size=options.batch_size,
            max_steps=1,
            device=options.device,
            dtype=options.dtype,
        )
        step = Step(make_plan(chosen), torch.device(options.device))
        rows, width = step.batch["input_ids"].shape
        print(f"{rows} rows of at most {width} tokens, which begin with the same {step.shared()}\n")
        print(f"| step | s | {options.ways[0]} / it | gradients differ by |", "|---|--:|--:|--:|", sep="\n")
        print("\n".join(compared(step, options.steps, options.ways)))


if __name__ == "__main__":
    main()
