"""Start each LoRA from the parts of earlier ones that its task's rows feel most, and keep it out of their subspaces from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.lora import Factor, recompress
from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Method, Run

__all__ = ["LbCl"]

_Triplets = tuple[Tensor, Tensor, Tensor]  # U (out, rank), singular values (rank,), V (rank, in)
_SIDES = ("a", "b")
_ROUNDING = 1e-6  # of the largest singular value, up to which one counts as 0


@dataclass(frozen=True, kw_only=True)
class LbCl(Method):
    """Start each LoRA from the parts of earlier ones that its task's rows feel most, and keep it out of their subspaces from there.

    Each earlier delta is decomposed, ``delta_k = U_k diag(l_k) V_k``. A few seed rows of the new task say how sensitive its loss is to
    triplet i of task k: ``S_ik = S(l) + mean_j S(U_ji) + mean_j S(V_ij)`` with ``S(w) = |w dL/dw|``, mean over the rows (eq. 7). The new
    LoRA starts from ``{sum_k a_ik U_i, sum_k a_ik l_i, sum_k a_ik V_i}`` with ``a_ik = S_ik / sum_k S_ik`` (eq. 8), on top of the sum of
    all earlier ones: what is known is used twice, and trained on. What training changes of lora_B is orthogonal to all ``U_k``, of
    lora_A to all ``V_k`` (eq. 9).

    Args:
        seeds: Seed rows, at least 1: the first that the run trains on.

    References:
        Qiao and Mahdavi, Learn More, but Bother Less: Parameter Efficient Continual Learning (LB-CL), NeurIPS 2024, section 2
        (openreview ZxtaNh5UYB; builds on AdaLoRA, arXiv:2303.10512). No code of the authors' is public. 8 rows are the paper's.
        Differs: the triplets are the singular value decomposition of each delta. The paper trains three matrices, and a penalty holds
        two of them nearly orthogonal.
        Differs: a triplet's sign, which no decomposition determines, is that under which it agrees with the first task's.
        Differs: of a LoRA of another rank the leading triplets count. Where no earlier one has a triplet that is felt, by a smaller rank or
        at a layer that none adapts, the new LoRA starts as a fresh one.
        Differs: orthogonal to the whole subspace of all earlier triplets. Printed is the sum of projections onto one after the other,
        which takes too much where these overlap.
        Differs: what a step changed is projected, not its gradient, so that no optimizer's momentum leads back.
    """

    seeds: int = 8

    def __post_init__(self) -> None:
        """Check the option."""
        check_option("lb-cl", "seeds", self.seeds, "[1, inf)")

    def begin(self, run: Run) -> None:
        """Measure, set the start, and keep it; where a run is continued, its checkpoint has all of it."""
        if run.step or not run.past:
            return
        if not all(side.requires_grad for own in run.trainable.values() for side in (own.a, own.b)):
            raise OptionError(
                "lb-cl starts both factors of a LoRA, and another method of this run trains only one; leave it out",
                code="methods-disagree",
            )
        earlier = [adapter.factors() for adapter in run.past]
        fresh = {site: own.a.detach().clone() for site, own in run.trainable.items()}
        known = {
            site: [triplets(one[site] if site in one else _nothing(own), own.rank) for one in earlier]
            for site, own in run.trainable.items()
        }
        felt = [
            self.sensitivities(run, {site: one[number] for site, one in known.items()})
            for number in range(len(earlier))
        ]
        for site, own in run.trainable.items():
            began = start(known[site], torch.stack([one[site] for one in felt]))
            # From two zeros nothing would ever be learned: no slope leads away from them.
            empty = (began.b == 0).all(dim=0)[:, None]
            _set(own, began.b / own.scaling, torch.where(empty, fresh[site].cpu(), began.a))
            spanned = {"a": [v.mT for _, _, v in known[site]], "b": [u for u, _, _ in known[site]]}
            for side in _SIDES:
                run.kept[f"start_{side}/{site}"] = getattr(own, side).detach().clone()
                run.kept[f"basis_{side}/{site}"] = basis(torch.cat(spanned[side], dim=1), site)

    def sensitivities(self, run: Run, known: Mapping[str, _Triplets]) -> dict[str, Tensor]:
        """Return how sensitive the seed rows' loss is to each triplet of an earlier adapter, by site, shape (rank,).

        With ``V`` as the new LoRA's lora_A, and lora_B 0, the gradient of lora_B is ``s dL/d(delta) V^T``; with ``U`` as its lora_B,
        and lora_A 0, that of lora_A is ``s U^T dL/d(delta)``: no gradient of a whole matrix is formed.
        """
        seeds = list(dict.fromkeys(row for batch in run.batches for row in batch))[: self.seeds]
        found = {site: torch.zeros_like(values) for site, (_, values, _) in known.items()}
        for row in seeds:
            right = _slopes(run, {site: (torch.zeros_like(u), v) for site, (u, _, v) in known.items()}, row)
            left = _slopes(run, {site: (u, torch.zeros_like(v)) for site, (u, _, v) in known.items()}, row)
            for site, (u, values, v) in known.items():
                of_u, of_v = u * right[site].b, v * left[site].a
                of_values, of_u, of_v = values * of_u.sum(dim=0), of_u * values, of_v * values[:, None]
                found[site] += of_values.abs() + of_u.abs().mean(dim=0) + of_v.abs().mean(dim=1)
        return {site: total / len(seeds) for site, total in found.items()}

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Take back what the step changed within earlier tasks' subspaces."""
        for site, factor in run.trainable.items() if run.past else ():
            for side in _SIDES:
                own = getattr(factor, side)
                held, began = (run.kept[f"{what}_{side}/{site}"].to(own) for what in ("basis", "start"))
                change = own - began
                own.sub_(change @ held @ held.mT if side == "a" else held @ (held.mT @ change))


def triplets(factor: Factor, rank: int) -> _Triplets:
    """Return the leading singular triplets of a delta, as many as asked for, those that are missing as 0; float32."""
    small, _, _ = recompress(Factor(factor.a.cpu(), factor.b.cpu(), factor.scaling), rank)
    values = small.b.norm(dim=0) * small.a.norm(dim=1)
    real = values > _ROUNDING * values.max()  # what is beyond a delta's rank has no direction
    return (
        functional.normalize(small.b, dim=0) * real,
        values * real,
        functional.normalize(small.a, dim=1) * real[:, None],
    )


def start(known: Sequence[_Triplets], felt: Tensor) -> Factor:
    """Return the LoRA made of earlier triplets, with scaling 1.

    Args:
        known: Of each earlier adapter.
        felt: How sensitive the new task is to each of them, shape (adapter, rank).
    """
    u, values, v = (torch.stack(side) for side in zip(*known, strict=True))  # (adapter, ...)
    weights = felt / felt.sum(dim=0).clamp(min=torch.finfo(felt.dtype).tiny)
    agrees = (u * u[0]).sum(dim=1) + (v * v[0]).sum(dim=2)
    turned = weights * torch.where(agrees < 0, -1.0, 1.0)
    root = (weights * values).sum(dim=0).sqrt()
    return Factor(root[:, None] * (turned[:, :, None] * v).sum(dim=0), root * (turned[:, None] * u).sum(dim=0), 1.0)


def basis(vectors: Tensor, site: str) -> Tensor:
    """Return an orthonormal basis of what columns span, shape (size, number).

    Raises:
        MismatchError: If that is everything.
    """
    left, sizes, _ = torch.linalg.svd(vectors.double(), full_matrices=False)
    found: Tensor = left[:, sizes > 1e-5 * sizes[0].clamp(min=1e-30)]
    if found.shape[1] == len(found):
        raise MismatchError(
            f"earlier adapters use all {len(found)} dimensions of layer '{site}', so that nothing could be learned there; pass a smaller "
            "--rank from the first task on",
            code="no-room-for-rank",
        )
    return found.float().contiguous()


def _nothing(like: Factor) -> Factor:
    return Factor(torch.zeros_like(like.a), torch.zeros_like(like.b), 1.0)


@torch.no_grad()
def _set(own: Factor, b: Tensor, a: Tensor) -> None:
    own.b.copy_(b)
    own.a.copy_(a)


def _slopes(run: Run, held: Mapping[str, tuple[Tensor, Tensor]], row: int) -> dict[str, Factor]:
    """Return the slopes of one row's loss by the new LoRA's factors over its scaling, with other numbers (B, A) in their place."""
    for site, (b, a) in held.items():
        _set(run.trainable[site], b, a)
    found = {id(parameter): slope.cpu() for parameter, slope in run.slopes([row])}
    return {
        site: Factor(found[id(own.a)] / own.scaling, found[id(own.b)] / own.scaling, 1.0)
        for site, own in run.trainable.items()
    }
