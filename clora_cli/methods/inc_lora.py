"""Train a fresh LoRA for each task on top of the frozen sum of all earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.methods import Method

__all__ = ["IncLora"]


@dataclass(frozen=True, kw_only=True)
class IncLora(Method):
    """Train a fresh LoRA for each task on top of the frozen sum of all earlier ones.

    ``W = W_0 + sum_{i<t} delta_i + delta_t``, only ``delta_t`` trained; at test all deltas are summed.

    References:
        The IncLoRA baseline of Wang et al., Orthogonal Subspace Learning for Language Model Continual Learning, 2023,
        arXiv:2310.14152, and of N-LoRA (arXiv:2410.10179), Table 1.
        Differs: LoRA dropout, where asked for, acts on the new adapter alone; the published code shares one dropout
        mask between the new adapter and the frozen ones.
    """
