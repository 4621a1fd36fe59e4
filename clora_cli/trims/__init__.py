"""Ways to choose the entries of an adapter that matter (layer L2): one file each.

A trim is a frozen dataclass whose fields are its options. It sees the entries of one scope, all of an adapter's or one
site's, as one long vector, and says which of them stay; what becomes of the others (exact zeros, a packed mask, free
capacity for the next task) is the same for all and lies with the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clora_cli.trims._curve import Curve

__all__ = ["Curve", "Entries", "Kept", "Trim"]


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries that compete for a place.

    Attributes:
        values: The entries, or their changes, shape (entry,), float32; at least one.
        reference: What a reference package says of each entry, shape (entry,), where the trim needs one: positive where the
            reference's delta grows with that entry, negative where it shrinks, 0 where it does not care.
        seed: Of trims that draw random numbers.
    """

    values: Tensor
    reference: Tensor | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Kept:
    """Which entries stay.

    Attributes:
        mask: Shape (entry,), bool.
        warning: What the user should know of how it was found; empty if nothing.
    """

    mask: Tensor
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class Trim:
    """Base of all trims.

    Attributes:
        needs_reference: Whether it compares the entries with a reference package.
    """

    # Without an annotation it is no dataclass field, hence no option.
    needs_reference = False

    def keep(self, entries: Entries) -> Kept:
        """Choose the entries that stay.

        Args:
            entries: At least one entry; all finite.

        Raises:
            OptionError: If the options make no sense for these entries.
        """
        raise NotImplementedError
