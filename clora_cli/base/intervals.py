"""Numbers that are given as options, held to an interval (layer L0)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clora_cli.base.errors import OptionError

__all__ = ["check_option", "check_size", "check_sizes"]

# What nobody asks for in earnest, and what would take all memory, or for ever, before it failed.
_MOST = {"rank": 1 << 16, "alpha": 1e6, "lr": 1e3, "batch_size": 1 << 20, "grad_accum": 1 << 20, "epochs": 1e6}
_MOST |= {"max_length": 1 << 24, "max_answer_length": 1 << 24, "max_new_tokens": 1 << 24, "max_steps": 10**9}
_MOST |= {"seed": (1 << 63) - 1, "nproc": 1 << 10, "jobs": 1 << 10}
_ANY = 1 << 53


def check_option(plugin: str, option: str, value: float | None, interval: str) -> None:
    """Check that an option of a plug-in lies in an interval.

    Args:
        plugin: The plug-in's name.
        option: The option's name.
        value: Its value; None, for an option that was not given, passes.
        interval: In the mathematical notation, such as ``"(0, 1]"`` or ``"[0, inf)"``.

    Raises:
        OptionError: If the value lies outside or is not a number.
    """
    if value is None:
        return
    low, high = (float(end) for end in interval[1:-1].split(","))
    reaches = value >= low if interval[0] == "[" else value > low
    stays = value <= high if interval[-1] == "]" else value < high
    if not (reaches and stays):
        raise OptionError(f"option {option}={value} of {plugin}: give a number in {interval}")


def check_size(option: str, value: float, most: float = _ANY) -> None:
    """Refuse a number beyond all reason; what is not finite is left to who knows the option.

    Args:
        option: The option, as typed.
        value: Its value.
        most: The largest magnitude.

    Raises:
        OptionError: If it is larger.
    """
    if abs(value) > most and not (isinstance(value, float) and math.isinf(value)):
        shown = f"{value:g}" if isinstance(value, float) else f"{str(value)[:20]}{'…' * (len(str(value)) > 20)}"
        raise OptionError(
            f"{option} {shown} is beyond all reason: give at most {most if isinstance(most, int) else format(most, 'g')}"
        )


def check_sizes(options: Mapping[str, Any]) -> None:
    """Refuse numbers beyond all reason among options by name; what is no number is passed over.

    Raises:
        OptionError: If there is one.
    """
    for name, value in options.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            check_size(f"--{name.replace('_', '-')}", value, _MOST.get(name, _ANY))
