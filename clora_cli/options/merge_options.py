"""Options of a merge (layer L1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.base.options import Options, option
from clora_cli.options.shared_options import DTYPES, seed_option, with_density

__all__ = ["MergeOptions"]


def _numbers(weights: str) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in weights.split(","))
    except ValueError:
        raise OptionError(f"--weights {weights}: give numbers separated by commas", code="option-malformed") from None


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """What to make of adapters.

    ``rank`` 0 stands for an exact concatenation where the merge is linear, and for dense deltas otherwise.
    """

    strategy: str = option(
        "sum",
        f"A .py file, or one of {registry.listed('merges')}.",
        parse=lambda text: registry.admit("merges", text),
        completes="merges",
    )
    strategy_options: Mapping[str, str] = option(
        {},
        "Option of the strategy, as `clora show STRATEGY` tells; repeatable.",
        flags=("--option",),
        metavar="KEY=VALUE",
    )
    density: float | None = option(None, "Short for --option density=: the share of entries that are kept.")
    weights: tuple[float, ...] = option(
        (), "A number for each adapter, separated by commas; signs are free.", parse=_numbers
    )
    out: Path = option(Path("merged"), "Folder to write.", flags=("-o", "--out"), writes=True)
    rank: int = option(
        0, "Cut the result to this rank; the energy that is kept is told.", interval="[0, inf)", most=1 << 16
    )
    dense: bool = option(False, "Write dense deltas, exact for every strategy.")
    into_model: Path | None = option(None, "Write the whole model with the merge added to its weights.", writes=True)
    model: str | None = option(None, "Base model; the one that the adapters name by default.", flags=("-m", "--model"))
    dtype: str = option("float32", "Type of dense deltas: float32, bfloat16 or float16.", choices=DTYPES[1:])
    seed: int = seed_option("Seed of strategies that draw random numbers.")

    @property
    def place(self) -> Path:
        """The folder to write."""
        return self.into_model or self.out

    @property
    def texts(self) -> dict[str, str]:
        """The strategy's options as texts."""
        return with_density(self.strategy_options, self.density)

    def check(self) -> None:
        """Check what goes beyond the range of a single option.

        Raises:
            OptionError: If two options exclude each other, or a weight is not finite.
        """
        if sum((bool(self.rank), self.dense, self.into_model is not None)) > 1:
            raise OptionError("--rank, --dense and --into-model exclude each other", code="options-exclude-each-other")
        if odd := next((weight for weight in self.weights if not math.isfinite(weight)), None):
            raise OptionError(f"--weights {odd}: give finite numbers", code="merge-weights-not-finite")
