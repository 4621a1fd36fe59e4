"""Numbers that plug-ins take as options, held to an interval (layer L0)."""

from __future__ import annotations

from clora_cli.errors import OptionError

__all__ = ["check_option"]


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
