"""Where Transformers' classes for classification keep the head: outside the encoder, which their ``base_model_prefix`` names (layer L1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clora_cli.algebra.head_names import HEAD_OUTPUTS, paths_to
from clora_cli.base.errors import MismatchError, OptionError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_classifier", "check_whole", "headless", "modules_around", "output_of", "outside"]

_CLASSES = ("ForSequenceClassification", "ForImageClassification")


def output_of(model: Any) -> str | None:
    """Return the path of the layer that gives a number for each class; None of a model without a classification head.

    Args:
        model: The model, under PEFT or not; the path is the base model's.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not type(whole).__name__.endswith(_CLASSES):
        return None
    from torch import nn

    inside = f"{whole.base_model_prefix}."
    outputs = [
        name
        for name, module in whole.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in HEAD_OUTPUTS and not name.startswith(inside)
    ]
    return outputs[0] if len(outputs) == 1 else None


def outside(model: Any) -> list[str]:
    """Return the parameters of the classification head: those outside the encoder, and the pooler that some have in it."""
    if output_of(model) is None:
        return []
    inside, pooler = f"{model.base_model_prefix}.", f"{model.base_model_prefix}.pooler."
    return [name for name, _ in model.named_parameters() if not name.startswith(inside) or name.startswith(pooler)]


def modules_around(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the outermost modules all of whose parameters are among those named."""
    wanted, found = set(names), []
    for name in names:
        whole = (
            path
            for path in paths_to(name.rpartition(".")[0])
            if all(f"{path}.{own}" in wanted for own, _ in model.get_submodule(path).named_parameters())
        )
        found.append(next(whole))
    return list(dict.fromkeys(found))


def check_classifier(skeleton: Any, name: str) -> None:
    """Refuse an encoder for which Transformers has no classification head.

    Raises:
        MismatchError: If it has none.
    """
    if output_of(skeleton) is None:
        raise headless(name)


def check_whole(shard: bool, quantize: str) -> None:
    """Refuse to divide or quantise an encoder.

    Raises:
        OptionError: If it is asked for.
    """
    if shard or quantize != "none":
        flag = "--shard" if shard else f"--quantize {quantize}"
        raise OptionError(f"{flag} does not go with an encoder's classes; leave it out", code="option-not-for-encoders")


def headless(name: str) -> MismatchError:
    """Return the error for an encoder that cannot have classes."""
    return MismatchError(
        f"base model '{name}' is an encoder without a classification head in Transformers: it answers nothing; it can be used for "
        "`clora stat-features`, `clora route` and `clora expand`",
        code="encoder-cannot-answer",
    )
