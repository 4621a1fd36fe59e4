"""What is left of general ability: how far answers to prompts of no task have moved from the base model's (layer L3)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor

from clora_cli.base.errors import CloraError, DataError, OptionError, translated
from clora_cli.base.progress import Progress
from clora_cli.data import IGNORED, Example, Task, encode_answers, load_task
from clora_cli.evaluation.bench import Bench, encoded
from clora_cli.evaluation.combine import Combination
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.backbone import Backbone
from clora_cli.model.conventions import first_position, takes_positions, token_positions
from clora_cli.model.output_layer import check_numbers
from clora_cli.options import GENERAL, EvalOptions
from clora_cli.processes.meeting import joined
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.score_cells import Retention, TaskScore

__all__ = ["Probe", "Retainer", "probes_of"]

_HELD = 1 << 27  # bytes of one batch's logits: 128 MB


@dataclass(frozen=True)
class Probe:
    """What a base model is asked that no task teaches.

    Attributes:
        name: Its name.
        questions: Tasks whose answers are scored.
        passages: Further prompts, which are compared with the base model alone.
    """

    name: str
    questions: tuple[Task, ...]
    passages: tuple[Task, ...] = ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All of them."""
        return self.questions + self.passages


def probes_of(names: Sequence[str]) -> list[Probe]:
    """Return the probes that names stand for: ``general``, the bundled one, or any task, whose test rows are asked.

    Raises:
        OptionError: If a name is given twice.
        DataError: If one is empty; as ``load_task``, or a task has no test rows.
    """
    if not all(name.strip() for name in names):
        raise DataError(f"--retention is empty: name a task, or {GENERAL}", code="data-name-empty")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise OptionError(f"--retention names '{twice}' twice", code="option-given-twice")
    probes = [_general() if name == GENERAL else Probe(name, (load_task(name),)) for name in names]
    for probe in probes:
        if any(not task.test for task in probe.tasks):
            raise DataError(f"--retention {probe.name} has no test rows to ask", code="task-has-no-rows")
    return probes


def _general() -> Probe:
    import yaml

    text = resources.files("clora_cli.evaluation").joinpath("general_probe.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    groups = content["questions"].items()
    questions = tuple(
        _bundled(name, _asked(**group), tuple(dict.fromkeys(group["answers"].values()))) for name, group in groups
    )
    passages = _bundled("passages", [Example("", text, "", ()) for text in content["passages"]], ())
    return Probe(GENERAL, questions, (passages,))


def _asked(frame: str, answers: Mapping[str, str]) -> list[Example]:
    head, cue = frame.split("{}")
    return [Example(head, about, cue, (answer,)) for about, answer in answers.items()]


def _bundled(name: str, rows: Sequence[Example], labels: tuple[str, ...]) -> Task:
    return Task(f"{GENERAL}/{name}", (), (), tuple(rows), labels, "exact-match", "bundled", "none")


class Retainer:
    """Measures what adapters leave of general ability.

    Args:
        backbone: The base model.
        combination: Puts adapters into it.
        probes: What is asked: from ``probes_of``.
        options: How: label sets are ranked, whatever ``score`` says, since the base model does
            not know how answers end.
        progress: Who to tell.
    """

    def __init__(
        self,
        backbone: Backbone,
        combination: Combination,
        probes: Sequence[Probe],
        options: EvalOptions,
        progress: Progress,
    ) -> None:
        self._combination, self._probes = combination, probes
        self._prompts: dict[str, Prompts] = {}
        self._benches: dict[str, Bench] = {}
        for probe in self._probes:
            rows = 0 if probe.name == GENERAL else options.test_rows
            score = "labels" if all(task.labels for task in probe.questions) else "generate"
            chosen = dataclasses.replace(options, score=score, split="test", test_rows=rows)
            prompts = encoded(backbone, probe.tasks, chosen, progress)
            self._prompts |= {f"{probe.name} {name}": found for name, found in prompts.items()}
            self._benches[probe.name] = Bench(combination, prompts, chosen, progress)

    def retentions(self, active: Callable[[str], Sequence[AdapterFolder]]) -> dict[str, Retention]:
        """Compare a model with adapters with the base model, by each probe.

        Args:
            active: Returns the adapters that take part for a task's name.
        """
        return {probe.name: self._of(probe, active) for probe in self._probes}

    def _of(self, probe: Probe, active: Callable[[str], Sequence[AdapterFolder]]) -> Retention:
        nats, tokens = 0.0, 0
        for task in probe.tasks:
            of_task, positions = self._divergence(self._prompts[f"{probe.name} {task.name}"], active(task.name))
            nats, tokens = nats + of_task, tokens + positions
        before, after = [], []
        for task in probe.questions:
            before.append(self._benches[probe.name].score(task, []))
            after.append(self._benches[probe.name].score(task, active(task.name)))
        return Retention(nats / max(1, tokens), tokens, _together(before), _together(after))

    @torch.inference_mode()
    def _divergence(self, prompts: Prompts, adapters: Sequence[AdapterFolder]) -> tuple[float, int]:
        """Return the sum of KL(base || adapted) over a task's positions, in nats, and their number."""
        found_of = [""] * len(prompts.ids)  # nats and positions of each row that this process has
        for numbers, part in _that_fit(prompts).in_rounds():
            self._combination.use([], part)
            base = [_log_probabilities(part, rows, batch) for rows, batch in part.batches()]
            adapted, before = self._combination.use(adapters, part)
            for (rows, batch), (expected, mask) in zip(adapted.batches(), base, strict=True):
                if before is not None:
                    before(rows, batch["attention_mask"])
                found = _log_probabilities(adapted, rows, batch)[0][:, -expected.shape[1] :]  # without soft prompts
                # At least 0 in exact arithmetic: what is below is rounding. Tokens that the model rules out add nothing.
                nats = (expected.exp() * (expected - found)).masked_fill(expected.isneginf(), 0)
                apart = nats.sum(dim=-1).clamp(min=0).double()
                check_numbers(apart[mask.bool()], prompts.backbone.tokens.model)
                sums = zip((apart * mask).sum(dim=1).tolist(), mask.sum(dim=1).tolist(), strict=True)
                for row, (whole, tokens) in zip(rows, sums, strict=True):
                    found_of[numbers[row]] = f"{whole!r} {tokens}"
        pairs = [text.split() for text in joined(found_of)]
        return math.fsum(float(nats) for nats, _ in pairs), sum(int(tokens) for _, tokens in pairs)


def _that_fit(prompts: Prompts) -> Prompts:
    """Return a task's prompts in batches whose logits fit into memory."""
    longest = max(len(ids) for ids in prompts.ids)
    row = 4 * longest * prompts.backbone.model.config.get_text_config().vocab_size
    return dataclasses.replace(prompts, batch_size=max(1, min(prompts.batch_size, _HELD // row)))


def _log_probabilities(prompts: Prompts, rows: Sequence[int], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the next token's log-probabilities, (row, position, vocabulary), and which positions count, (row, position)."""
    backbone = prompts.backbone
    with translated(f"{backbone.tokens.model} cannot be compared with itself", CloraError, code="divergence-failed"):
        if backbone.kind == "seq2seq":
            return _of_answers(prompts, rows, batch)
        mask = batch["attention_mask"]
        told = {}
        if takes_positions(backbone.model):
            told["position_ids"] = token_positions(mask, first_position(backbone.model))
        logits = backbone.model(**batch, **told, use_cache=False).logits
        return logits.float().log_softmax(dim=-1), mask


def _of_answers(prompts: Prompts, rows: Sequence[int], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    backbone = prompts.backbone
    answers = [_answer(prompts, prompts.examples[row]) for row in rows]
    width = max(map(len, answers))
    labels = torch.tensor([ids + [IGNORED] * (width - len(ids)) for ids in answers], device=backbone.device)
    decoder = backbone.tokens.decoder_inputs(labels)
    logits = backbone.model(**batch, decoder_input_ids=decoder, use_cache=False).logits
    return logits.float().log_softmax(dim=-1), (labels != IGNORED).long()


def _answer(prompts: Prompts, example: Example) -> list[int]:
    """Return the tokens of the right answer, or those of an end alone where there is none: one position."""
    text = next(iter(example.references), "")
    return encode_answers(example, (text,), prompts.backbone.tokens, kind="seq2seq", chat=prompts.chat)[0]


def _together(scores: Sequence[TaskScore]) -> TaskScore | None:
    """Return the scores of several groups as one: the share of all their rows."""
    if not scores:
        return None
    rows = tuple(row for score in scores for row in score.per_row)
    graded = any(score.correct is None for score in scores)
    return dataclasses.replace(
        scores[0],
        value=100 * sum(rows) / len(rows),
        total=len(rows),
        correct=None if graded else round(sum(rows)),
        empty=sum(score.empty for score in scores),
        per_row=rows,
        cut=sum(score.cut for score in scores),
    )
