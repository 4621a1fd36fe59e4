"""Train nothing: the base model alone, as a floor for the others."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.methods import Method

__all__ = ["ZeroShot"]


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Method):
    """Train nothing: the base model alone, as a floor for the others.

    Writes a LoRA of zeros, so that a whole sequence can be run and reported as any other method's.

    References:
        The zero-shot rows of CAST, Tables 1 and 2, and of TRACE (arXiv:2310.06762).
    """

    past = "none"
    combine = "none"
    trains = False
    takes_classes = False
