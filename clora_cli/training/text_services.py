"""What methods can ask of a run about texts (layer L3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.data import IGNORED, Collator, Example, encode, encode_prompt, uses_chat
from clora_cli.data.made_rows import asked, question_of
from clora_cli.methods import Text
from clora_cli.model.drawing import Draw
from clora_cli.model.features import prompt_ids
from clora_cli.model.imagining import imagine
from clora_cli.model.task_vectors import embeddings
from clora_cli.training.answer_logits import answer_logits, only_answers
from clora_cli.training.services import Services
from clora_cli.training.undisturbed import bare, undisturbed

__all__ = ["TextServices"]


class TextServices(Services):
    """See ``methods.Texts``, whose services these are."""

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
        backbone = self._built.backbone
        batch = Collator(backbone.tokens)([self._encoded(*pair) for pair in texts])
        inputs = {name: tensor.to(backbone.device) for name, tensor in batch.items()}
        labels, shift = inputs.pop("labels"), backbone.kind == "causal"
        if not shift:
            inputs["decoder_input_ids"] = backbone.tokens.decoder_inputs(labels)
        with only_answers(self._built.model, labels, shift):
            logits = self._built.model(**inputs, use_cache=False)["logits"]
        found, right = answer_logits(logits, labels, shift)
        losses = functional.cross_entropy(found, right, reduction="none")
        counts = (labels[:, int(shift) :] != IGNORED).sum(dim=1)
        rows = torch.arange(len(texts), device=losses.device).repeat_interleave(counts)
        return losses.new_zeros(len(texts)).index_add(0, rows, losses) / counts

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
        task, backbone = self._plan.task, self._built.backbone
        rows = [asked(question, task.template) for question in questions]
        chat = uses_chat(task, backbone.tokens)
        with undisturbed(self._built.model):
            ids = prompt_ids(backbone, rows, max_length=self._plan.options.max_length, chat=chat)
            return embeddings(backbone, ids).cpu()

    def _encoded(self, beginning: str, text: str) -> dict[str, list[int]]:
        tokens, kind = self._built.backbone.tokens, self._built.backbone.prompt_kind
        example, most = Example(beginning, "", "", (text,)), tokens.most(self._plan.options.max_length)
        read = len(encode_prompt(example, tokens, kind=kind, max_length=most)) if kind == "causal" else 0
        return encode(example, tokens, kind=kind, max_length=most, max_answer_length=most - read)
