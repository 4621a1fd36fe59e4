"""What can be asked of an evaluation (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_sizes
from clora_cli.model.backbone import DTYPES

__all__ = ["COMBINE", "MERGES", "SCORE", "EvalOptions"]

MERGES = tuple(name for name in registry.names("merges") if name != "sum")
COMBINE = ("auto", "sum", "last", "route", "task-id", "none", *MERGES)
_FLAGS = {"layer": "route-layer", "module": "route-module"}
SCORE = ("generate", "labels")


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How to evaluate.

    Attributes:
        model: Base model; None for the one that the adapters name.
        combine: ``sum`` adds all adapters, ``last`` takes the last, ``route`` lets each input choose by its features,
            ``task-id`` takes each task's own, ``none`` the base model alone, a merge's name merges them with its default
            options, ``auto`` does what their method says.
        route: Options of ``RouteOptions`` by name, where they are not to be what the adapters' method says.
        calibrate: Tasks whose dev rows say how near a known input is, where inputs may abstain; the adapters' own by
            default.
        score: ``generate`` answers greedily, ``labels`` ranks the label set by likelihood.
        matrix: Evaluate after every stage, from the bare base model on, instead of after the last alone.
        seen: Of a matrix, leave out the tasks that are not learned yet, and the base model alone.
        batch_size: Rows of one forward pass.
        max_length: Tokens of a prompt.
        max_new_tokens: Tokens of an answer; label sets use the length of their longest label.
        test_rows: Use the first so many test rows; 0 for all.
        split: ``test`` or ``dev``.
        dtype: Type of the base model's weights.
        device: ``auto``, ``cpu``, ``cuda:0`` …
    """

    model: str | None = None
    revision: str | None = None
    combine: str = "auto"
    route: Mapping[str, Any] = field(default_factory=dict)
    calibrate: Sequence[str] = ()
    score: str = "generate"
    matrix: bool = False
    seen: bool = False
    batch_size: int = 64
    max_length: int = 512
    max_new_tokens: int = 50
    test_rows: int = 0
    split: str = "test"
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            OptionError: If a value is not one of those allowed.
        """
        check_sizes(vars(self))
        choices = {"combine": (self.combine, COMBINE), "score": (self.score, SCORE), "dtype": (self.dtype, DTYPES)}
        for name, (value, allowed) in (choices | {"split": (self.split, ("test", "dev"))}).items():
            if value not in allowed:
                raise OptionError(f"--{name} {value}: choose one of {', '.join(allowed)}")
        for name, number in {
            "batch-size": self.batch_size,
            "max-length": self.max_length,
            "max-new-tokens": self.max_new_tokens,
        }.items():
            if number < 1:
                raise OptionError(f"--{name} {number}: give a whole number of at least 1")
        if self.route and self.combine not in {"auto", "route"}:
            flags = [f"--{_FLAGS.get(name, name.replace('_', '-'))}" for name in self.route]
            raise OptionError(f"--combine {self.combine} does not route: leave out {', '.join(flags)}")
        if self.seen and not self.matrix:
            raise OptionError("--seen leaves cells out of a matrix: pass --matrix too")
        if self.test_rows < 0:
            raise OptionError(f"--test-rows {self.test_rows}: give a whole number of at least 0")

    def recorded(self) -> dict[str, Any]:
        """Return what a scores file keeps of these options beside ``combine`` and ``score``: all that changes a score."""
        names = ("route", "calibrate", "test_rows", "split", "max_length", "max_new_tokens", "dtype")
        found = {name: getattr(self, name) for name in names}
        return {**found, "route": dict(self.route), "calibrate": list(self.calibrate)}
