"""Keep the entries before the knee of the sorted magnitudes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.trims import Entries, Kept, Trim
from clora_cli.trims._curve import Curve, largest, magnitudes_of

__all__ = ["Knee"]


@dataclass(frozen=True, kw_only=True)
class Knee(Trim):
    """Keep the entries before the knee of the sorted magnitudes.

    Magnitudes in descending order, scaled to [0, 1] by the smallest and the largest, make a curve of points
    ``(i / N, y_i)``; the knee is the point farthest below its chord, ``k = argmax_i (1 - i / N - y_i)``, and the first k
    entries stay. It finds a share by itself: a tenth of normally distributed values, less of heavier tails.

    An entry that is 0 never stays. Where magnitudes are nearly alike, or fall evenly, there is no knee: ``maximum`` stays.
    With ``minimum``, ``maximum`` and ``flat`` at none the farthest point alone decides.

    Args:
        ties: ``cap`` keeps the knee's own entry, and of entries equal to it so many that k stay, the earlier first;
            ``strict`` keeps what lies above it, as eq. 6 has it: one entry fewer, and none of many equal ones where a
            clamp puts the cut among them.
        minimum: The least share of the entries that stays, above 0 and up to 1, or none.
        maximum: The largest share of the entries that stays, above 0 and up to 1, or none.
        flat: The least bend that counts as a knee, in (0, 1), or none, with which the farthest point always does. Magnitudes that
            vary by 10 % of their mean bend by less than 0.2, normally distributed ones by 0.5.

    References:
        One LoRA for All: Unlocking Latent Capacity of LoRA for Continual Adaptation (CAST), anonymous ACL submission,
        eq. 4-6. Magnitude as importance: Han et al., Learning both Weights and Connections for Efficient Neural Networks,
        2015, arXiv:1506.02626.
        Differs: eq. 5 prints argmax(x + y - 1). The curve lies below its chord, where that is the first point: nothing
        exceeds the threshold and the mask is empty. Farthest from the chord, as the text says, is argmax(1 - x - y).
        Differs: the clamps, the handling of flat curves and the ties are ours; the paper names none, which is
        ``minimum=none``, ``maximum=none``, ``flat=none``.
    """

    ties: Literal["cap", "strict"] = "cap"
    minimum: float | None = 0.01
    maximum: float | None = 0.2
    flat: float | None = registry.added(0.2)

    def __post_init__(self) -> None:
        """Check the options."""
        for option in ("minimum", "maximum"):
            check_option("knee", option, getattr(self, option), "(0, 1]")
        check_option("knee", "flat", self.flat, "(0, 1)")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise OptionError(
                f"option minimum={self.minimum} of knee: give a number up to maximum={self.maximum}",
                code="option-out-of-range",
            )

    def keep(self, entries: Entries) -> Kept:
        """Find the knee and keep what lies before it."""
        curve = Curve.of(entries.values)
        if not curve.magnitudes[0]:
            return Kept(torch.zeros(len(curve), dtype=torch.bool), "all entries are 0; none stays")
        count, warning = self._cut(curve)
        bound = float(curve.magnitudes[count - 1])
        del curve
        magnitudes = magnitudes_of(entries.values)
        # Of zeros none stays, and what exceeds them needs no counting.
        above = self.ties == "strict" or not bound
        return Kept(torch.from_numpy(magnitudes > bound if above else largest(magnitudes, count, bound)), warning)

    def _cut(self, curve: Curve) -> tuple[int, str]:
        """Return how many entries lie before the cut, and what the user should know of it."""
        size, knee = len(curve), curve.knee()
        least = 1 if self.minimum is None else math.ceil(self.minimum * size)
        most = size if self.maximum is None else max(1, math.floor(self.maximum * size))
        if self.flat is not None and curve.bend(knee) < self.flat:
            limit = "" if self.maximum is None else f", maximum={self.maximum:g}"
            return most, f"no knee: the magnitudes are nearly alike or fall evenly; cut at {most / size:.2%}{limit}"
        if knee < least:
            return least, f"the knee, at {knee / size:.2%} of the entries, is below minimum={self.minimum:g}; cut there"
        if knee > most:
            return most, f"the knee, at {knee / size:.2%} of the entries, is above maximum={self.maximum:g}; cut there"
        return knee, ""
