"""What Transformers has called a model's tensors, and what it calls them now (layer L1).

A file of an earlier day goes through the library's own lists: of prefixes that moved, of names that changed, of experts that
were one tensor each and are one tensor together now.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Spelled", "Spelling"]

_FUSED = (["MergeModulelist"], ["MergeModulelist", "Concatenate"])


@dataclass(frozen=True)
class Spelled:
    """A tensor's name now.

    Attributes:
        renamed: The name after everything that was renamed.
        parameter: The parameter of the model that the tensor goes into.
        part: Where it is one of the parts that experts' matrices consist of, which one and of how many; (_, 0) where it is kept
            in another layout altogether; None where it is the parameter.
    """

    renamed: str
    parameter: str
    part: tuple[int, int] | None = None


class Spelling:
    """The names of a model's tensors.

    Args:
        model: The model; one that is not of Transformers' has only the names that it has.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def now(self, key: str) -> Spelled:
        """Return what a tensor of a file, by its name there, is in the model."""
        from transformers.core_model_loading import rename_source_key

        renamings, converters, prefix, names = self._lists
        if key in names:
            return Spelled(key, key)
        renamed, _ = rename_source_key(key, renamings, [], prefix, names)
        parameter, pattern = rename_source_key(key, renamings, converters, prefix, names)
        if pattern is None:
            return Spelled(renamed, parameter)
        converter = next(one for one in converters if pattern in one.source_patterns)
        fused = [type(one).__name__ for one in converter.operations] in _FUSED
        sources = converter.source_patterns
        return Spelled(renamed, parameter, (sources.index(pattern), len(sources) if fused else 0))

    def leaves(self, parameter: str) -> list[str]:
        """Return what the layers of an expert were called that a parameter fuses, in the order of its rows; [] of any other."""
        _, converters, _, _ = self._lists
        for converter in converters:
            fused = [type(step).__name__ for step in converter.operations] in _FUSED
            if fused and any(parameter.endswith(f".{target.lstrip('.')}") for target in converter.target_patterns):
                return [source.rpartition("*.")[2].removesuffix(".weight") for source in converter.source_patterns]
        return []

    @functools.cached_property
    def _lists(self) -> tuple[list[Any], list[Any], str, dict[str, bool]]:
        """What was renamed, what was fused, the model's prefix, and the names of its parameters."""
        from transformers import PreTrainedModel
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        found = get_model_conversion_mapping(self._model) if isinstance(self._model, PreTrainedModel) else []
        renamings = [converter for converter in found if isinstance(converter, WeightRenaming)]
        converters = [converter for converter in found if isinstance(converter, WeightConverter)]
        own = (name.replace(".base_layer.", ".") for name, _ in self._model.named_parameters(remove_duplicate=False))
        return renamings, converters, getattr(self._model, "base_model_prefix", ""), dict.fromkeys(own, True)
