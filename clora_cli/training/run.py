"""A training run as one of its methods sees it (layer L3)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import OptionError
from clora_cli.base.progress import Progress
from clora_cli.methods import Activity, Batch, Trimming, Weigh
from clora_cli.model.soft_prompts import SoftPrompts, check_room
from clora_cli.model.task_vectors import embedding_site
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.distribution import Distribution
from clora_cli.training.activities import Magnitudes
from clora_cli.training.build import ADAPTER, Built
from clora_cli.training.confinement import Confinement, warmup_steps
from clora_cli.training.hidden_states import StateServices
from clora_cli.training.mixing import Mixture
from clora_cli.training.plan import Plan
from clora_cli.training.previous import Previous, last_prompt_logits
from clora_cli.training.prompting import Prompting

__all__ = ["TrainingRun"]

_OWN = "clora_own"  # the module of the model that holds methods' own tensors


class TrainingRun(StateServices):
    """See ``methods.Run``, whose attributes these are.

    Args:
        name: The method's name.
        plan: The run.
        built: Its model.
        items: Its encoded rows: the task's own, then those of the memory.
        progress: Who to tell.

    Attributes:
        rate: What the learning rate of a step is multiplied by, if the method asked for it.
        distribution_given: The new adapter's feature distribution, if the method gave one.
        logged: Values for this step's line of the log.
        own: The method's own trainable tensors by name.
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        built: Built,
        items: Sequence[Mapping[str, list[int]]],
        progress: Progress | None = None,
    ) -> None:
        super().__init__(plan, built, items, progress)
        self.name, self.step = name, 0
        self.kept: dict[str, Tensor] = {}
        self.report: dict[str, Any] = {}
        self.own: dict[str, nn.Parameter] = {}
        self._passing: set[str] = set()
        self.logged: dict[str, float] = {}
        self.rate: Callable[[int], float] | None = None
        self.distribution_given: Distribution | None = None
        self._magnitudes: Magnitudes | None = None
        self._previous: Previous | None = None
        self._confined: Confinement | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self._plan.steps

    @property
    def seed(self) -> int:
        """The seed of this task's run."""
        return self._plan.seed

    @property
    def past(self) -> Sequence[AdapterFolder]:
        """The earlier adapters that the run builds on, under the model's own names."""
        return self._plan.parents_of(self._built.past)

    @property
    def overlaps(self) -> bool:
        """Whether an earlier adapter takes part at a layer that the new one adapts."""
        return not self.trainable.keys().isdisjoint(self._built.bank.sites)

    @property
    def trainable(self) -> Mapping[str, Factor]:
        """The new adapter's factors by site."""
        return self._built.trainable

    @property
    def batches(self) -> Sequence[Sequence[int]]:
        """The numbers of the task's own rows of each optimizer step."""
        options, order = self._plan.options, self._plan.order
        size, own = options.batch_size * options.grad_accum, len(self._plan.rows)
        steps = [order[start : start + size] for start in range(0, len(order), size)]
        return [[row for row in step if row < own] for step in steps] if self._plan.remembered else steps

    @property
    def answers(self) -> Sequence[str]:
        """The right answer to each of the task's own rows."""
        return [row.references[0] for row in self._plan.rows]

    @property
    def memory(self) -> Sequence[int]:
        """The numbers of the memory's rows."""
        return range(len(self._own), len(self._items))

    @property
    def memories(self) -> Sequence[range]:
        """The numbers of the memory's rows of each earlier task."""
        ends = list(itertools.accumulate((len(rows.examples) for rows in self._plan.memory), initial=len(self._own)))
        return [range(start, end) for start, end in itertools.pairwise(ends)]

    def parameter(self, name: str, start: Tensor, *, lasts: bool = True) -> nn.Parameter:
        """Return a trainable tensor of the method's own; see ``methods.Run``."""
        model: Any = self._built.model
        if not hasattr(model, _OWN):
            model.add_module(_OWN, nn.ParameterDict())
        held = getattr(model, _OWN)
        device = self._built.backbone.device
        if not lasts:
            self._passing.add(name)
        self.own[name] = held[str(len(held))] = nn.Parameter(start.detach().to(device, torch.float32, copy=True))
        return self.own[name]

    @property
    def lasting(self) -> Mapping[str, nn.Parameter]:
        """The method's own trainable tensors that ``state.clora`` keeps."""
        return {name: tensor for name, tensor in self.own.items() if name not in self._passing}

    def prompt(self, vectors: Callable[[], Tensor], choose: Callable[[Tensor], Tensor] | None = None) -> None:
        """Put virtual tokens before every row; see ``methods.Run``.

        Raises:
            MismatchError: If the model has not as many positions.
        """
        backbone, lead = self._built.backbone, self._plan.method.lead
        soft, past = SoftPrompts(backbone.model, backbone.kind), [member.prompt() for member in self.past]
        causal = backbone.kind == "causal"
        prompting = Prompting(soft, past, lead.virtual_tokens(), vectors, choose, causal=causal)
        self._built.promptings.append(prompting)
        count = prompting.chosen(torch.zeros(1, dtype=torch.long)).shape[1]
        check_room(backbone.tokens, count + max(len(item["input_ids"]) for item in self._items))

    def drawn_tokens(self, count: int) -> Tensor:
        """Return the vectors of tokens drawn from the vocabulary by the run's seed."""
        backbone = self._built.backbone
        table: Any = backbone.model.get_submodule(embedding_site(backbone))
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randint(len(table.weight), (count,), generator=generator).to(table.weight.device)
        drawn: Tensor = table(chosen).detach().float()
        return drawn

    def mix(self, weigh: Weigh, among: Sequence[int] | None = None) -> None:
        """Put earlier adapters into every forward pass of the training, and weigh them and the new one there.

        Raises:
            OptionError: If another method does.
        """
        if self._built.mixtures:
            raise OptionError(
                f"--method {self._plan.method.name}: two of these methods mix the adapters; name one of them",
                code="several-methods-mix",
            )
        self._built.acting[:] = range(len(self.past)) if among is None else among
        self._built.bank.activate([self.past[number].deltas() for number in self._built.acting])
        inner = {
            site: self._built.model.base_model.model.get_submodule(site).lora_A[ADAPTER] for site in self.trainable
        }
        self._built.mixtures.append(Mixture(weigh, self._built.bank, inner, self._built.order, len(self._built.acting)))

    def schedule(self, factor: Callable[[int], float]) -> None:
        """Multiply the learning rate of each optimizer step, counted from 0."""
        self.rate = factor

    def confine(self, trimming: Trimming) -> Confinement:
        """Return the new adapter's part of the shared LoRA.

        Raises:
            OptionError: If the method shares none.
        """
        if self._confined is None:
            plan = self._plan
            if plan.method.lead.start != "shared":
                raise OptionError(
                    f"--method {plan.method.name} shares no LoRA, so {self.name} cannot be confined to a part of it",
                    code="method-shares-no-lora",
                )
            shapes = {site: factor.b.shape for site, factor in self.trainable.items()}
            ledger = plan.ledger
            idle = {
                site: ledger.idle_at(site) if ledger else torch.ones(shape).bool() for site, shape in shapes.items()
            }
            warmup = warmup_steps(
                trimming, len(plan.rows), plan.options.batch_size * plan.options.grad_accum, plan.steps
            )
            kept, report = self.kept, self.report.setdefault("subspace", {})
            self._confined = Confinement(
                trimming,
                self.trainable,
                idle,
                warmup,
                seed=plan.seed,
                progress=self._progress,
                kept=kept,
                report=report,
            )
            self.schedule(self._confined.rate)
        return self._confined

    @property
    def watches(self) -> bool:
        """Whether the method measures how strongly the layers answer."""
        return self._magnitudes is not None

    def watch(self) -> None:
        """Measure from now on how strongly the layers answer."""
        self._magnitudes = self._magnitudes or Magnitudes(self._built)

    def give_features(self, distribution: Distribution) -> None:
        """Give the finished adapter a feature distribution."""
        self.distribution_given = distribution

    def log(self, values: Mapping[str, float]) -> None:
        """Add values to this step's line of the log."""
        self.logged.update(values)

    def activities(self) -> Sequence[Activity]:
        """Return how strongly the layers answered to this step's rows; empty if no method asked to measure it."""
        return self._magnitudes.take() if self._magnitudes else []

    @torch.no_grad()
    def scale_rows(self, sites: Sequence[str], a: Tensor, b: Tensor) -> None:
        """Multiply the gradients' rows."""
        for index, site in enumerate(sites):
            factor = self.trainable[site]
            for parameter, rows in ((factor.a, a[index]), (factor.b, b[index])):
                if parameter.grad is not None:
                    parameter.grad.mul_(rows[:, None].to(parameter.grad))

    def previous(self, batch: Batch) -> Tensor:
        """Return the logits of the base model with the last earlier adapter alone."""
        if self._built.promptings:
            return last_prompt_logits(self._built, batch.inputs)
        self._previous = self._previous or Previous(self._built, self.past[-1].factors())
        return self._previous.logits(batch.inputs)

    @contextlib.contextmanager
    def watching(self, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """For one forward pass of the training, watch where the method asked for it; gives the inputs to pass on."""
        if self._magnitudes is None:
            yield inputs
        else:
            with self._magnitudes.watching(inputs) as given:
                yield given
