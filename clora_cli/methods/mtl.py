"""Train one LoRA on all tasks so far at once: the upper bound."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.methods import Memory, Method

__all__ = ["Mtl"]


@dataclass(frozen=True, kw_only=True)
class Mtl(Method):
    """Train one LoRA on all tasks so far at once: the upper bound.

    Each stage starts afresh, on every row that the earlier tasks were trained on and the new task's. The last stage is
    the upper bound that papers report; training it alone takes the package of all stages before it.

    References:
        The MTL baseline of Wang et al., 2023, arXiv:2310.14152, and of N-LoRA (arXiv:2410.10179), Table 1.
        Differs: LoRA where the papers train all parameters; a result after each task, where they report one.
    """

    past = "none"
    combine = "last"

    def memory(self) -> Memory:
        """Return a memory of everything."""
        return Memory()
