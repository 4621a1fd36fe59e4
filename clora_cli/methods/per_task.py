"""Train an independent LoRA for each task and use it for that task alone: the upper bound without transfer."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.methods import Method

__all__ = ["PerTask"]


@dataclass(frozen=True, kw_only=True)
class PerTask(Method):
    """Train an independent LoRA for each task and use it for that task alone: the upper bound without transfer.

    Needs the task's identity at test.

    References:
        The PerTaskFT baseline of N-LoRA (arXiv:2410.10179), Table 1; CAST's PerTask-LoRA, and what PFD measures FWT from.
        Differs: LoRA per task, where PerTaskFT trains a whole model per task, as per-task-ft does.
    """

    past = "none"
    combine = "task-id"
    grows = True
