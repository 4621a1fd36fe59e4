"""Methods whose adapters are weighed, input by input, by what each learned: a gate with five choices.

A member of the family says which query stands for an input, by what map it goes, how it is scored against what an adapter
keeps, how scores become weights, and what constrains training. The query of all is the mean of the prompt's frozen token
embeddings, padding left out; so that of an input does not depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.errors import MismatchError
from clora_cli.methods import Method, Planned, Run

__all__ = ["Gated", "cosine", "cosines", "drawn"]

_KEY = "key"


@dataclass(frozen=True, kw_only=True)
class Gated(Method):
    """Base of the family: earlier adapters and gates are frozen, the new ones are trained together."""

    past = "weighted"
    combine = "learned"
    grows = True
    needed: ClassVar[tuple[str, ...]] = (_KEY,)

    def check(self, plan: Planned) -> None:
        """Check that all earlier adapters learned a gate of the same kind.

        Raises:
            MismatchError: If one keeps none.
        """
        for member in plan.past:
            if missing := sorted(set(self.needed) - set(member.state())):
                raise MismatchError(
                    f"adapter {member.path} keeps no '{missing[0]}', by which this method weighs it; train the whole package "
                    "with the same method",
                    code="method-state-missing",
                )

    def check_width(self, plan: Planned, tensor: str, width: int) -> None:
        """Check that the last gate, which the new one goes on from, has the width that is asked for.

        Args:
            plan: The run.
            tensor: The gate's tensor that has a row for each of its outputs.
            width: The option.

        Raises:
            MismatchError: If it has another.
        """
        if plan.past and (found := len(plan.past[-1].state()[tensor])) != width:
            raise MismatchError(
                f"the gate of {plan.past[-1].path} has a width of {found}, and the new one goes on from it; pass -o width={found}",
                code="gate-width-differs",
            )

    def gate(self, run: Run, queries: Tensor) -> Mapping[str, Tensor]:
        """Return where the new gate's tensors start, by name, from the task's queries, shape (row, hidden)."""
        return {_KEY: drawn(run, queries.shape[1])}

    def begin(self, run: Run) -> None:
        """Make the gate trainable, and weigh the adapters by all gates from now on."""
        queries = run.embeddings()
        earlier = [adapter.state() for adapter in run.past]
        for name, start in self.gate(run, queries).items():
            run.parameter(name, start)
        if run.memory:  # of a filter beside this method, say, which asks for gradients of remembered rows
            queries = torch.cat([queries, run.embedded(run.memory).to(queries)])

        def weigh(rows: Tensor, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            return {"": self.weigh([*earlier, run.own], queries[rows.cpu()].to(rows.device))}

        run.mix(weigh)


def drawn(run: Run, *shape: int) -> Tensor:
    """Return uniform numbers of variance 1 / (last size), by the run's seed and the shape."""
    generator = torch.Generator().manual_seed(run.seed % (1 << 62))
    bound = (3 / shape[-1]) ** 0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def cosines(states: Sequence[Mapping[str, Tensor]], queries: Tensor) -> Tensor:
    """Return the cosines of queries, shape (input, hidden), with each adapter's key, shape (input, adapter)."""
    return cosine(queries, torch.stack([state[_KEY].to(queries) for state in states]))


def cosine(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the cosines of queries, shape (input, hidden), with keys, shape (key, hidden), as shape (input, key)."""
    return functional.normalize(queries, dim=1) @ functional.normalize(keys, dim=1).mT
