"""Options of an evaluation (layer L1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.base.options import declared, option, recorded
from clora_cli.options.route_options import RouteChoices, RouteOptions
from clora_cli.options.shared_options import LENGTHS, ROWS, dtype_option, quantize_option

__all__ = ["GENERAL", "SCORE", "EvalOptions", "merges", "ways"]

SCORE = ("generate", "labels")
GENERAL = "general"  # the bundled probe of general ability


def merges() -> tuple[str, ...]:
    """Return the merges that adapters can be combined by, but for ``sum``, which needs no merging."""
    return tuple(name for name in registry.names("merges") if name != "sum")


def ways() -> tuple[str, ...]:
    """Return all ways to combine adapters."""
    return ("auto", "sum", "last", "route", "task-id", "progressive", "none", "weighted", "learned", *merges())


@dataclass(frozen=True, kw_only=True)
class EvalOptions(RouteChoices):
    """How to evaluate.

    ``combine`` says how adapters take part: ``sum`` adds all, ``weighted`` adds them with the weights that the last one was
    trained with, ``learned`` lets the method weigh them input by input, ``last`` takes the last, ``route`` lets each input
    choose by its features, ``task-id`` takes each task's own, ``progressive`` also those that it was trained on
    top of, ``none`` the base model alone, a merge's name merges them with
    its default options, ``auto`` does what their method says.
    """

    data: tuple[str, ...] = option(
        (),
        "Task to score; repeatable. The adapters' own tasks by default.",
        flags=("-d", "--data"),
        completes="task",
        recipe=False,
    )
    combine: str = option(
        "auto",
        "sum, last, route, task-id, progressive, none, weighted, learned, or a strategy of clora merge, by name or as a .py file; "
        "auto asks the adapters' method.",
        parse=lambda text: registry.admit("merges", text),
        completes="combine",
    )
    score: str = option("generate", "generate: greedy answers; labels: the likeliest of the label set.", choices=SCORE)
    scorer: str = option(
        "",
        f"Score each answer by this instead of the tasks' own metrics, also where rows have no answers: a .py file, or one of "
        f"{registry.listed('scorers')}.",
        metavar="NAME[,KEY=VALUE]",
        parse=lambda text: registry.admit("scorers", text),
        completes="scorers",
        table="settings",
        since="0.2.0",
    )
    matrix: bool = option(False, "Score after every stage, from the base model on.", recipe=False)
    answers: bool = option(
        False,
        "Keep a number for each row's answer, equal where answers are: clora report --figure outputs compares them.",
        since="0.2.0",
    )
    seen: bool = option(False, "With --matrix: leave out tasks that are not learned yet.", recipe=False)
    batch_size: int = option(
        64, "Rows of one forward pass.", flags=("-b", "--batch-size"), interval="[1, inf)", most=ROWS
    )
    max_length: int = option(512, "Tokens of a prompt.", interval="[1, inf)", most=LENGTHS, table="settings")
    max_new_tokens: int = option(
        50,
        "Tokens of an open-ended answer; label sets use the length of their longest label.",
        interval="[1, inf)",
        most=LENGTHS,
        table="settings",
    )
    test_rows: int = option(
        0,
        "Score the first so many rows; 0 scores all.",
        flags=("-L", "--test-rows"),
        interval="[0, inf)",
        table="settings",
    )
    split: str = option("test", "test or dev.", choices=("test", "dev"), table="settings")
    dtype: str = dtype_option("settings")
    retention: tuple[str, ...] = option(
        (),
        "Tell what is left of general ability, by a task that the base model knows already, or by 'general', the bundled "
        "questions and passages; repeatable.",
        table="settings",
        completes="task",
        since="0.2.0",
    )
    quantize: str = quantize_option("settings", since="0.2.0")

    def check(self) -> None:
        """Refuse options that exclude each other.

        Raises:
            OptionError: If routing is chosen for a combination that does not route, ``seen`` without ``matrix``, or a scorer for
                labels that are ranked.
            UnknownNameError: If there is no such scorer.
        """
        super().check()
        if self.combine not in ways():
            raise OptionError(
                f"--combine {self.combine}: choose one of {', '.join(ways())}", code="option-choice-unknown"
            )
        if self.route and self.combine not in {"auto", "route"}:
            flags = [declared(RouteOptions)[name].flag for name in self.route]
            raise OptionError(
                f"--combine {self.combine} does not route: leave out {', '.join(flags)}", code="option-has-no-effect"
            )
        if self.scorer:
            registry.bound("scorers", self.scorer)
            if self.score == "labels":
                raise OptionError(
                    "--scorer scores what is generated: leave out --score labels", code="option-has-no-effect"
                )
        if self.seen and not self.matrix:
            raise OptionError("--seen leaves cells out of a matrix: pass --matrix too", code="option-missing")

    def recorded(self) -> dict[str, Any]:
        """Return what a scores file keeps of these options beside ``combine`` and ``score``: all that changes a score."""
        router = str(self.route.get("similarity", "")).partition(",")[0]
        scorer = self.scorer.partition(",")[0]
        plugins = registry.records({"merges": [self.combine], "routers": [router], "scorers": [scorer]})
        return recorded(self, "settings") | {"route": self.route, "calibrate": list(self.calibrate), **plugins}
