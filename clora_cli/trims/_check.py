"""Checks of trims' options."""

from __future__ import annotations

from clora_cli.errors import OptionError

__all__ = ["check_share"]


def check_share(trim: str, option: str, value: float) -> None:
    """Check that an option is a share that keeps something.

    Raises:
        OptionError: If it is not above 0 and up to 1.
    """
    if not 0 < value <= 1:
        raise OptionError(f"option {option}={value} of {trim}: give a number above 0 and up to 1")
