"""Train one pool of soft prompts through all tasks; each input gets those whose keys are nearest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Batch, Method, Planned, Run
from clora_cli.methods._gates import cosine, drawn
from clora_cli.methods._kept import check_kept
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["L2p"]

_KEYS, _COUNTS = "keys", "counts"


@dataclass(frozen=True, kw_only=True)
class L2p(Method):
    """Train one pool of soft prompts through all tasks; each input gets those whose keys are nearest to it.

    An input's query q is the mean of its tokens' frozen embeddings. It gets the ``chosen`` prompts of the smallest
    ``1 - cos(q, k_i)``, the nearest first; in training from the second task on, of the smallest ``f_i (1 - cos(q, k_i))``, with f_i
    the share of earlier tasks' choices that fell on prompt i, so that tasks share the pool out. The loss has ``pull`` times the sum of
    ``1 - cos(q, k_i)`` over an input's choices, mean over inputs. An adapter is the pool as its task left it; the last is
    used for all tasks, without the task's identity.

    Args:
        pool: Prompts in the pool, at least 1.
        length: Virtual tokens of each, at least 1.
        chosen: Prompts that an input gets, from 1 to ``pool``.
        pull: The weight of the keys' term, at least 0.

    References:
        Wang et al., Learning to Prompt for Continual Learning, CVPR 2022, arXiv:2112.08654, eq. 2 to 5. Keys, choice and the keys'
        term are those of its published code (google-research/l2p@dd8836e); sizes and ``pull`` those of its port to language models
        (which47/LLMCL@a9dae12), where that code has a ``pull`` of 1. The f_i are eq. 4, in training alone; neither code has them. Of
        others' code one has them as here (``scaled_frequency``), from the second task on; another multiplies a similarity by their
        complement; a port of the whole (JH-LEE-KR/l2p-pytorch@f7bc994) has none.
        Differs: the choice is each input's own, where the published code lets a batch vote.
        Differs: q is of token embeddings, padding left out; the paper takes a frozen encoder's, the port a mean over padding too, so
        that a choice depends on the batch.
        Differs: keys are learned, as in the paper; the port takes the mean of a prompt's own vectors.
    """

    past = "none"
    start = "previous"
    combine = "learned"
    lr: ClassVar[float | None] = 0.03

    pool: int = 10
    length: int = 5
    chosen: int = 3
    pull: float = 0.5

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("pool", "length", "chosen"):
            check_option("l2p", name, getattr(self, name), "[1, inf)")
        check_option("l2p", "pull", self.pull, "[0, inf)")
        if self.chosen > self.pool:
            raise OptionError(
                f"l2p: -o chosen={self.chosen} of a pool of {self.pool}; choose no more than there are",
                code="option-out-of-range",
            )

    def virtual_tokens(self) -> int:
        """Return the tokens of the whole pool."""
        return self.pool * self.length

    def check(self, plan: Planned) -> None:
        """Check that the last adapter has a pool of this size.

        Raises:
            MismatchError: If not.
        """
        lacking = (
            f"has no pool of {self.pool} prompts of {self.length} tokens with their keys; train the whole package with l2p and the "
            "same options"
        )
        check_kept(plan.past[-1:], self._fits, lacking)

    def begin(self, run: Run) -> None:
        """Go on with the pool and its keys, or draw them."""
        last = run.past[-1] if run.past else None
        kept = last.state() if last else {}
        start = last.prompt() if last else run.drawn_tokens(self.virtual_tokens())
        pool = run.parameter("pool", start, lasts=False)
        run.parameter(_KEYS, kept.get(_KEYS, drawn(run, self.pool, start.shape[1])))
        run.kept.setdefault("before", kept.get(_COUNTS, torch.zeros(self.pool)))
        run.kept.setdefault("now", torch.zeros(self.pool))
        first = len(start) if last else 0
        run.prompt(lambda: pool, lambda rows: first + self._tokens(self._nearest(run, rows)[0]))

    def loss(self, run: Run, batch: Batch) -> Tensor:
        """Return the batch's part of the keys' term of the step, and count its choices."""
        places, far = self._nearest(run, batch.rows)
        run.kept["now"] += torch.bincount(places.flatten().cpu(), minlength=self.pool)
        return self.pull * far.gather(1, places).sum() / len(run.batches[run.step])

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return how often each prompt was chosen, over all tasks."""
        return {_COUNTS: run.kept["before"] + run.kept["now"]}

    def choose(self, states: Sequence[Mapping[str, Tensor]], lengths: Sequence[int], queries: Tensor) -> Tensor:
        """Return each input's virtual tokens, shape (input, token), of the last pool."""
        return sum(lengths[:-1]) + self._tokens(nearest(distances(states[-1][_KEYS].to(queries), queries), self.chosen))

    def _fits(self, member: AdapterFolder) -> bool:
        keys = member.state().get(_KEYS)
        return keys is not None and len(keys) == self.pool and len(member.prompt()) == self.virtual_tokens()

    def _nearest(self, run: Run, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return training rows' prompts, shape (row, chosen), and all keys' distances, shape (row, prompt)."""
        keys, before = run.own[_KEYS], run.kept["before"]
        far = distances(keys, run.embeddings()[rows.cpu()].to(keys))
        shares = before / before.sum() if before.any() else torch.ones(self.pool)
        return nearest(far.detach() * shares.to(far), self.chosen), far

    def _tokens(self, places: Tensor) -> Tensor:
        inner = torch.arange(self.length, device=places.device)
        return (places[..., None] * self.length + inner).flatten(1)


def distances(keys: Tensor, queries: Tensor) -> Tensor:
    """Return ``1 - cos(q, k)``, shape (input, prompt)."""
    return 1 - cosine(queries, keys)


def nearest(far: Tensor, count: int) -> Tensor:
    """Return the places of each row's smallest numbers, the smallest first, shape (row, count)."""
    return far.argsort(dim=1, stable=True)[:, :count]
