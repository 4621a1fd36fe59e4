"""Time and memory of a model whose inputs choose among parts of one LoRA: one task alone beside mixed ones, in one run.

Every turn runs all rows once, in an order of its own; ratios are taken turn by turn against ``one task``, a batch all of
whose inputs ask for one part. The model is a random Llama of ``--layers`` blocks with a LoRA of rank ``--rank`` on query and
value, each entry of whose B belongs to one of K tasks or, a quarter of them, to none.

- ``one task, alone``: that task's adapter is the only one in the model;
- ``top-1, mixed``: each input its own part; ``soft``: all parts in every input's mixture;
- ``K copies, …``: adapters of the same sizes that share nothing, as K LoRAs of rank ``--rank`` side by side.

Beside a pass over the prompts stands one further token of the answers; below each table, the bytes that the bank holds.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from routed_forward import base_model  # beside this script
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.lora import Factor
from clora_cli.model.bank import AdapterBank
from clora_cli.model.linear_layers import find_sites

Row = tuple[Callable[[], None], Callable[[], object]]  # what comes before, and what is timed
Member = dict[str, Factor]


def parts_of_one_lora(model: Any, count: int, rank: int) -> list[Member]:
    """Return adapters of one random ``lora_A`` whose entries of ``lora_B`` do not overlap; a quarter is nobody's."""
    generator = torch.Generator().manual_seed(0)
    members: list[Member] = [{} for _ in range(count)]
    for site, (rows, columns) in find_sites(model).items():
        a = torch.randn(rank, columns, generator=generator) * 0.02
        b = torch.randn(rows, rank, generator=generator) * 0.02
        owner = torch.randint(0, 4 * count, (rows, rank), generator=generator) // 3
        for number, member in enumerate(members):
            member[site] = Factor(a.clone(), b * (owner == number), 2.0)
    return members


def set_apart(members: list[Member]) -> list[Member]:
    """Return the same adapters with so little changed in each ``lora_A`` that no two are equal."""
    return [
        {site: Factor(one.a + 1e-6 * number, one.b, one.scaling) for site, one in member.items()}
        for number, member in enumerate(members)
    ]


def banks(arguments: argparse.Namespace, count: int) -> dict[str, tuple[Any, AdapterBank]]:
    """Return models with one task's adapter, with the parts of one LoRA, and with as many copies."""
    found = {}
    for name in ("alone", "parts", "copies"):
        model = base_model(arguments.width, arguments.layers)
        members = parts_of_one_lora(model, count, arguments.rank)
        bank = AdapterBank(model)
        bank.activate({"alone": members[:1], "parts": members, "copies": set_apart(members)}[name])
        found[name] = model, bank
    return found


def gates(count: int, inputs: int) -> dict[str, Tensor]:
    """Return the weights of each row, shape (input, adapter)."""
    one = functional.one_hot(torch.zeros(inputs, dtype=torch.long), count).float()
    mixed = functional.one_hot(torch.arange(inputs) % count, count).float()
    soft = torch.rand(inputs, count, generator=torch.Generator().manual_seed(0)).softmax(1)
    return {"one task": one, "top-1, mixed": mixed, "soft": soft}


def nothing() -> None:
    """Do what need not be done before a row."""


def rows_of(found: dict[str, tuple[Any, AdapterBank]], count: int, ids: Tensor, token: bool) -> dict[str, Row]:
    """Return all rows: a pass over the prompts, the setting of its gates included, or one further token without it."""

    def row(place: str, weights: Tensor | None) -> Row:
        model, bank = found[place]

        def gate() -> None:
            bank.gate(None if weights is None else dict.fromkeys(bank.sites, weights))

        if not token:
            return nothing, lambda: (gate(), model(ids, use_cache=False))
        gate()
        cache = model(ids, use_cache=True).past_key_values
        return gate, lambda: (model(ids[:, -1:], past_key_values=cache), cache.crop(-1))

    weights = gates(count, len(ids))
    rows = {"one task, alone": row("alone", None)}
    rows |= {name: row("parts", one) for name, one in weights.items()}
    return rows | {f"K copies, {name}": row("copies", one) for name, one in weights.items()}


def compare(rows: dict[str, Row], turns: int) -> dict[str, tuple[float, float]]:
    """Return each row's median seconds and median ratio to ``one task``, turn by turn."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(turns + 1):
        order = list(rows)
        random.Random(turn).shuffle(order)
        for name in order:
            before, run = rows[name]
            before()
            began = time.perf_counter()
            run()
            if turn:  # the first one warms up
                times[name].append(time.perf_counter() - began)
    one = times["one task"]
    ratios = {name: [mine / base for mine, base in zip(all_, one, strict=True)] for name, all_ in times.items()}
    return {name: (median(times[name]), median(ratios[name])) for name in rows}


@torch.inference_mode()
def main() -> None:
    """Print a table for each number of tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 15])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    ids = torch.randint(1, 4096, (arguments.batch, arguments.length), generator=torch.Generator().manual_seed(0))
    print(f"{arguments.layers} blocks of width {arguments.width}, {arguments.batch} x {arguments.length} tokens\n")
    for count in arguments.tasks:
        found = banks(arguments, count)
        passes = compare(rows_of(found, count, ids, token=False), arguments.turns)
        steps = compare(rows_of(found, count, ids, token=True), 10 * arguments.turns)
        print(
            "| tasks | row | prompts, ms | x one task | next token, ms | x one task |\n|---:|---|---:|---:|---:|---:|"
        )
        for name in passes:
            cells = [f"{1000 * took:.1f} | {ratio:.2f}" for took, ratio in (passes[name], steps[name])]
            print(f"| {count} | {name} | {' | '.join(cells)} |", flush=True)
        held = {name: bank.nbytes for name, (_, bank) in found.items()}
        print(
            f"\nheld for {count} parts: {held['parts'] / 1e6:.2f} MB, {held['parts'] / held['alone']:.2f} of one adapter"
        )
        print(f"held for {count} copies: {held['copies'] / 1e6:.2f} MB, {held['copies'] / held['alone']:.2f} of one\n")


if __name__ == "__main__":
    main()
