"""What Transformers and PEFT call the modules of an encoder's classification head (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["HEAD_OUTPUTS", "head_modules", "in_head", "paths_to"]

# A decoder's ``score`` is among what PEFT names for every model of classes: no file of an encoder's adapter has one.
_HEADS = {"classifier", "dense", "head", "out_proj", "pooler", "pre_classifier", "score"}
HEAD_OUTPUTS = {"classifier", "out_proj"}  # the layer that gives a number for each class


def head_modules(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modules of an encoder's classification head that a PEFT folder holds beside its factors; none where it has no head."""
    saved = config.get("modules_to_save")
    if config.get("task_type") not in (None, "SEQ_CLS"):  # a head for each token, or for spans
        return ()
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        return ()
    last = {name.rpartition(".")[2] for name in saved}
    return tuple(name for name in saved if name != "score") if last <= _HEADS and last & HEAD_OUTPUTS else ()


def in_head(site: str, modules: Sequence[str]) -> bool:
    """Tell whether a layer is one of the modules that a folder holds whole, or within one, as PEFT matches their names."""
    return any(path.endswith(name) for path in paths_to(site) for name in modules)


def paths_to(site: str) -> list[str]:
    """Return the paths of the modules that a module is within, from the outermost on, and its own."""
    parts = site.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
