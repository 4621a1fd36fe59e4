"""How many positions a training computes, as rows of like length come together within windows of several sizes.

Positions are counted, not timed: each micro-batch is as wide as its longest row, and what all rows begin with is computed once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from transformers import AutoTokenizer

from clora_cli.data import encode, load_task
from clora_cli.model.prefix import common_beginning
from clora_cli.options import TrainOptions
from clora_cli.training.row_order import order_of_examples

WINDOWS = (1, 4, 8, 16, 10**6)


def positions(order: Sequence[int], ids: Sequence[list[int]], size: int) -> tuple[int, int]:
    """Return the positions of all micro-batches, computed whole and with the beginning that their rows share once."""
    whole = shared = 0
    for start in range(0, len(order), size):
        rows = [ids[row] for row in order[start : start + size]]
        width, begun = max(map(len, rows)), common_beginning(rows)
        whole += width * len(rows)
        shared += begun + (width - begun) * len(rows)
    return whole, shared


def counted(task: str, options: argparse.Namespace) -> str:
    """Return a row of the table."""
    tokenizer, rows = AutoTokenizer.from_pretrained(options.model), load_task(task).train[: options.rows]
    ids = [encode(row, tokenizer, kind="causal", max_length=512)["input_ids"] for row in rows]
    found = []
    for window in WINDOWS:
        chosen = TrainOptions(data=task, batch_size=options.batch_size, epochs=1, length_window=window)
        order = order_of_examples(len(rows), chosen, 0, [row.size for row in rows])
        found.append(positions(order, ids, options.batch_size))
    gains = [f"{found[0][0] / whole:.2f}, {found[0][1] / shared:.2f}" for whole, shared in found[1:]]
    return f"| {task} | {found[0][0] / len(rows):.0f}, {found[0][1] / len(rows):.0f} | {' | '.join(gains)} |"


def main() -> None:
    """Print the table: positions a row and how many times fewer they become, whole, and with the beginning shared."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder with a tokenizer")
    parser.add_argument("--tasks", nargs="+", default=["dbpedia", "amazon", "yahoo", "agnews", "sst-2"])
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    print("| task | positions a row | window 4 | 8 | 16 | all |", "|---|--:|--:|--:|--:|--:|", sep="\n")
    for task in options.tasks:
        print(counted(task, options))


if __name__ == "__main__":
    main()
