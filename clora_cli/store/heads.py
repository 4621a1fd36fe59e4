"""Classification heads in adapter folders (layer L1): a row of the output layer for each class, and the layers before it.

PEFT keeps the modules that it trains whole (``modules_to_save``) beside the factors, under their names in the model. That is where
the head of an encoder's adapter is; of dense deltas it stands in a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.algebra.head_names import HEAD_OUTPUTS, head_modules, in_head
from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.base.files import read_json
from clora_cli.model.names import TensorName, parse_name
from clora_cli.store.side_files import HEAD
from clora_cli.store.tensors import check_numbers, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from clora_cli.model.base_model import ModelReference
    from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Head", "check_heads", "has_head", "head_of", "refuse_heads", "united"]

_PREFIX = "base_model.model."
_NAMES = "config.json"  # of a Transformers model, beside the adapter: its ``id2label``

Class = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Head:
    """A classification head.

    Attributes:
        classes: The task and the label of each row.
        weight: Shape (class, hidden), float32.
        bias: Shape (class,), float32.
        module: The output layer's path in the model.
        inner: Parameter of the model to its numbers: of the layers between the encoder and the output layer that the base model's
            files lack. They are never trained by clora.
    """

    classes: tuple[Class, ...]
    weight: Tensor
    bias: Tensor
    module: str
    inner: Mapping[str, Tensor]

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """The labels of each task, in the order of the rows."""
        found: dict[str, list[str]] = {}
        for task, label in self.classes:
            found.setdefault(task, []).append(label)
        return {task: tuple(labels) for task, labels in found.items()}

    def of(self, tasks: Sequence[str]) -> Head:
        """Return the head of some tasks alone."""
        rows = [row for row, (task, _) in enumerate(self.classes) if task in tasks]
        chosen = tuple(self.classes[row] for row in rows)
        return Head(chosen, self.weight[rows], self.bias[rows], self.module, self.inner)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by the names that they have in a PEFT folder."""
        own = {f"{self.module}.weight": self.weight, f"{self.module}.bias": self.bias, **self.inner}
        return {f"{_PREFIX}{name}": tensor for name, tensor in own.items()}

    def recorded(self) -> list[dict[str, Any]]:
        """Return what the manifest says of it."""
        return [{"task": task, "labels": list(labels)} for task, labels in self.tasks.items()]


def united(heads: Sequence[Head]) -> Head:
    """Return the head of all tasks of several; of a task that two have, the rows of the later one.

    Raises:
        MismatchError: If their layers before the output layer differ.
    """
    import torch

    for head in heads[1:]:
        same = head.inner.keys() == heads[0].inner.keys() and head.module == heads[0].module
        if not same or not all(torch.equal(head.inner[name], own) for name, own in heads[0].inner.items()):
            raise MismatchError(
                f"the heads of {', '.join(heads[0].tasks)} and {', '.join(head.tasks)} read the encoder through different layers, so "
                "that their classes cannot stand side by side; use one of them at a time",
                code="heads-differ",
            )
    latest = {task: head for head in heads for task in head.tasks}
    parts = [head.of([task]) for task, head in latest.items()]
    classes = tuple(one for part in parts for one in part.classes)
    weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
    return Head(classes, weight, bias, heads[0].module, heads[0].inner)


def has_head(member: AdapterFolder) -> bool:
    """Tell whether an adapter brings the classes of an encoder."""
    recorded = member.manifest is not None and bool(member.manifest.head)
    return recorded or bool(head_modules(member.config))


def check_heads(members: Sequence[AdapterFolder], reference: ModelReference) -> None:
    """Refuse adapters with a classification head on a base model that has none.

    Raises:
        MismatchError: If there is one, and the model is no encoder.
    """
    odd = next((member for member in members if has_head(member)), None)
    if odd is not None and reference.kind != "encoder":
        raise MismatchError(
            f"{odd.path} has a classification head, which base model '{reference.id}' has no place for; give the encoder that it was "
            "trained on",
            code="head-needs-encoder",
        )


def refuse_heads(members: Sequence[AdapterFolder], why: str) -> None:
    """Refuse adapters with a classification head where there is no place for it.

    Raises:
        MismatchError: If there is one.
    """
    if (odd := next((member for member in members if has_head(member)), None)) is not None:
        raise MismatchError(
            f"{why}, and {odd.path} has a classification head beside its changes of weights; keep it as an adapter, which PEFT loads",
            code="head-not-supported",
        )


def head_of(member: AdapterFolder) -> Head:
    """Read the classification head of an adapter that ``has_head``.

    Raises:
        ArtifactError: If the head is missing or not what the manifest says, or has numbers that are not finite.
        MismatchError: If nothing names its classes, as beside a bare PEFT folder without a model's ``config.json``.
    """
    recorded = member.manifest.head if member.manifest else None
    classes = None if recorded is None else [(one.task, label) for one in recorded for label in one.labels]
    # Whatever is in a file of its own is the head; beside factors, PEFT's configuration tells.
    path = member.path / HEAD if member.is_dense else member.weights
    return _read(path, ("",) if member.is_dense else head_modules(member.config), classes)


def _read(path: Path, modules: Sequence[str], classes: Sequence[Class] | None) -> Head:
    found = {f"{name.site}.{name.tensor}": tensor.float() for name, tensor in _whole(path, modules)}
    layers = {name.rpartition(".")[0] for name in found}
    outputs = [layer for layer in layers if layer.rpartition(".")[2] in HEAD_OUTPUTS]
    weight, bias = (
        found.pop(f"{outputs[0]}.{kind}", None) if len(outputs) == 1 else None for kind in ("weight", "bias")
    )
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ArtifactError(
            f"adapter {path.parent} is damaged: {path.name} has no single output layer of a classification head; train it again",
            code="head-damaged",
        )
    check_numbers({"weight": weight, "bias": bias, **found}.items(), path.parent)
    named = tuple(_named(path.parent, len(weight)) if classes is None else classes)
    if len(set(named)) != len(weight) or len(named) != len(weight):
        raise ArtifactError(
            f"adapter {path.parent} is damaged: its head has {len(weight)} classes, and {len(set(named))} are named; restore it or train "
            "it again",
            code="head-damaged",
        )
    return Head(named, weight, bias, outputs[0], found)


def _names_beside(folder: Path) -> list[str]:
    """Return the names of a model's classes as the configuration beside an adapter has them; empty where it has none."""
    if not (folder / _NAMES).is_file():
        return []
    names = read_json(folder / _NAMES, "model configuration").get("id2label")
    listed = [names.get(str(row)) for row in range(len(names))] if isinstance(names, dict) else []
    return [name if isinstance(name, str) and name.isprintable() else "" for name in listed]


def _named(folder: Path, rows: int) -> list[Class]:
    names = _names_beside(folder)
    if len(set(names) - {""}) != rows or len(names) != rows:
        found = f"which its {_NAMES} does not give {rows} different names" if names else "which nothing names"
        raise MismatchError(
            f"adapter {folder} has a head of {rows} classes, {found}; name them in its {_NAMES}, in the order in which they were trained: "
            '{"id2label": {"0": "a name", "1": "another"}}',
            code="head-classes-unnamed",
        )
    return [(folder.name, name) for name in names]


def _whole(path: Path, modules: Sequence[str]) -> list[tuple[TensorName, Tensor]]:
    named = [(parse_name(key), tensor) for key, tensor in read_tensors(path).items()]
    return [(name, tensor) for name, tensor in named if name.part == "base" and in_head(name.site, modules)]
