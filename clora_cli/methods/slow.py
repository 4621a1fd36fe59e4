"""Keep a slow copy of the LoRA that follows every step by a fraction, and write that."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.base.intervals import check_option
from clora_cli.methods._slow_copy import SlowCopy

__all__ = ["Slow"]


@dataclass(frozen=True, kw_only=True)
class Slow(SlowCopy):
    """Keep a slow copy of the LoRA that follows every step by a fraction, and write that.

    After step n, ``slow <- d slow + (1 - d) fast`` with ``d = min(decay, 1 - 1 / (n + 1))``, entry by entry of lora_A and lora_B; the
    fast LoRA is what is trained. Beside another method it does so with that one's LoRA: ``replay+slow``, ``inc-lora+slow``.

    Args:
        decay: The share of the slow copy that stays at each step, in [0, 1); 0 is the other method, or seq-lora.

    References:
        SuRe, 2025, arXiv:2511.22367, which has it beside replay of surprising rows (``replay+slow -o select=surprise``); I-LoRA,
        2024, arXiv:2402.18865, whose code lets the decay grow over the first steps: ``i-lora`` here. SuRe's equations were not
        at hand.
        Differs: the next task goes on from the slow copy; in I-LoRA the fast one lives on.
        Differs: public code under PEFT 0.21 never moves the copy, as its names do not match; here it is written and tested.
    """

    joins = True

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("slow", "decay", self.decay, "[0, 1)")
