"""What large models take of each process, worked out on shapes alone; writes the tables of docs/scale.md.

    python benchmarks/scale.py > docs/scale.md

Nothing is downloaded and no weight is made: models of the published shapes stand on PyTorch's meta device, where
the forward pass is run for what it would keep (``clora_cli.model.footprint``). It is what ``train-task --dry-run`` does for
the model and the data at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from clora_cli.model.footprint import Batch, footprint
from clora_cli.training.forecast import Forecast, in_units, numbers, of_process

SHAPES = {  # of the published models, LoRA of rank 8 on query and value projections
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "405B": {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128},
}
ANSWER = 8  # tokens of a row's answer
LENGTH = 512


@dataclass(frozen=True)
class Case:
    """A model on a machine.

    Attributes:
        model: Of ``SHAPES``.
        machine: In words.
        memory: Of one GPU, in GiB.
        processes: One for each GPU.
        shard: Whether the base model is divided.
        rows: Of one process in a forward pass.
        recomputes: Whether activations are recomputed.
        weight: Bytes of a weight.
    """

    model: str
    machine: str
    memory: int
    processes: int
    shard: bool
    rows: int
    recomputes: bool
    weight: float = 2

    @property
    def options(self) -> str:
        """The options that make the difference."""
        words = [f"--nproc {self.processes}"] if 1 < self.processes <= 8 else []
        words += ["--shard"] * self.shard + ["--gradient-checkpointing"] * self.recomputes
        words += ["--quantize 4bit"] * (self.weight < 1)
        return f"`{' '.join([*words, f'--batch-size {self.rows * self.processes}'])}`"


CASES = [
    Case("8B", "1 x 24 GB", 24, 1, False, 1, False),
    Case("8B", "1 x 24 GB", 24, 1, False, 4, True),
    Case("8B", "1 x 24 GB", 24, 1, False, 2, False, 0.5),
    Case("8B", "2 x 24 GB", 24, 2, True, 2, False),
    Case("70B", "8 x 80 GB", 80, 8, False, 1, True),
    Case("70B", "8 x 80 GB", 80, 8, True, 1, False),
    Case("70B", "8 x 80 GB", 80, 8, True, 8, True),
    Case("405B", "4 nodes of 8 x 80 GB", 80, 32, True, 1, False),
    Case("405B", "4 nodes of 8 x 80 GB", 80, 32, True, 2, True),
]


def forecast_of(case: Case) -> tuple[int, Forecast]:
    """Return a model's numbers, and what each process needs."""
    config = LlamaConfig(**SHAPES[case.model], num_key_value_heads=8, vocab_size=128256, torch_dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).requires_grad_(False)
    around, *blocks = numbers(model)
    sizes = [
        2.0 * around,
        *(case.weight * block for block in blocks),
    ]  # what stands outside the blocks is not quantised
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"])).train()
    trainable = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    seen = footprint(adapted, Batch(case.rows, LENGTH, ANSWER, case.rows * ANSWER))
    divided = sizes if case.shard else []
    kept = seen.recomputed if case.recomputes else seen.kept
    # Once forward and once backward; recomputing happens on the way back, with weights that are together already.
    needed = of_process(case.processes, sum(sizes), divided, 0, trainable, kept, seen.logits, passes=2)
    return around + sum(blocks), needed


HEAD = f"""\
# Large models

<!-- Written by benchmarks/scale.py; do not edit. -->

What one process, on one GPU, needs for models of Llama's shapes in bfloat16, LoRA of rank 8 on query and value projections, rows of
{LENGTH} tokens with answers of {ANSWER}. `clora train-task --dry-run` tells the same for the model, data and options at hand.

**Worked out, not measured: no GPU was at hand.** On a CPU the activations of such a forecast are those of a real pass within 10 %
(`tests/model/test_footprint.py`), and each of two processes keeps half of the base model (`tests/training/test_engines.py`).

| model | on | options | base | put together | adapter, AdamW | activations | logits | all | fits | sent in a step |
|---|---|---|---|---|---|---|---|---|---|---|"""

TAIL = """
## The arithmetic

With N processes, P numbers in the base model of w bytes each (2 in bfloat16), T trained numbers:

- **Base**: P w on each process, or P w / N with `--shard`. All of it is read in these slices. In 4 bit the blocks have w = 0.5, what
  stands outside of them 2.
- **Put together** (`--shard`): the weights of two blocks, the one that runs and the next, and what stands outside the blocks
  (embeddings, output layer, last norm), which stays together from the forward to the backward pass.
- **Adapter with AdamW**: 16 T bytes: weight, gradient and two moments in float32, whole on every process.
- **Activations**: what the forward pass keeps for the backward pass. A frozen layer keeps nothing of its input; norms, attention
  (fused: queries, keys, values, output, mask), the gated product, and the input of each adapted layer in float32 remain. With
  `--gradient-checkpointing`: what each block takes in, and one block's activations.
- **Logits**: only at the answers' positions: logits, logarithms and the gradients of both.
- **Earlier adapters** add what their files hold, however many there are; `eval` adds keys and values of a batch instead of activations.
- **Not counted**: PyTorch's own half gigabyte, workspaces of kernels, fragments. "Fits" leaves 10 % of the memory for them.
- **Sent by each process in an optimizer step**: 2 (N - 1) / N 4 T bytes for the gradients; with `--shard` also (N - 1) / N P w for
  each pass over the blocks, forward and backward, of each micro-batch (`--grad-accum` times as much). A method with one more pass, such as
  `lwf`, adds half of that. Nothing is sent back for the base model: it has no gradients.

Between nodes the base model's part goes at the speed of the network: at 50 GB/s for each GPU, 405B's 1.6 TB take half a minute a
step. Larger micro-batches divide that by more rows; it is why the last lines have few rows and still a step that takes long.
"""


def main() -> None:
    """Print the page."""
    print(HEAD)
    for case in CASES:
        count, found = forecast_of(case)
        fits = "yes" if found.total < 0.9 * case.memory * 1e9 else "**no**"
        parts = [found.base, found.together, found.adapter, found.activations or 0, found.logits or 0, found.total]
        sizes = " | ".join(in_units(size) if size else "0" for size in parts)
        sent = in_units(found.sent) if found.sent else "0"
        print(f"| {case.model} ({count / 1e9:.1f} G) | {case.machine} | {case.options} | {sizes} | {fits} | {sent} |")
    print(TAIL, end="")


if __name__ == "__main__":
    main()
