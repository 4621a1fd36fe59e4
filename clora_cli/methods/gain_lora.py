"""Give each LoRA of inf-lora a gate that stays shut for inputs of earlier tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.base.errors import MismatchError
from clora_cli.base.intervals import check_option
from clora_cli.methods import Planned, Run
from clora_cli.methods._gates import Gated, drawn
from clora_cli.methods._input_bases import InputBases, grown, leading, residual

__all__ = ["GainLora"]

_PARTS = ("first", "second", "key")  # of a gate: two maps and the key


@dataclass(frozen=True, kw_only=True)
class GainLora(Gated, InputBases):
    """Give each LoRA of inf-lora a gate that stays shut for inputs of earlier tasks.

    ``W x + sum_{i<=t} a_i(q) delta_i x`` with ``a_i = |2 sigmoid(4 c_i) - 1|``, ``c_i = cos(g_i(q), k_i)`` and
    ``g_i(q) = SiLU(V_i SiLU(U_i q))``. Every task has its own U, V and k, the earlier ones frozen. The new gate starts as the last
    one, with a key orthogonal to what earlier inputs come to as g; and U, V and k never change along what earlier inputs are to
    each of them, so that ``a_t`` stays 0 there. The LoRAs are inf-lora's.

    Args:
        energy: As in inf-lora, and of the second moments of the gate's three inputs.
        tasks: As in inf-lora.
        width: Outputs of U and of V, at least 1.

    References:
        Liang and Li, Gated Integration of Low-Rank Adaptation for Continual Learning of Language Models (GainLoRA), NeurIPS
        2025, arXiv:2505.15424; energy 0.995 and width 100 are the published code's.
        Differs: q is the mean over the prompt's own tokens at norm 1; the published code divides by the padded length, so that a gate
        depends on the batch.
        Differs: rows keep no norm after the projection, which in the code leaves what was projected only nearly orthogonal.
        Differs: with ``tasks=0`` the share of the energy stays; the code has 15 tasks built in.
        Differs: the embedding is not cut into chunks for its decomposition.
    """

    past = "weighted"
    combine = "learned"
    fixed_a = True
    needed = (*_PARTS, *(f"of_{name}" for name in _PARTS))

    energy: float = 0.995
    tasks: int = 0
    width: int = 100

    def __post_init__(self) -> None:
        """Check the options."""
        check_option("gain-lora", "energy", self.energy, "(0, 1]")
        check_option("gain-lora", "tasks", self.tasks, "[0, inf)")
        check_option("gain-lora", "width", self.width, "[1, inf)")

    def check(self, plan: Planned) -> None:
        """Check that all earlier adapters learned a gate of the same kind and width.

        Raises:
            MismatchError: If one did not.
        """
        super().check(plan)
        self.check_width(plan, "first", self.width)

    def begin(self, run: Run) -> None:
        """Open the gates, then set lora_A from the inputs that the gated model has."""
        Gated.begin(self, run)
        InputBases.begin(self, run)

    def gate(self, run: Run, queries: Tensor) -> Mapping[str, Tensor]:
        """Return the last gate with a key that earlier inputs are orthogonal to; random at the first task."""
        if not run.past:
            size = queries.shape[1]
            shapes = ((self.width, size), (self.width, self.width), (self.width,))
            return {name: drawn(run, *shape) for name, shape in zip(_PARTS, shapes, strict=True)}
        last = run.past[-1].state()
        run.kept |= {f"before_{name}": last[name] for name in _PARTS} | {
            f"of_{name}": last[f"of_{name}"] for name in _PARTS
        }
        basis, inputs = last["of_key"].double(), list(_inputs(last, queries))[-1].double()
        if basis.shape[1] == len(basis):
            raise MismatchError(
                f"earlier tasks' inputs fill all {len(basis)} dimensions of gain-lora's gate; pass a smaller -o energy= from the first "
                "task on, or a larger -o width=",
                code="no-room-for-gate",
            )
        direction = leading(residual(_moment(inputs), basis), basis, 1, run.seed)[:, 0]
        key = direction.to(last["key"]) * last["key"].norm()
        run.kept["before_key"] = key
        return {**{name: last[name] for name in _PARTS}, "key": key}

    def weigh(self, states: Sequence[Mapping[str, Tensor]], queries: Tensor) -> Tensor:
        """Return how far each gate is open for each input, shape (input, adapter), in [0, 1)."""
        found = []
        for state in states:
            mapped = list(_inputs(state, queries))[-1]
            found.append(functional.cosine_similarity(mapped, state["key"].to(mapped)[None], dim=1))
        return (2 * torch.sigmoid(4 * torch.stack(found, dim=1)) - 1).abs()

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Take back what the step changed along earlier inputs."""
        for name in _PARTS if run.past else ():
            own, basis = run.own[name], run.kept[f"of_{name}"].to(run.own[name])
            change = own - run.kept[f"before_{name}"].to(own)
            own.sub_(change @ basis @ basis.mT)

    def finish(self, run: Run) -> Mapping[str, Tensor]:
        """Return inf-lora's bases, and those of the gate's inputs, which this task's have made grow."""
        kept = dict(InputBases.finish(self, run))
        gate = {name: tensor.detach().cpu() for name, tensor in run.own.items()}
        for name, inputs in zip(_PARTS, _inputs(gate, run.embeddings()), strict=True):
            moment = _moment(inputs.double())
            old = run.kept[f"of_{name}"].cpu().double() if run.past else moment[:, :0]
            kept[f"of_{name}"] = grown(moment, old, self.share(len(run.past) + 1)).float()
        return kept


def _inputs(gate: Mapping[str, Tensor], queries: Tensor) -> Iterator[Tensor]:
    """Yield what U, V and the key of a gate take in, shape (input, width of each)."""
    yield queries
    for name in _PARTS[:-1]:
        queries = functional.silu(queries @ gate[name].to(queries).mT)
        yield queries


def _moment(vectors: Tensor) -> Tensor:
    return vectors.mT @ vectors / len(vectors)
