"""Checks of methods' options."""

from __future__ import annotations

import math

from clora_cli.errors import OptionError

__all__ = ["check_at_least", "check_share"]


def check_at_least(method: str, option: str, value: float, least: float) -> None:
    """Check that an option is a finite number that is not too small.

    Raises:
        OptionError: If it is not.
    """
    if not least <= value < math.inf:
        raise OptionError(f"option {option}={value} of {method}: give a number of at least {least}")


def check_share(method: str, option: str, value: float) -> None:
    """Check that an option is a share, in [0, 1].

    Raises:
        OptionError: If it is not.
    """
    if not 0 <= value <= 1:
        raise OptionError(f"option {option}={value} of {method}: give a number in [0, 1]")
