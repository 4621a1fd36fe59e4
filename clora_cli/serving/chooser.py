"""From a batch's features to where its prompts go (layer L3): weights to apply, and what is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from clora_cli.routing.decided import Decided, check_finite, mean_over, named_weights
from clora_cli.routing.inputs import Input
from clora_cli.routing.weights import Routing, nearness
from clora_cli.serving.verdict import Verdict

__all__ = ["Chooser", "Placed"]

_MOST_TOLD = 8  # adapters whose weights an answer tells


@dataclass(frozen=True, eq=False)
class Placed:
    """Where a batch of prompts goes.

    Attributes:
        verdicts: One for each.
        weights: Deciding site to what the adapters are multiplied by, shape (prompt, adapter).
    """

    verdicts: Sequence[Verdict]
    weights: Mapping[str, Tensor]


class Chooser:
    """Chooses among adapters as ``clora eval`` applies them, and tells it as ``clora route`` does.

    Args:
        routing: The weights' source.
        shown: Adapters that share what is told, as ``--top-k`` of ``clora route``; 0 for all.
        names: The adapters' names.
        version: The package's.
    """

    def __init__(self, routing: Routing, shown: int, names: Sequence[str], version: str) -> None:
        self.routing, self._shown, self._names, self._version = routing, shown, names, version

    def among(self, features: Mapping[str, Tensor], inputs: Sequence[Input], *, full: bool = False) -> Placed:
        """Decide where prompts go.

        Args:
            features: Deciding site to the prompts' features, shape (prompt, feature).
            inputs: The prompts.
            full: Whether verdicts hold all adapters' weights at every site, not the largest ones alone.

        Raises:
            CloraError: If the features are not finite.
        """
        return self.by(self.routing.similarities(features), inputs, full=full)

    def by(self, similarities: Mapping[str, Tensor], inputs: Sequence[Input], *, full: bool = False) -> Placed:
        """Decide where prompts go, by their similarities to the adapters at each deciding site; else as ``among``."""
        applied = self.routing.weights(similarities)
        check_finite(applied, inputs[0].where)
        shown = Decided(inputs, self.routing.weights(similarities, top_k=self._shown))
        used, reasons = mean_over(applied, list(applied)), self._reasons(shown, nearness(similarities))
        verdicts = []
        for row, reason in enumerate(reasons):
            sites = {site: one[row] for site, one in shown.sites.items()} if full else {}
            verdicts.append(self._verdict(shown.weights[row], used[row], reason, sites))
        return Placed(verdicts, applied)

    def after(self, weights: Mapping[str, Tensor]) -> Placed:
        """Return what a forward pass that decided for itself found, by deciding site."""
        reason = f"by the answer's own forward pass: {self.routing.similarity}"
        return Placed([self._verdict(row, row, reason, {}) for row in mean_over(weights, list(weights))], weights)

    def _verdict(self, shown: Tensor, used: Tensor, reason: str, sites: Mapping[str, Tensor]) -> Verdict:
        most, best = 0 if sites else _MOST_TOLD, int(shown.argmax())
        return Verdict(
            self._names[best] if shown[best] > 0 else None,
            round(float(shown[best]), 6),
            reason,
            self._version,
            named_weights(shown, self._names, most),
            named_weights(used, self._names, most),
            {site: named_weights(one, self._names) for site, one in sites.items()},
        )

    def _reasons(self, shown: Decided, near: Tensor) -> list[str]:
        among = f"nearest of {len(self._names)} by {self.routing.similarity}"
        far = f"too far from every adapter: nearness %.6g is below {self.routing.threshold or 0:.6g}"
        return [far % value if one is None else among for one, value in zip(shown.chosen, near.tolist(), strict=True)]
