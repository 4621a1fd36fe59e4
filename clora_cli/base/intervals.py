"""Numbers that are given as options, held to an interval (layer L0)."""

from __future__ import annotations

import math

from clora_cli.base.errors import OptionError

__all__ = ["MOST", "check_option", "check_size", "in_interval"]

MOST = 1 << 53  # what nobody asks for in earnest, of any number


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
    if not in_interval(value, interval):
        raise OptionError(
            f"option {option}={value} of {plugin}: give a number in {interval}", code="option-out-of-range"
        )


def check_size(option: str, value: float, most: float = MOST) -> None:
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
            f"{option} {shown} is beyond all reason: give at most {most if isinstance(most, int) else format(most, 'g')}",
            code="option-out-of-range",
        )


def in_interval(value: float, interval: str) -> bool:
    """Tell whether a number lies in an interval such as ``"(0, 1]"``; what is no number lies in none."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    reaches = value >= low if interval[0] == "[" else value > low
    return reaches and (value <= high if interval[-1] == "]" else value < high)
