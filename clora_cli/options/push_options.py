"""Options of sending a package to others (layer L1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base.errors import OptionError
from clora_cli.base.options import Options, option

__all__ = ["PushOptions"]


@dataclass(frozen=True, kw_only=True)
class PushOptions(Options):
    """What the model card says."""

    license: str = option(help="Licence of the adapters, by its name on the Hub, such as apache-2.0.", metavar="ID")
    base_name: str | None = option(
        None, "Public name of the base model; the adapters' own name for it by default.", metavar="NAME"
    )
    name: str | None = option(None, "Name of the package; the target's by default.")
    scores: tuple[Path, ...] = option(
        (),
        "Scores file of clora eval, whose last row becomes the card's results; repeatable.",
        parse=lambda paths: tuple(map(Path, paths)),
    )
    public: bool = option(False, "Make a new repository on the Hub public; it is private otherwise.")

    def check(self) -> None:
        """Check the licence's name.

        Raises:
            OptionError: If it is none.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise OptionError(
                f"--license {self.license}: give an identifier such as apache-2.0, mit or other",
                code="option-malformed",
            )
