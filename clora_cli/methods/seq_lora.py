"""Train one LoRA on through all tasks, each starting from the last: the lower bound."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.methods import Method

__all__ = ["SeqLora"]


@dataclass(frozen=True, kw_only=True)
class SeqLora(Method):
    """Train one LoRA on through all tasks, each starting from the last: the lower bound.

    Each task's folder keeps the LoRA as it was after that task; only the last is used at test.

    References:
        The SeqLoRA baseline of Wang et al., 2023, arXiv:2310.14152, and of N-LoRA (arXiv:2410.10179), Table 1; CAST's Vanilla LoRA.
        As in O-LoRA's scripts, which run one process a task, the optimizer starts afresh at each.
    """

    past = "none"
    start = "previous"
    combine = "last"
