"""Train one LoRA on through all tasks, with some rows of the earlier ones mixed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Memory, Method, Run

__all__ = ["Replay"]

_LOSSES = "surprise"


@dataclass(frozen=True, kw_only=True)
class Replay(Method):
    """Train one LoRA on through all tasks, with some rows of the earlier ones mixed in.

    Otherwise as seq-lora. A task's rows of the memory are the same at every later task. Needs the earlier tasks' data at
    training, what the other methods do without; or, with ``pseudo``, a file of rows that the model made itself.

    Args:
        rows: Rows of each earlier task at most; 0 for all.
        select: Which rows: ``random`` ones, or by ``surprise`` those that the model found least likely before it learned them, for
            one forward pass more of each row.
        share: The share of each earlier task's rows instead, in [0, 1], such as 0.02; 0 goes by ``rows``.
        pseudo: A file of ``clora synthesize``, whose rows take the place of the earlier tasks' own.

    References:
        Rolnick et al., Experience Replay for Continual Learning, 2018, arXiv:1811.11682; de Masson d'Autume et al.,
        Episodic Memory in Lifelong Language Learning, 2019, arXiv:1906.01076; with LoRA as the baseline of MIGU
        (arXiv:2406.17245), which replays 2 % of each past task. ``select=surprise``: SuRe, 2025, arXiv:2511.22367, whose slow copy
        is ``replay+slow``.
        Differs: the memory's rows are shuffled among the new ones, and each is read as often as a new one; the first two
        papers fill a memory while data stream by, and replay from it at a fixed rate.
    """

    past = "none"
    start = "previous"
    combine = "last"

    rows: int = 50
    share: float = 0.0
    select: Literal["random", "surprise"] = registry.added("random")
    pseudo: str = registry.added("")

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: If one is out of range, or has no effect.
        """
        check_option("replay", "rows", self.rows, "[0, inf)")
        check_option("replay", "share", self.share, "[0, 1]")
        if self.pseudo and self.select != "random":
            raise OptionError(
                f"replay: select={self.select} chooses among rows that were trained on, which pseudo={self.pseudo} has none of; "
                "leave one out",
                code="option-has-no-effect",
            )

    def memory(self) -> Memory:
        """Return which rows are in the memory."""
        by = "" if self.select == "random" else _LOSSES
        return Memory(rows=self.rows, share=self.share, by=by, file=self.pseudo)

    def begin(self, run: Run) -> None:
        """Measure how surprising the task's rows are, before they are learned."""
        if self.select == "surprise" and not run.step:
            run.kept[_LOSSES] = run.losses()

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return how surprising each row was, for later tasks."""
        return {_LOSSES: run.kept[_LOSSES]} if self.select == "surprise" else {}
