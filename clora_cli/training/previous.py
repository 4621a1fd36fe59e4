"""The model as the last task left it, for terms of the loss that compare its answers with the new ones (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.methods import Method
from clora_cli.model.bank import AdapterBank
from clora_cli.processes.ranks import summed
from clora_cli.training.answer_logits import answer_logits
from clora_cli.training.build import Built
from clora_cli.training.probe import undisturbed

__all__ = ["Previous"]


class Previous:
    """The base model with the last earlier adapter alone, and what methods make of its answers beside the new ones.

    It is the trained model itself, in evaluation mode, with that adapter switched on and the new one off: one more forward
    pass per micro-batch, without gradients, and no weights but the adapter's.

    Args:
        built: The run's model.
        adapter: The last earlier adapter.
        methods: Name to method, for every method that compares.
    """

    def __init__(self, built: Built, adapter: Mapping[str, Factor], methods: Mapping[str, Method]) -> None:
        self._built, self._methods = built, methods
        self._shift = built.backbone.kind == "causal"
        self._bank = AdapterBank(built.backbone.model)
        self._bank.activate([adapter])
        self._switch_off()
        self._old = torch.empty(0)
        self._sums: dict[str, Tensor] = {}
        self.last: Tensor | float = 0.0  # the sum of the last micro-batch's terms

    def before(self, inputs: Mapping[str, Any]) -> None:
        """Let it answer a micro-batch; ``inputs`` are the model's arguments and the labels."""
        labels = inputs["labels"]
        arguments = {name: value for name, value in inputs.items() if name != "labels"}
        tuner = self._built.model.base_model
        with undisturbed(self._built.model), torch.no_grad():
            self._bank.gate(None)
            tuner.disable_adapter_layers()
            try:
                logits = self._built.model(**arguments, use_cache=False)["logits"]
            finally:
                tuner.enable_adapter_layers()
                self._switch_off()
        self._old = answer_logits(logits, labels, self._shift)[0]

    def term(self, new: Tensor, tokens: Tensor | int) -> Tensor:
        """Return the sum of all methods' terms for the micro-batch.

        Args:
            new: The trained model's logits at the answers' positions, shape (token, vocabulary), float32.
            tokens: Answer tokens of the whole optimizer step.
        """
        terms = {name: method.compare(new, self._old) / tokens for name, method in self._methods.items()}
        self._old = torch.empty(0)
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(term)) + term.detach()
        total = torch.stack(list(terms.values())).sum()
        self.last = total.detach()
        return total

    def take(self) -> dict[str, float]:
        """Return each method's term since the last call, over all processes, and start afresh."""
        device = self._built.backbone.device
        sums, self._sums = self._sums, {}
        return {name: summed(total, device).item() for name, total in sums.items()}

    def _switch_off(self) -> None:
        self._bank.gate({site: torch.zeros(1, 1) for site in self._bank.sites})
