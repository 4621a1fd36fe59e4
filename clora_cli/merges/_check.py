"""Checks of merges' options."""

from __future__ import annotations

import math

from clora_cli.errors import OptionError

__all__ = ["check_number", "check_share"]


def check_share(merge: str, option: str, value: float) -> None:
    """Check that an option is a share that keeps something.

    Raises:
        OptionError: If it is not above 0 and up to 1.
    """
    if not 0 < value <= 1:
        raise OptionError(f"option {option}={value} of {merge}: give a number above 0 and up to 1")


def check_number(merge: str, option: str, value: float) -> None:
    """Check that an option is a number; of either sign, for it scales.

    Raises:
        OptionError: If it is infinite or not a number.
    """
    if not math.isfinite(value):
        raise OptionError(f"option {option}={value} of {merge}: give a finite number")
