"""What methods can ask of a run about texts (layer L3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.lora import Factor
from clora_cli.data import IGNORED, Collator, Example, Task, encode, encode_answer, encode_prompt, uses_chat
from clora_cli.data.made_rows import asked, fitting, question_of
from clora_cli.data.rendering import preceded
from clora_cli.methods import Text
from clora_cli.model.drawing import Draw
from clora_cli.model.features import prompt_ids
from clora_cli.model.generation import write
from clora_cli.model.imagining import imagine, row_seed
from clora_cli.model.task_vectors import embeddings
from clora_cli.training.answer_logits import answer_logits, model_inputs, only_answers
from clora_cli.training.services import Services
from clora_cli.training.undisturbed import bare, replaced, undisturbed

__all__ = ["TextServices"]


class TextServices(Services):
    """See ``methods.Texts``, whose services these are.

    Attributes:
        step: Optimizer steps that are done.
    """

    step: int
    _short = False  # whether the user was told that positions are missing

    @cached_property
    def texts(self) -> Sequence[Text]:
        """All training rows: the task's own, then those of the memory."""
        return [
            Text(task.name, self._question(number), row.references[0])
            for number, (task, row) in enumerate(self._all_rows)
        ]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return each text's number of tokens."""
        return [len(self._built.backbone.tokens.ids(text, special=False)) for text in texts]

    def text_losses(self, texts: Sequence[tuple[str, str]]) -> Tensor:
        """Return the mean loss per token of texts, each after a beginning, with gradient; see ``methods.Texts``."""
        items = [self._after(beginning, text) for beginning, text in texts]
        found, right, counts = self._logits(items)
        losses = functional.cross_entropy(found, right, reduction="none")
        rows = torch.arange(len(texts), device=losses.device).repeat_interleave(counts)
        return losses.new_zeros(len(texts)).index_add(0, rows, losses) / counts

    def sampled(self, rows: Sequence[int], draw: Draw) -> list[str]:
        """Return the model's own answers as it is now, drawn by the step's seed; see ``methods.Texts``."""
        options = self._plan.options
        found: dict[int, str] = {}
        for chat in (False, True):
            alike = [row for row in rows if self._chats(row) == chat]
            seeds = [row_seed(self._plan.seed, self.step, self.texts[row].question) for row in alike]
            with undisturbed(self._built.model):
                said = write(
                    self._built.backbone,
                    [self._row(row) for row in alike],
                    [dataclasses.replace(draw, seed=seed) for seed in seeds],
                    most=options.max_answer_length,
                    max_length=options.max_length,
                    batch_size=len(rows),
                    chat=chat,
                )
            found |= dict(zip(alike, said, strict=True))
        return [found[row] for row in rows]

    def said_logits(
        self,
        said: Sequence[tuple[int, str]],
        instead: Mapping[str, Factor] | None = None,
        before: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of given answers' tokens, and each answer's number of them; see ``methods.Texts``."""
        items = [self._said(row, answer) for row, answer in said]
        if before is not None:
            items = [
                self._said(row, answer, self._end_of(text, len(item["input_ids"])))
                for (row, answer), item, text in zip(said, items, before, strict=True)
            ]
        with replaced(self._built.trainable, instead):
            found, _, counts = self._logits(items)
        return found, counts

    def imagined(self, count: int, shots: int, draw: Draw) -> list[str]:
        """Return new questions like the task's own, by the bare base model; see ``methods.Texts``."""
        options = self._plan.options
        with bare(self._built.model, self._built.bank):
            return imagine(
                self._built.backbone,
                self._plan.rows,
                count,
                shots=shots,
                draw=dataclasses.replace(draw, seed=self._plan.seed),
                max_length=options.max_length,
                batch_size=options.batch_size,
            )

    def embedded(self, questions: Sequence[int | str]) -> Tensor:
        """Return E(x) of rows and questions, shape (question, hidden), each of norm 1."""
        backbone, options = self._built.backbone, self._plan.options
        task = self._plan.task
        shown = [
            (self._row(question), self._chats(question))
            if isinstance(question, int)
            else (asked(question, task.template), uses_chat(task, backbone.tokens))
            for question in questions
        ]
        with undisturbed(self._built.model):
            ids = [prompt_ids(backbone, [row], max_length=options.max_length, chat=chat)[0] for row, chat in shown]
            return embeddings(backbone, ids).cpu()

    @cached_property
    def _all_rows(self) -> list[tuple[Task, Example]]:
        return [(rows.task, row) for rows in (self._plan.drawn, *self._plan.memory) for row in rows.examples]

    def _row(self, number: int) -> Example:
        return self._all_rows[number][1]

    def _chats(self, number: int) -> bool:
        return uses_chat(self._all_rows[number][0], self._built.backbone.tokens)

    def _question(self, number: int) -> str:
        """Return what a row asks, as much of it as is trained on."""
        tokens, kind, options = self._built.backbone.tokens, self._built.backbone.prompt_kind, self._plan.options
        row, most, chat = self._row(number), tokens.most(options.max_length), self._chats(number)
        if self._built.classes:
            return question_of(row)
        if kind == "causal":
            answer = encode_answer(row, row.references[0], tokens, kind=kind, chat=chat)
            most -= min(len(answer), tokens.most_answer(options.max_answer_length, causal=True))
        return fitting(row, tokens, kind=kind, max_length=most, chat=chat)

    def _said(self, number: int, answer: str, before: str = "") -> dict[str, list[int]]:
        """Encode an answer to a row's question, with a text before it that takes nothing of the question's own room."""
        backbone, options = self._built.backbone, self._plan.options
        return encode(
            preceded(self._row(number), before),
            backbone.tokens,
            kind=backbone.prompt_kind,
            max_length=options.max_length + len(backbone.tokens.ids(before, special=False)),
            max_answer_length=options.max_answer_length,
            chat=self._chats(number),
            answer=answer,
        )

    def _end_of(self, text: str, taken: int) -> str:
        """Return the end of a text that has a prompt's room, and that the model has positions for."""
        tokens = self._built.backbone.tokens
        ids = tokens.ids(text, special=False)
        wanted = min(self._plan.options.max_length, len(ids))
        room = tokens.most(taken + wanted) - taken
        if room < wanted and not self._short:
            self._short = True
            self._progress.warn(
                f"base model '{self._plan.reference.id}' has {tokens.positions} positions, too few for an example before each "
                "question, whose start is left out; pass a smaller --max-length"
            )
        return text if len(ids) <= room else tokens.text(ids[len(ids) - room :])

    def _logits(self, items: Sequence[dict[str, list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits at the answers of encoded rows, the right tokens there, and each row's number of them."""
        batch = Collator(self._built.backbone.tokens)(items)
        for prompting in self._built.promptings:
            # Such texts are no rows: what stands before the first one stands before them.
            batch = prompting.before(torch.zeros(len(items), dtype=torch.long), batch)
        inputs, labels = model_inputs(self._built.backbone, batch)
        shift = self._built.backbone.kind == "causal"
        with only_answers(self._built.model, labels, shift):
            logits = self._built.model(**inputs, use_cache=False)["logits"]
        return *answer_logits(logits, labels, shift), (labels[:, int(shift) :] != IGNORED).sum(dim=1)

    def _after(self, beginning: str, text: str) -> dict[str, list[int]]:
        """Encode a text after a beginning; where the model has too few positions, the text loses its start."""
        tokens, kind = self._built.backbone.tokens, self._built.backbone.prompt_kind
        prompt = Example(beginning, "", "", ())
        ids = encode_prompt(prompt, tokens, kind=kind, max_length=None)
        target = encode_answer(prompt, text, tokens, kind=kind)
        if kind == "seq2seq":
            return {"input_ids": ids, "labels": target[-tokens.most_answer(len(target), causal=False) :]}
        target = target[-(tokens.most(len(ids) + len(target)) - len(ids)) :]
        return {"input_ids": ids + target, "labels": [IGNORED] * len(ids) + target}
