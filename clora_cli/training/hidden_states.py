"""Hidden states of training rows, of the model that is trained or with another LoRA in its place (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import MismatchError
from clora_cli.data import Collator
from clora_cli.model.output_layer import output_layer
from clora_cli.training.answer_logits import model_inputs, only_answers
from clora_cli.training.text_services import TextServices
from clora_cli.training.undisturbed import replaced

__all__ = ["StateServices"]


class StateServices(TextServices):
    """See ``methods.States``, whose service this is."""

    def states(self, rows: Sequence[int], instead: Mapping[str, Factor] | None = None) -> Tensor:
        """Return the states that the output layer reads at rows' answers; see ``methods.States``.

        Raises:
            MismatchError: The model has no output layer of its own.
        """
        model, backbone = self._built.model, self._built.backbone
        if (layer := output_layer(model)) is None:
            raise MismatchError(
                f"{backbone.tokens.model} has no output layer whose states could be compared; choose another method",
                code="model-without-output-layer",
            )
        inputs, labels = model_inputs(backbone, Collator(backbone.tokens)([self._items[row] for row in rows]))
        found: list[Tensor] = []
        with replaced(self._built.trainable, instead), only_answers(model, labels, backbone.kind == "causal"):
            handle = layer.register_forward_pre_hook(lambda module, given: found.append(given[0]))
            try:
                model(**inputs, use_cache=False)
            finally:
                handle.remove()
        return found[0].flatten(0, -2).float()
