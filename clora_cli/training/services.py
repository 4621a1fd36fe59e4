"""What methods can ask of a run's model about its training rows (layer L3)."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from clora_cli.algebra.statistics import SecondMoment
from clora_cli.base.errors import MismatchError
from clora_cli.base.progress import Progress, Silent
from clora_cli.data import Collator, uses_chat
from clora_cli.model.attribution import Answer, attributions, down_projections
from clora_cli.model.base_layers import BaseLayers
from clora_cli.model.features import collect_moments, prompt_ids, prompt_sites, read_features
from clora_cli.model.task_vectors import embeddings
from clora_cli.processes.ranks import processes, rounds, summed
from clora_cli.store.distribution import Distribution
from clora_cli.store.feature_record import Pool, Taking, Text
from clora_cli.training.answer_logits import answer_logits, model_inputs, only_answers
from clora_cli.training.build import Built
from clora_cli.training.input_moments import input_moments
from clora_cli.training.plan import Plan
from clora_cli.training.undisturbed import bare, undisturbed

__all__ = ["Services", "affordable_rows"]

_SHARE = 0.1  # of the training's own cost
_MOST_ROWS = 32
_PASS = 0.8  # of a row's pass in training: no padding, no gradients of parameters


class Services:
    """Asks the model of a run; training goes on afterwards as if it had not been asked.

    What a sample of rows is taken for takes the same rows at every call, drawn by the run's seed. Several processes share
    them out and get the same answer. Answers are on the CPU.

    Args:
        plan: The run.
        built: Its model.
        items: Its encoded rows: the task's own, then those of the memory.
        progress: Who to warn.
    """

    def __init__(
        self, plan: Plan, built: Built, items: Sequence[Mapping[str, list[int]]], progress: Progress | None = None
    ) -> None:
        self._plan, self._built, self._items = plan, built, items
        self._own = items[: len(plan.rows)]
        self._progress, self._warned = progress or Silent(), False
        self.seconds = 0.0  # that attributions took

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
        """Return every knowledge neuron's attribution to the right answers; see ``methods.Run``."""
        began = time.monotonic()
        if rows is None:
            rows = self._affordable(steps * calls, together)
        total = torch.zeros(sum(self._layers.values()))
        with undisturbed(self._built.model), self._alone(adapter):
            for row, counts in rounds(self._chosen[:rows], equal=self._sharded):
                total = total + self._attribute(row, steps, together, answer) * counts
        total = summed(total, self._built.backbone.device)
        self.seconds += time.monotonic() - began
        return total / min(rows, len(self._own))

    def fisher(self, rows: int) -> dict[str, dict[str, Tensor]]:
        """Return the diagonal of the new adapter's empirical Fisher information; see ``methods.Run``.

        Row by row: it is the square of each row's own gradient that counts.
        """
        sides = {f"lora_{side}": self._parameters(side) for side in "AB"}
        flat = [parameter for found in sides.values() for parameter in found.values()]
        totals = [torch.zeros_like(parameter) for parameter in flat]
        chosen = self._chosen[:rows]
        with undisturbed(self._built.model):
            for parameter in flat:
                parameter.requires_grad_(True)
            for row, counts in rounds(chosen, equal=self._sharded):
                slopes = torch.autograd.grad(self._log_likelihood(row)[0], flat)
                totals = [total + slope.square() * counts for total, slope in zip(totals, slopes, strict=True)]
        means = iter([summed(total, self._built.backbone.device).cpu() / len(chosen) for total in totals])
        return {name: {site: next(means) for site in found} for name, found in sides.items()}

    def slopes(self, rows: Sequence[int]) -> list[tuple[nn.Parameter, Tensor]]:
        """Return every trained tensor with the gradient of the mean loss per answer token of some rows; see ``methods.Run``."""
        trained = [parameter for parameter in self._built.model.parameters() if parameter.requires_grad]
        totals = [torch.zeros_like(parameter) for parameter in trained]
        tokens = torch.zeros(())
        with undisturbed(self._built.model):
            for parameter in trained:
                parameter.requires_grad_(True)
            for row, counts in rounds(rows, equal=self._sharded):
                likelihood, count = self._log_likelihood(row)
                slopes = torch.autograd.grad(-likelihood * counts, trained, allow_unused=True)
                totals = [
                    total if slope is None else total + slope for total, slope in zip(totals, slopes, strict=True)
                ]
                tokens = tokens + count * counts
        device = self._built.backbone.device
        number = summed(tokens, device).item()
        return [(own, summed(total, device) / number) for own, total in zip(trained, totals, strict=True)]

    @torch.no_grad()
    def losses(self) -> Tensor:
        """Return the mean loss per answer token of each of the task's training rows; see ``methods.Run``."""
        found = torch.zeros(len(self._own))
        with undisturbed(self._built.model):
            for row, counts in rounds(range(len(self._own)), equal=self._sharded):
                likelihood, count = self._log_likelihood(row)
                found[row] += -likelihood.item() / count * counts
        return summed(found, self._built.backbone.device).cpu()

    def input_moments(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each adapted site with the mean of ``x xT`` over its inputs; see ``methods.Run``."""
        yield from input_moments(self._built, self._own, self._plan.options.batch_size)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each adapted site with the weight that the new adapter is added to; see ``methods.Run``."""
        layers, bank = BaseLayers(self._plan.reference), self._built.bank
        for site, factor in self._built.trainable.items():
            weight = layers.weight(site, factor.shape).float()
            if (dense := bank.dense_of([site])) is not None:
                weight = weight + dense[0].cpu()
            elif (past := bank.past_of([site])) is not None:
                weight = weight + past[1][0].cpu().float() @ past[0][0].cpu().float()
            yield site, weight

    def distribution(self, *, pool: Pool, text: Text, second_moment: SecondMoment) -> Distribution:
        """Return the feature distribution of the task's training rows under the bare base model."""
        backbone, plan = self._built.backbone, self._plan
        taking = Taking(
            pool=pool,
            text=text,
            second_moment=second_moment,
            max_length=plan.options.max_length,
            dtype=str(backbone.dtype).removeprefix("torch."),
        )
        with bare(self._built.model, self._built.bank):
            sites = prompt_sites(backbone, self._built.linear)
            found = collect_moments(backbone, self._ids(text), sites, second=second_moment, pool=pool)
        return Distribution(found, taking.recorded(plan.reference, [plan.drawn.recorded()]))

    def features(
        self, sites: Sequence[str], *, pool: Pool, text: Text
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield the bare base model's features of the task's training rows, batch by batch; see ``methods.Run``."""
        with bare(self._built.model, self._built.bank):
            for rows, found in read_features(self._built.backbone, self._ids(text), sites, pool=pool):
                yield rows, {site: vectors.cpu() for site, vectors in found.items()}

    def embeddings(self) -> Tensor:
        """Return E(x) of the training rows, shape (row, hidden), each of norm 1."""
        return self._embedded

    @cached_property
    def _embedded(self) -> Tensor:
        with undisturbed(self._built.model):
            return embeddings(self._built.backbone, self._ids("prompt")).cpu()

    @property
    def _sharded(self) -> bool:
        return self._built.backbone.sharded

    @cached_property
    def _layers(self) -> Mapping[str, int]:
        return down_projections(self._built.model)

    @cached_property
    def _chosen(self) -> list[int]:
        # Apart from the order of training, so that it is not the rows of the first steps that are asked about.
        chosen = list(range(len(self._own)))
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

    def _ids(self, text: Text) -> list[list[int]]:
        plan, backbone = self._plan, self._built.backbone
        chat = uses_chat(plan.task, backbone.tokens)
        return prompt_ids(backbone, plan.rows, text=text, max_length=plan.options.max_length, chat=chat)

    def _parameters(self, side: str) -> dict[str, Tensor]:
        return {site: factor.a if side == "A" else factor.b for site, factor in self._built.trainable.items()}

    def _batch(self, row: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return one row as the model takes it, and its labels."""
        backbone = self._built.backbone
        inputs, labels = model_inputs(backbone, Collator(backbone.tokens)([self._items[row]]))
        for mixture in self._built.mixtures:
            mixture.before(torch.tensor([row], device=backbone.device), inputs)
        for prompting in self._built.promptings:
            whole = prompting.before(torch.tensor([row], device=backbone.device), {**inputs, "labels": labels})
            labels, inputs = whole.pop("labels"), whole
        return inputs, labels

    def _log_likelihood(self, row: int) -> tuple[Tensor, int]:
        """Return the logarithm of the right answer's probability, and its number of tokens."""
        inputs, labels = self._batch(row)
        shift = self._built.backbone.kind == "causal"
        with only_answers(self._built.model, labels, shift):
            logits = self._built.model(**inputs, use_cache=False)["logits"]
        new, tokens = answer_logits(logits, labels, shift)
        return -functional.cross_entropy(new, tokens, reduction="sum"), len(tokens)

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

    def _place(self, adapter: int | None) -> int | None:
        """Return an earlier adapter's number in the bank."""
        if adapter is None or not self._built.mixtures:
            return adapter
        if adapter not in self._built.acting:
            raise MismatchError(
                f"earlier adapter {adapter + 1} is not part of this run; ask about one of run.past",
                code="earlier-adapter-not-used",
            )
        return self._built.acting.index(adapter)

    @contextlib.contextmanager
    def _alone(self, adapter: int | None) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for mixture in self._built.mixtures:
                stack.enter_context(mixture.suspended())
            stack.enter_context(self._built.bank.only(self._place(adapter)))
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
