"""The model as the last task left it (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.model.bank import AdapterBank
from clora_cli.training.answer_logits import answer_logits, only_answers
from clora_cli.training.build import Built
from clora_cli.training.undisturbed import bare, undisturbed

__all__ = ["Previous", "last_prompt_logits"]


class Previous:
    """The base model with the last earlier adapter alone.

    It is the trained model itself, in evaluation mode, with that adapter switched on and the others off: one more forward
    pass per micro-batch, without gradients, and no weights but the adapter's.

    Args:
        built: The run's model.
        adapter: The last earlier adapter.
    """

    def __init__(self, built: Built, adapter: Mapping[str, Factor]) -> None:
        self._built = built
        self._bank = AdapterBank(built.backbone.model)
        self._bank.activate([adapter])
        self._switch_off()

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return its logits at the answers' positions, shape (token, vocabulary), float32.

        Args:
            inputs: The model's arguments and the labels.
        """
        arguments = {name: value for name, value in inputs.items() if name != "labels"}
        answers = inputs["labels"], self._built.backbone.kind == "causal"
        with bare(self._built.model, self._built.bank), torch.no_grad(), only_answers(self._built.model, *answers):
            self._bank.gate(None)
            try:
                logits = self._built.model(**arguments, use_cache=False)["logits"]
            finally:
                self._switch_off()
        return answer_logits(logits, *answers)[0]

    def _switch_off(self) -> None:
        self._bank.gate({site: torch.zeros(1, 1) for site in self._bank.sites})


@torch.no_grad()
def last_prompt_logits(built: Built, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the logits at the answers' positions under the last earlier adapter's soft prompt, shape (token, vocabulary), float32.

    Args:
        built: The run's model.
        inputs: The model's arguments and the labels, the new prompt's virtual tokens among them.
    """
    arguments = built.promptings[0].instead(inputs)
    answers = arguments.pop("labels"), built.backbone.kind == "causal"
    with undisturbed(built.model), only_answers(built.model, *answers):
        logits = built.model(**arguments, use_cache=False)["logits"]
    return answer_logits(logits, *answers)[0]
