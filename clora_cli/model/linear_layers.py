"""The linear layers of a base model (layer L1): which there are, which texts pass through, which a LoRA adapts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import OptionError
from clora_cli.model.head_layers import outside
from clora_cli.model.targets import ALL_LINEAR, adaptable

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "all_linear",
    "find_sites",
    "is_transposed",
    "linear_layers",
    "linear_shape",
    "sees_rows",
    "text_modules",
    "usual_sites",
]

# Query and value projections, under the names that model families give them; the first group found wins.
_QUERY_VALUE = (
    ("q_proj", "v_proj"),
    ("q", "v"),
    ("query", "value"),
    ("q_lin", "v_lin"),
    ("query_key_value",),
    ("c_attn",),
    ("qkv_proj",),
    ("query_proj", "value_proj"),
    ("Wq", "Wv"),
    ("Wqkv",),
    ("self.in_proj",),  # DeBERTa's
    ("q_proj", "kv_b_proj"),  # DeepSeek's keys and values come out of one layer, from a few numbers a token
    ("q_b_proj", "kv_b_proj"),
)
# Layers of Swin v2 and DeBERTa that make something of positions alone, once for all rows.
_OF_POSITIONS = re.compile(
    r"(^|\.)(continuous_position_bias_mlp\.|pos_proj$|pos_q_proj$|pos_key_proj$|pos_query_proj$)"
)
_OTHER_SENSES = re.compile(r"vision|visual|image|audio|speech|multi_modal")


def find_sites(model: nn.Module, target_modules: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """Find the linear layers to adapt.

    Args:
        model: The base model.
        target_modules: Endings of module paths, or ``all-linear``, which is all those that PEFT adapts but the output layer;
            empty for query and value projections. The latter two are layers that texts pass through. The layers of an encoder's
            classification head are never among them.

    Returns:
        Module path to (out, in), in the model's order.

    Raises:
        OptionError: If a target matches no linear layer.
    """
    linear = _before_head(model)
    if list(target_modules) == [ALL_LINEAR]:
        return {name: linear[name] for name in adaptable(model, all_linear(model))}
    if not target_modules:
        read = text_modules(model)
        linear = {name: shape for name, shape in linear.items() if id(model.get_submodule(name)) in read}
    targets = tuple(target_modules) or _query_value(linear)
    for target in targets:
        if not any(_ends(name, target) for name in linear):
            endings = sorted({name.rpartition(".")[2] for name in linear})
            raise OptionError(
                f"--target-modules {target} matches no linear layer; this model has {', '.join(endings)}",
                code="target-modules-match-nothing",
            )
    return {name: shape for name, shape in linear.items() if any(_ends(name, target) for target in targets)}


def usual_sites(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the query and value projections, as ``find_sites`` does; none of an architecture that has others."""
    with contextlib.suppress(OptionError):
        return find_sites(model)
    return {}


def all_linear(model: nn.Module) -> list[str]:
    """Return the paths of all linear layers that texts pass through, but the output layer, in the model's order."""
    head, read = getattr(model, "get_output_embeddings", lambda: None)(), text_modules(model)
    modules = {name: model.get_submodule(name) for name in _before_head(model)}
    linear = {name: module for name, module in modules.items() if module is not head and id(module) in read}
    plain = {
        kind: _gives_its_product(one) for kind, one in {type(module): module for module in linear.values()}.items()
    }
    return [name for name, module in linear.items() if plain[type(module)] and sees_rows(name)]


def sees_rows(site: str) -> bool:
    """Tell whether a layer's output depends on the rows at all, not on their positions alone."""
    return _OF_POSITIONS.search(site) is None


def linear_layers(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the paths of all linear layers with their (out, in), in the model's order."""
    return {name: shape for name, module in model.named_modules() if (shape := linear_shape(module)) is not None}


def _before_head(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the linear layers without those of an encoder's classification head."""
    head = set(outside(model))
    return {name: shape for name, shape in linear_layers(model).items() if f"{name}.weight" not in head}


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return a linear layer's (out, in), or None for any other module."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):  # bitsandbytes' layers are subclasses that keep these two attributes
        return module.out_features, module.in_features
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    return None


def is_transposed(model: nn.Module, site: str) -> bool:
    """Tell whether a layer stores its weight as (in, out), as GPT-2's Conv1D does."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(model.get_submodule(site), Conv1D)


def text_modules(model: Any) -> set[int]:
    """Return the ``id`` of all modules that texts pass through: without a vision-language model's vision, or its hearing."""
    towers = [model.get_encoder(modality) for modality in ("image", "audio")] if hasattr(model, "get_encoder") else []
    if all(tower is model for tower in towers):
        return {id(module) for module in model.modules()}
    if getattr(model.config, "is_encoder_decoder", False):  # whose encoder holds the others, and the texts' own
        return {id(module) for name, module in model.named_modules() if not _OTHER_SENSES.search(name)}
    return {
        id(module) for part in (model.get_decoder(), model.get_output_embeddings()) if part for module in part.modules()
    }


def _gives_its_product(module: nn.Module) -> bool:
    """Tell whether a linear layer returns its product and nothing else; some experts' routers return their choice beside it."""
    import torch

    if not type(module).__module__.startswith("transformers.models."):
        return True
    weight: Any = module.weight
    shape = linear_shape(module) or (0, 0)
    with torch.no_grad():
        output = module(torch.zeros(1, shape[1], device=weight.device, dtype=weight.dtype))
    return isinstance(output, torch.Tensor)


def _query_value(linear: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    for group in _QUERY_VALUE:
        if all(any(_ends(name, target) for name in linear) for target in group):
            return group
    endings = sorted({name.rpartition(".")[2] for name in linear})
    if not endings:
        raise OptionError(
            "the base model has no linear layer that a LoRA could change; take another one", code="no-linear-layers"
        )
    raise OptionError(
        f"no query and value projections found; pass --target-modules with some of {', '.join(endings)}",
        code="no-default-target-modules",
    )


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
