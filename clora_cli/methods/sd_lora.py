"""Train a fresh LoRA beside the directions of all earlier ones, whose magnitudes are learned anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.methods import Method, Run
from clora_cli.routing.fixed_weights import KEY, fixed_weights

__all__ = ["SdLora"]

_OWN = "magnitudes"


@dataclass(frozen=True, kw_only=True)
class SdLora(Method):
    """Train a fresh LoRA beside the directions of all earlier ones, whose magnitudes are learned anew.

    At each site ``W + sum_{i<t} a_i delta_i / ||delta_i||_F + delta_t``: the directions of earlier deltas are frozen, their
    magnitudes a_i are trained together with the new LoRA. They start at what they were, so that a task begins exactly where
    the last one ended. At test the adapters are added up with the last one's magnitudes (``combine = weighted``): no
    routing, no row of an earlier task.

    References:
        Wu et al., SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning, ICLR 2025,
        arXiv:2501.13198, eq. 3.
        Differs: the paper's code divides by ``||B||_F ||A||_F``, under which equal deltas with other factors get other
        magnitudes; here a direction is ``delta / ||delta||_F``.
        Differs: a magnitude for each site and task, where the code has one for each task; it starts at the delta's own norm
        times what earlier tasks made of it, where the code starts each at 0.8.
        Differs: the published evaluation code uses the last LoRA alone and none of the magnitudes.
    """

    past = "weighted"
    combine = "weighted"

    def begin(self, run: Run) -> None:
        """Make the magnitudes trainable."""
        if not run.past:
            return
        sites, norms, before = _start(run)
        magnitudes = run.parameter(_OWN, norms * before)

        def weigh(rows: Tensor, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            weights = _weights(magnitudes, norms.to(magnitudes), before.to(magnitudes))
            return dict(zip(sites, weights[:, None], strict=True))

        run.mix(weigh)

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return what each adapter is to be multiplied by at test, the new one by 1."""
        if not run.past:
            return {f"{KEY}/{site}": torch.ones(1) for site in run.trainable}
        sites, norms, before = _start(run)
        weights = _weights(run.own[_OWN].detach().cpu(), norms, before)
        return {f"{KEY}/{site}": own.clone() for site, own in zip(sites, weights, strict=True)}


def _start(run: Run) -> tuple[list[str], Tensor, Tensor]:
    """Return all adapted sites, and of each earlier adapter's delta there the norm and the weight so far, (site, adapter)."""
    deltas = [adapter.factors() for adapter in run.past]
    sites = sorted({*run.trainable, *(site for delta in deltas for site in delta)})
    norms = torch.tensor([[_norm(delta.get(site)) for delta in deltas] for site in sites])
    known = fixed_weights(run.past) if any(key.startswith(f"{KEY}/") for key in run.past[-1].state()) else {}
    ones = torch.ones(1, len(deltas))  # what other methods' adapters were added up with
    return sites, norms, torch.cat([known.get(site, ones) for site in sites])


def _weights(magnitudes: Tensor, norms: Tensor, before: Tensor) -> Tensor:
    """Return ``magnitudes / norms``, exactly ``before`` as long as no magnitude moved, with a column of ones for the new LoRA."""
    weights = before + (magnitudes - norms * before) / norms.clamp(min=1e-30)
    return torch.cat([weights, torch.ones_like(weights[:, :1])], dim=1)


def _norm(factor: Factor | None) -> float:
    """Return ``||delta||_F`` from the factors' Gram matrices, (rank, rank) each; 0 where there is none."""
    if factor is None:
        return 0.0
    a, b = factor.a.double(), factor.b.double()
    return factor.scaling * float(((a @ a.mT) * (b.mT @ b)).sum().clamp(min=0).sqrt())
