"""Keep the entries that pull the delta the way a reference's goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clora_cli.base.errors import OptionError
from clora_cli.trims import Entries, Kept, Trim

__all__ = ["Sign"]


@dataclass(frozen=True, kw_only=True)
class Sign(Trim):
    """Keep the entries that pull the delta the way a reference's goes.

    An entry's own part of the delta is ``scaling * b * lora_A[r]`` in one row; it stays if its inner product with the
    reference's summed delta is positive. An entry that is 0 pulls nowhere and does not stay.

    Args:
        undecided: What becomes of entries that the reference does not care about: layers and rows in which it has no delta.
            ``keep`` by default, for nothing there is at odds with it; ``drop`` leaves what it confirms.

    References:
        Zhou et al., Resolving Conflicts in Lifelong Learning via Aligning Updates in Subspaces (PS-LoRA), 2025,
        arXiv:2512.08960, section 3: same-sign entries alone keep what was learned before.
        Differs: the paper compares entries of the dense deltas; trimmed factors stay low-rank. Signs of factors alone say
        nothing: ``-B`` and ``-A`` are the same adapter.
    """

    needs_reference = True

    undecided: Literal["keep", "drop"] = "keep"

    def keep(self, entries: Entries) -> Kept:
        """Keep what agrees in sign with ``entries.reference``.

        Raises:
            OptionError: If there is no reference.
        """
        if entries.reference is None:
            raise OptionError(
                "sign compares with a reference, and there is none: pass --reference", code="option-missing"
            )
        own, other = entries.values.detach().cpu().sign(), entries.reference.detach().cpu().sign()
        agrees = own * other > 0
        return Kept(agrees | ((other == 0) & (own != 0)) if self.undecided == "keep" else agrees)
