"""Options that several commands have (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clora_cli.base.errors import OptionError
from clora_cli.base.options import FIRST, Options, option

__all__ = [
    "DTYPES",
    "LENGTHS",
    "QUANTIZE",
    "ROWS",
    "ModelOptions",
    "dtype_option",
    "nproc_option",
    "quantize_option",
    "seed_option",
    "with_density",
]

QUANTIZE = ("none", "4bit", "8bit")
DTYPES = ("auto", "float32", "bfloat16", "float16")
ROWS = 1 << 20  # the most rows of a batch
LENGTHS = 1 << 24  # the most tokens of a text
_SEEDS = (1 << 63) - 1
PROCESSES = 1 << 10


def dtype_option(table: str | None = None) -> Any:
    """Return the option for the type of the base model's weights."""
    return option(
        "auto",
        "auto, float32, bfloat16 or float16; auto is float32 on a CPU, bfloat16 elsewhere.",
        choices=DTYPES,
        table=table,
    )


def quantize_option(table: str | None = None, since: str = FIRST) -> Any:
    """Return the option for quantised weights of the base model."""
    return option("none", "none, 4bit or 8bit base weights.", choices=QUANTIZE, table=table, since=since)


def seed_option(help: str) -> Any:
    """Return an option for a seed, which a recipe has for all of its steps."""
    return option(42, help, most=_SEEDS, recipe=False)


def nproc_option(help: str) -> Any:
    """Return the option for the number of processes."""
    return option(
        1,
        f"{help} auto takes one for each GPU.",
        interval="[1, inf)",
        most=PROCESSES,
        metavar="N|auto",
        parse=_count,
    )


def _count(text: str) -> int:
    """Return a number of processes; ``auto`` is the number of accelerators that this process may see, at least 1."""
    if text == "auto":
        import torch

        return max(1, torch.accelerator.device_count())
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"--nproc {text}: give a whole number or auto", code="option-out-of-range") from None


def with_density(texts: Mapping[str, str], density: float | None) -> dict[str, str]:
    """Return a plug-in's options as texts, with the one that has a short form of its own."""
    return {**texts, **({} if density is None else {"density": str(density)})}


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Options of commands that load a base model."""

    model: str | None = option(
        None, "Base model; the one that the adapters name by default.", flags=("-m", "--model"), recipe=False
    )
    revision: str | None = option(None, "Revision of a Hub model.", recipe=False)
    columns: Mapping[str, str] = option(
        {},
        "Which column of a file plays a role, such as prompt=question; repeatable.",
        flags=("--columns",),
        metavar="ROLE=COLUMN",
    )
    dtype: str = dtype_option()
    device: str = option("auto", "auto, cpu, cuda, cuda:0, mps …")
    nproc: int = nproc_option("Processes, which share the inputs out, a batch each; the result is the same.")
    shard: bool = option(
        False, "Divide the base model's weights among the processes; adapters stay whole on each.", since="0.2.0"
    )
