"""What a run's model has to say about its own training rows, for methods that ask (layer L3)."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from clora_cli.base.progress import Progress, Silent
from clora_cli.data import Collator, uses_chat
from clora_cli.model.attribution import Answer, attributions, down_projections
from clora_cli.model.features import prompt_ids
from clora_cli.model.task_vectors import embeddings
from clora_cli.processes.ranks import own_share, processes, summed
from clora_cli.training.answer_logits import answer_logits
from clora_cli.training.build import Built
from clora_cli.training.plan import Plan

__all__ = ["RunProbe", "affordable_rows", "undisturbed"]

_SHARE = 0.1  # of the training's own cost
_MOST_ROWS = 32
_PASS = 0.8  # of a row's pass in training: no padding, no logits but the answer's, no gradients of parameters


class RunProbe:
    """Asks the model of a run; training goes on afterwards as if it had not been asked.

    Every answer is about the base model with one adapter alone, the new one or an earlier one, in evaluation mode.

    Args:
        plan: The run.
        built: Its model.
        items: Its encoded training rows.
        progress: Who to warn.
    """

    def __init__(
        self, plan: Plan, built: Built, items: Sequence[Mapping[str, list[int]]], progress: Progress | None = None
    ) -> None:
        self._plan, self._built, self._items = plan, built, items
        self._progress, self._warned = progress or Silent(), False
        self.seconds = 0.0

    @property
    def past(self) -> int:
        """Number of earlier adapters that the run builds on."""
        return len(self._plan.parents)

    def attribution(
        self,
        adapter: int | None,
        *,
        steps: int,
        rows: int | None,
        together: bool,
        answer: Answer,
        calls: int = 1,
    ) -> Tensor:
        """Return every knowledge neuron's attribution to the right answers; see ``methods.Probe``.

        The rows are a sample drawn by the run's seed, the same at every call. Several processes share them out and get
        the same answer. It is on the CPU.
        """
        began = time.monotonic()
        if rows is None:
            rows = self._affordable(steps * calls, together)
        total = torch.zeros(sum(self._layers.values()))
        with undisturbed(self._built.model), self._alone(adapter):
            for row in own_share(self._chosen[:rows]):
                total = total + self._attribute(row, steps, together, answer)
        total = summed(total, self._built.backbone.device)
        self.seconds += time.monotonic() - began
        return total / min(rows, len(self._items))

    def fisher(self, rows: int) -> dict[str, dict[str, Tensor]]:
        """Return the diagonal of the new adapter's empirical Fisher information; see ``methods.Probe``.

        Row by row: it is the square of each row's own gradient that counts. Several processes share the rows out and get
        the same answer. It is on the CPU.
        """
        sides = {f"lora_{side}": self._parameters(side) for side in "AB"}
        flat = [parameter for found in sides.values() for parameter in found.values()]
        totals = [torch.zeros_like(parameter) for parameter in flat]
        chosen = self._chosen[:rows]
        with undisturbed(self._built.model):
            for parameter in flat:
                parameter.requires_grad_(True)
            for row in own_share(chosen):
                slopes = torch.autograd.grad(self._log_likelihood(row), flat)
                totals = [total + slope.square() for total, slope in zip(totals, slopes, strict=True)]
        means = iter([summed(total, self._built.backbone.device).cpu() / len(chosen) for total in totals])
        return {name: {site: next(means) for site in found} for name, found in sides.items()}

    def stored(self, adapter: int) -> Mapping[str, Tensor]:
        """Return what an earlier adapter holds in its ``state.clora``."""
        return self._plan.parents[adapter].state()

    def embeddings(self) -> Tensor:
        """Return E(x) of the training rows, shape (row, hidden), each of norm 1, on the CPU."""
        plan, backbone = self._plan, self._built.backbone
        chat = uses_chat(plan.task, backbone.tokens)
        ids = prompt_ids(backbone, plan.rows, max_length=plan.options.max_length, chat=chat)
        with undisturbed(self._built.model):
            return embeddings(backbone, ids).cpu()

    @property
    def batches(self) -> Sequence[Sequence[int]]:
        """The numbers of the task's own rows of each optimizer step."""
        options, order = self._plan.options, self._plan.order
        size, own = options.batch_size * options.grad_accum, len(self._plan.rows)
        steps = [order[start : start + size] for start in range(0, len(order), size)]
        return [[row for row in step if row < own] for step in steps] if self._plan.memory else steps

    @property
    def seed(self) -> int:
        """The seed of this task's run."""
        return self._plan.seed

    @cached_property
    def _layers(self) -> Mapping[str, int]:
        return down_projections(self._built.model)

    @cached_property
    def _chosen(self) -> list[int]:
        # Apart from the order of training, so that it is not the rows of the first steps that are asked about.
        chosen = list(range(len(self._items)))
        random.Random(f"{self._plan.seed}/probe").shuffle(chosen)
        return chosen

    def _affordable(self, steps: int, together: bool) -> int:
        found = affordable_rows(len(self._plan.order), steps, 1 if together else len(self._layers))
        if found < 1 and not self._warned:
            self._warned = True
            self._progress.warn(
                f"attributing a single row takes about {_SHARE / found:.0%} of the training's own cost; "
                "all layers together, or fewer steps, cost less"
            )
        return max(1, min(_MOST_ROWS, int(found)))

    def _parameters(self, side: str) -> dict[str, Tensor]:
        return {site: factor.a if side == "A" else factor.b for site, factor in self._built.trainable.items()}

    def _batch(self, row: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return one row as the model takes it, and its labels."""
        backbone = self._built.backbone
        inputs = {n: t.to(backbone.device) for n, t in Collator(backbone.tokens)([self._items[row]]).items()}
        labels = inputs.pop("labels")
        if backbone.kind == "seq2seq":
            inputs["decoder_input_ids"] = backbone.tokens.decoder_inputs(labels)
        return inputs, labels

    def _log_likelihood(self, row: int) -> Tensor:
        inputs, labels = self._batch(row)
        logits = self._built.model(**inputs, use_cache=False)["logits"]
        new, tokens = answer_logits(logits, labels, self._built.backbone.kind == "causal")
        return -functional.cross_entropy(new, tokens, reduction="sum")

    def _attribute(self, row: int, steps: int, together: bool, answer: Answer) -> Tensor:
        options = self._plan.options
        inputs, labels = self._batch(row)
        return attributions(
            self._built.model,
            inputs,
            labels,
            self._layers,
            steps=steps,
            together=together,
            answer=answer,
            # No more copies than a batch has rows; and one where training saves memory, which this pass cannot: checkpoints
            # are of models in training mode.
            at_once=1 if options.gradient_checkpointing else max(1, options.batch_size // processes()),
        ).cpu()

    @contextlib.contextmanager
    def _alone(self, adapter: int | None) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._built.bank.only(adapter))
            if adapter is not None:
                stack.enter_context(self._built.model.disable_adapter())
            yield


def affordable_rows(order: int, steps: int, layers: int) -> float:
    """Estimate how many rows can be attributed at a tenth of the training's cost.

    It is counted in passes of a row, forward and backward: training takes one for each row that it reads. Scaling all
    layers at once takes one for each scaled copy. Scaling them one after the other runs, for each, the blocks from
    that layer up alone: over ``L`` layers ``(L + 1) / 2`` passes for each copy. Such a pass counts as 0.8 of one in
    training; on the bundled model it was measured as 0.7.

    Args:
        order: Rows that the run reads, over all epochs.
        steps: Scaled copies of a row that the run makes for each group of layers, over all calls.
        layers: Layers scaled one after the other; 1 where all are scaled at once.

    Returns:
        The number of rows; below 1 where even one costs more.
    """
    return _SHARE * order / (_PASS * steps * (layers + 1) / 2)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """For a while, put a model into evaluation mode with parameters that need no gradient; then put it back."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode
