"""Train each LoRA with earlier ones as prior knowledge, chosen input by input by feature distributions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from clora_cli.algebra.statistics import Moments, SecondMoment
from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Planned, Run
from clora_cli.options import RouteOptions
from clora_cli.routing.weights import Routing, common_sites
from clora_cli.store.distribution import agree, read_distribution, read_record, read_sites
from clora_cli.store.feature_record import FeatureRecord, Pool, Text

__all__ = ["Pfd"]


@dataclass(frozen=True, kw_only=True)
class Pfd(Method):
    """Train each LoRA with earlier ones as prior knowledge, chosen input by input by feature distributions.

    ``W_0 h + sum_j softmax_j(Phi(x, D_j) / T) delta_j h`` (eq. 6) over the earlier, frozen adapters and the new one, or over
    the most similar of them. D_j are moments of the base model's pooled features of task j's training inputs. They are
    complete before the first step, and depend on no adapter: any packages' adapters go together afterwards
    (``clora expand``). At test the same choice is made among all adapters, without the task's identity.

    Args:
        similarity: A router with its options, such as ``l2`` or ``mahalanobis,shrinkage=0.01``.
        train_top_k: Adapters in an input's mixture while training; 0 for all. With 1, the published scripts' value, and
            ``current=included`` the new adapter learns alone; with more, earlier ones take part as prior knowledge.
        test_top_k: The same at test; 0 for all. An adapter that learned within a mixture is best used in one.
        temperature: T, above 0.
        layer: Whose features decide: ``all`` has each site decide for itself, else ``middle``, ``last`` or blocks' numbers,
            joined by commas.
        module: Ending of the projections that decide, such as ``v_proj``; empty for all.
        current: ``included`` gives the new adapter a place among the top-k whatever its similarity, so that it learns from
            every row; ``compete`` may leave it without any, as the published code does.
        floor: The new adapter's weight while training is at least this, in [0, 1).
        pool: How features are pooled over the tokens of a prompt.
        text: Take features of the whole ``prompt`` or of its ``body``, without instruction and cue.
        second_moment: What to keep for later similarities; auto is ``full`` where the similarity needs second moments,
            else ``none``.

    References:
        Exploiting Presentative Feature Distributions for Parameter-Efficient Continual Learning of Large Language Models,
        ICML 2025, eq. 3-6; replaces the trained selection of SAPT, arXiv:2401.08295.
        Differs: features come from the frozen base model, as the paper says, where its code takes them from the model
        that is being trained. ``clora stat-features --source adapted`` takes them of the trained adapter.
        Differs: the new task's distribution is complete from the start, where the published code updates it batch by
        batch in half precision, and is accumulated in float64; the mean over tokens is not in the paper.
        Differs: the new adapter always takes part; with ``current=compete`` and top-1, rows nearer to an old task teach
        it nothing.
        Differs: gradients reach lower layers through earlier adapters, which are frozen as in the paper; the published code lets
        none through.
        Differs: no paper has ``mahalanobis``.
    """

    past = "route"
    combine = "route"
    grows = True

    similarity: str = registry.naming("routers", "l2")
    train_top_k: int = 1
    test_top_k: int = 1
    temperature: float = 1.0
    layer: str = "all"
    module: str = ""
    current: Literal["included", "compete"] = "included"
    floor: float = 0.0
    pool: Pool = "prompt-mean"
    text: Text = "prompt"
    second_moment: Literal["auto", "none", "diag", "full"] = "auto"

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("pfd", "floor", self.floor, "[0, 1)")
        check_option("pfd", "temperature", self.temperature, "(0, inf)")
        for name in ("train_top_k", "test_top_k"):
            check_option("pfd", name, getattr(self, name), "[0, inf)")
        self.routing()  # knows whether there is such a router
        if self.similarity != "auto" and (reads := registry.bound("routers", self.similarity).reads) != "features":
            raise OptionError(
                f"option similarity={self.similarity} of pfd compares adapters' {reads}; choose one that compares features, such as l2",
                code="similarity-reads-otherwise",
            )

    def routing(self) -> RouteOptions:
        """Return how adapters are mixed at test."""
        return self._options(self.test_top_k)

    def check(self, plan: Planned) -> None:
        """Check that earlier adapters have distributions, taken as the new one's will be.

        Raises:
            CloraError: If one has none, or another kind.
        """
        new = {"base_model": plan.reference.described(), "data": []}
        new |= {"source": "base", "pool": self.pool, "text": self.text}
        agree(
            [
                (Path("this run"), FeatureRecord(new)),
                *((member.features, read_record(member.features)) for member in plan.past),
            ]
        )

    def begin(self, run: Run) -> None:
        """Take the new task's distribution and let every row choose among all adapters, from the bare base model."""
        own = run.distribution(pool=self.pool, text=self.text, second_moment=self._second())
        run.give_features(own)
        weights = self._weights(run, own.sites)
        weighty = torch.stack([(rows != 0).any(dim=0) for rows in weights.values()]).any(dim=0)
        among = [number for number, some in enumerate(weighty[:-1].tolist()) if some]  # the others need not be read
        chosen = {site: rows[:, [*among, -1]] for site, rows in weights.items()}
        run.mix(lambda rows, inputs: {site: own[rows.cpu()].to(rows.device) for site, own in chosen.items()}, among)

    def _weights(self, run: Run, own: Mapping[str, Moments]) -> dict[str, Tensor]:
        """Return every training row's weights by deciding site, shape (row, adapter), float32; ``own`` is the new one's."""
        how, past = self._options(self.train_top_k), len(run.past)
        count = next(iter(own.values())).count
        if not past or (self.current == "included" and self.train_top_k == 1 and not self._needs_second()):
            alone = torch.zeros(count, past + 1)
            alone[:, -1] = 1
            return dict.fromkeys(common_sites([own], how), alone)
        deciding = common_sites([*(read_sites(adapter.features) for adapter in run.past), own], how)
        known = (read_distribution(adapter.features, deciding).sites for adapter in run.past)
        routing = Routing(itertools.chain(known, [own]), deciding, how)
        found = {site: torch.empty(count, past + 1) for site in deciding}
        for rows, features in run.features(deciding, pool=self.pool, text=self.text):
            # Distributions are in float64, which not every accelerator has: features are on the CPU.
            similarities = routing.similarities(features)
            for site, weights in routing.weights(similarities, past if self.current == "included" else None).items():
                found[site][rows] = with_floor(weights, self.floor)
        return found

    def _second(self) -> SecondMoment:
        if self.second_moment != "auto":
            return self.second_moment
        return "full" if self._needs_second() else "none"

    def _needs_second(self) -> bool:
        return self.similarity != "auto" and bool(registry.bound("routers", self.similarity).needs_second)

    def _options(self, top_k: int) -> RouteOptions:
        return RouteOptions(
            similarity=self.similarity,
            top_k=top_k,
            temperature=self.temperature,
            layer=self.layer,
            module=self.module,
        )


def with_floor(weights: Tensor, floor: float) -> Tensor:
    """Raise the last adapter's weight to a floor in [0, 1), the others sharing the rest as before; rows keep their sum."""
    last = weights[:, -1:].clamp(min=floor)
    rest = weights[:, :-1]
    return torch.cat([rest * ((1 - last) / rest.sum(dim=1, keepdim=True).clamp(min=1e-30)), last], dim=1)
