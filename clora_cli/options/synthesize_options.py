"""Options of making rows with a model (layer L1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clora_cli.base.options import Options, option
from clora_cli.options.shared_options import LENGTHS, ROWS, dtype_option, quantize_option, seed_option

__all__ = ["SynthesizeOptions"]


@dataclass(frozen=True, kw_only=True)
class SynthesizeOptions(Options):
    """How to make rows of a package's tasks without keeping any.

    References:
        Huang et al., Mitigating Catastrophic Forgetting in Large Language Models with Self-Synthesized Rehearsal, ACL 2024,
        arXiv:2403.01244: the base model makes questions from examples in its prompt, the latest model answers them.
        Differs: only the body of a prompt is made; instruction and cue are those of the examples. Answers are the latest
        model's from the start, where the paper has the base model make both and the latest one refine the answer. Without the
        selection by clusters, which ``ssr`` has.
    """

    task: tuple[str, ...] = option(
        (), "Task of the package; repeatable. All of them by default.", flags=("-t", "--task"), recipe=False
    )
    rows: int = option(
        50, "Rows of each task.", flags=("-n", "--rows"), interval="[1, inf)", most=ROWS, table="synthesis"
    )
    out: Path = option(Path("pseudo.jsonl"), "JSON lines to write.", flags=("-o", "--out"), writes=True, recipe=False)
    examples: str | None = option(
        None,
        "Where the examples come from, as --data of clora train-task; the adapter's own training rows by default.",
        completes="task",
        recipe=False,
    )
    shots: int = option(2, "Examples in each prompt.", interval="[1, inf)", most=1000, table="synthesis")
    temperature: float = option(
        0.9, "Of the questions' tokens; 0 takes the likeliest.", interval="[0, inf)", most=100, table="synthesis"
    )
    top_k: int = option(
        0, "Draw them from so many of the likeliest; 0 from all.", interval="[0, inf)", table="synthesis"
    )
    top_p: float = option(
        1.0, "And from the likeliest that together have this probability.", interval="(0, 1]", table="synthesis"
    )
    model: str | None = option(
        None, "Base model; the one that the adapters name by default.", flags=("-m", "--model"), recipe=False
    )
    revision: str | None = option(None, "Revision of a Hub model.", recipe=False)
    dtype: str = dtype_option("synthesis")
    quantize: str = quantize_option("synthesis")
    device: str = option("auto", "auto, cpu, cuda, cuda:0, mps …")
    batch_size: int = option(
        32, "Prompts of one forward pass.", flags=("-b", "--batch-size"), interval="[1, inf)", most=ROWS
    )
    max_length: int = option(512, "Tokens of a prompt.", interval="[1, inf)", most=LENGTHS, table="synthesis")
    max_new_tokens: int = option(
        64,
        "Tokens of an open-ended answer; label sets use the length of their longest label.",
        interval="[1, inf)",
        most=LENGTHS,
        table="synthesis",
    )
    seed: int = seed_option("Seed of the draws and of the examples' choice.")
