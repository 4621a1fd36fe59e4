"""What methods can ask of a run about texts (layer L3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.lora import Factor
from clora_cli.data import IGNORED, Collator, Example, encode, encode_prompt, uses_chat
from clora_cli.data.made_rows import asked, question_of
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

    @cached_property
    def texts(self) -> Sequence[Text]:
        """All training rows: the task's own, then those of the memory."""
        groups = [(self._plan.task.name, self._plan.rows)]
        groups += [(rows.task.name, rows.examples) for rows in self._plan.memory]
        return [Text(name, question_of(row), row.references[0]) for name, rows in groups for row in rows]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return each text's number of tokens."""
        return [len(self._built.backbone.tokens.ids(text, special=False)) for text in texts]

    def text_losses(self, texts: Sequence[tuple[str, str]]) -> Tensor:
        """Return the mean loss per token of texts, each after a beginning, with gradient; see ``methods.Texts``."""
        items = [self._encoded(Example(beginning, "", "", (text,)), text, chat=False) for beginning, text in texts]
        found, right, counts = self._logits(items)
        losses = functional.cross_entropy(found, right, reduction="none")
        rows = torch.arange(len(texts), device=losses.device).repeat_interleave(counts)
        return losses.new_zeros(len(texts)).index_add(0, rows, losses) / counts

    def sampled(self, questions: Sequence[str], draw: Draw) -> list[str]:
        """Return the model's own answers as it is now, drawn by the step's seed; see ``methods.Texts``."""
        options, template = self._plan.options, self._plan.task.template
        seeds = [row_seed(self._plan.seed, self.step, question) for question in questions]
        with undisturbed(self._built.model):
            return write(
                self._built.backbone,
                [asked(question, template) for question in questions],
                [dataclasses.replace(draw, seed=seed) for seed in seeds],
                most=options.max_answer_length,
                max_length=options.max_length,
                batch_size=len(questions),
                chat=self._chat,
            )

    def said_logits(
        self, answers: Sequence[tuple[str, str]], instead: Mapping[str, Factor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of given answers' tokens, and each answer's number of them; see ``methods.Texts``."""
        template = self._plan.task.template
        items = [self._encoded(asked(question, template), said, chat=self._chat) for question, said in answers]
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

    def embedded(self, questions: Sequence[str]) -> Tensor:
        """Return E(x) of questions, shape (question, hidden), each of norm 1."""
        backbone = self._built.backbone
        rows = [asked(question, self._plan.task.template) for question in questions]
        with undisturbed(self._built.model):
            ids = prompt_ids(backbone, rows, max_length=self._plan.options.max_length, chat=self._chat)
            return embeddings(backbone, ids).cpu()

    @property
    def _chat(self) -> bool:
        return uses_chat(self._plan.task, self._built.backbone.tokens)

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

    def _encoded(self, prompt: Example, text: str, *, chat: bool) -> dict[str, list[int]]:
        """Encode a text after a prompt; the text has all the room that the prompt leaves, which keeps its own where it must."""
        tokens, kind = self._built.backbone.tokens, self._built.backbone.prompt_kind
        most = tokens.most(self._plan.options.max_length)
        room = most
        if kind == "causal" and not prompt.body:
            room -= len(encode_prompt(prompt, tokens, kind=kind, max_length=most, chat=chat))
        elif kind == "causal":
            room = self._plan.options.max_answer_length
        return encode(prompt, tokens, kind=kind, max_length=most, max_answer_length=room, chat=chat, answer=text)
