"""The frozen base model (layer L1): load it, find its sites."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from clora_cli.base.errors import OptionError
from clora_cli.model.base_model import Kind, ModelReference
from clora_cli.model.conventions import neutral_generation, read_tokens
from clora_cli.model.head_layers import outside
from clora_cli.model.loading import load_skeleton, model_with_weights, read_config, read_tokenizer
from clora_cli.model.sharding import divided, ready
from clora_cli.model.targets import ALL_LINEAR, adaptable
from clora_cli.processes.engines import refuse_other_engines

if TYPE_CHECKING:
    import torch
    from torch import nn

    from clora_cli.data.tokens import Tokens
    from clora_cli.model.sharing import Sharing

__all__ = [
    "Backbone",
    "all_linear",
    "dtype_name",
    "find_sites",
    "is_transposed",
    "linear_layers",
    "linear_shape",
    "load_backbone",
    "load_skeleton",
    "pick_device",
    "text_modules",
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
    ("q_proj", "kv_b_proj"),  # DeepSeek's keys and values come out of one layer, from a few numbers a token
    ("q_b_proj", "kv_b_proj"),
)
_OTHER_SENSES = re.compile(r"vision|visual|image|audio|speech|multi_modal")
# Called a dropout, but a part of what a model computes in evaluation: NLLB's experts are scaled down by it.
_NO_DROPOUT = {"moe_token_dropout"}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded base model with its tokenizer.

    Attributes:
        sharded: Whether each process keeps a part of it: then all must make equally many passes.
    """

    model: Any
    tokenizer: Any
    reference: ModelReference
    device: torch.device
    dtype: torch.dtype
    sharded: bool = False

    @property
    def kind(self) -> Kind:
        """Decoder-only, encoder and decoder, or encoder alone."""
        return self.reference.kind

    @cached_property
    def tokens(self) -> Tokens:
        """What tokenizer and model say about tokens: where answers end, what pads, how long a prompt may be."""
        return read_tokens(self.tokenizer, self.model, self.reference)

    @cached_property
    def sharing(self) -> Sharing:
        """What texts share while a causal model reads them."""
        from clora_cli.model.sharing import Sharing

        return Sharing(self.model)

    @property
    def prompt_kind(self) -> Literal["causal", "seq2seq"]:
        """Whose way of writing prompts is used: an encoder alone takes them as an encoder-decoder's encoder does."""
        return "causal" if self.kind == "causal" else "seq2seq"


def pick_device(name: str = "auto") -> torch.device:
    """Return the device to run on: ``auto`` takes an accelerator where there is one; of several processes each takes its own.

    Raises:
        OptionError: If the name is no device of this machine, or there are more processes on it than devices.
    """
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None or os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}:
            return torch.device("cpu")
        return torch.device(accelerator.type, _own_number())
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"--device {name} cannot be used here: {str(error).splitlines()[0]}", code="device-unavailable"
        ) from error
    several = device.type != "cpu" and "LOCAL_RANK" in os.environ
    return torch.device(device.type, _own_number()) if several else device


def _own_number() -> int:
    """Return the number of this process's own accelerator."""
    import torch

    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.accelerator.device_count()
    if number and number >= count:
        raise OptionError(
            f"process {number} of this machine has no accelerator of its own, for it sees {count}: start at most so many "
            "here (--nproc auto), let each process see all of them, or pass --device cpu",
            code="more-processes-than-devices",
        )
    return number


def dtype_name(dtype: str, device: torch.device) -> str:
    """Return the type that a ``--dtype`` stands for: ``auto`` is float32 on a CPU, bfloat16 on an accelerator."""
    if dtype != "auto":
        return dtype
    return "float32" if device.type == "cpu" else "bfloat16"


def load_backbone(
    reference: ModelReference,
    *,
    device: torch.device,
    dtype: str = "auto",
    quantize: str = "none",
    dropout: bool = False,
    shard: bool = False,
) -> Backbone:
    """Load a base model, frozen and in evaluation mode, with its tokenizer.

    Args:
        reference: From ``find_model``.
        device: Where to put it.
        dtype: ``auto`` is float32 on a CPU, bfloat16 on an accelerator.
        quantize: ``none``, ``4bit`` (NF4) or ``8bit``; needs the ``quantize`` extra and an accelerator.
        dropout: Whether the base model keeps its own dropout in training mode.
        shard: Whether each of the processes, which have met, keeps a part of it.

    Raises:
        ArtifactError: If the files cannot be loaded.
        OptionError: If it cannot be quantised or divided here, or Accelerate is to divide or compile it.
    """
    import torch

    refuse_other_engines()

    torch_dtype = getattr(torch, dtype_name(dtype, device))
    extra = divided(reference, device, quantize) if shard else {}  # each part is read to where it will be
    if quantize != "none":  # such weights are placed while they are read, on the first device unless told
        extra = {"quantization_config": _quantization(quantize, torch_dtype, device), "device_map": {"": device}}
    tokenizer, config = read_tokenizer(reference), read_config(reference)
    if not dropout:
        _switch_off_dropout(config)
    model = model_with_weights(reference, config, dtype=torch_dtype, **extra)
    if not extra:
        model = model.to(device)
    model.requires_grad_(False).eval()
    if shard:
        ready(model)
    backbone = Backbone(model, tokenizer, reference, device, torch_dtype, shard)
    _settle(backbone)
    return backbone


def _settle(backbone: Backbone) -> None:
    """Write what was decided about tokens where Transformers reads it."""
    tokens, tokenizer = backbone.tokens, backbone.tokenizer
    if tokenizer.pad_token_id != tokens.pad:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(tokens.pad)
    if backbone.kind != "encoder":
        own = backbone.model.generation_config
        starts = {"bos_token_id": own.bos_token_id, "decoder_start_token_id": own.decoder_start_token_id}
        backbone.model.generation_config = neutral_generation(tokens, **starts)


def find_sites(model: nn.Module, target_modules: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """Find the linear layers to adapt.

    Args:
        model: The base model.
        target_modules: Endings of module paths, or ``all-linear``, which is all those that PEFT adapts but the output layer;
            empty for query and value projections. The latter two are layers that texts pass through.

    Returns:
        Module path to (out, in), in the model's order.

    Raises:
        OptionError: If a target matches no linear layer.
    """
    linear = linear_layers(model)
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


def all_linear(model: nn.Module) -> list[str]:
    """Return the paths of all linear layers that texts pass through, but the output layer, in the model's order."""
    head, read = getattr(model, "get_output_embeddings", lambda: None)(), text_modules(model)
    linear = {n: m for n, m in model.named_modules() if linear_shape(m) is not None and m is not head and id(m) in read}
    classes = set(outside(model))
    linear = {name: module for name, module in linear.items() if f"{name}.weight" not in classes}
    plain = {
        kind: _gives_its_product(one) for kind, one in {type(module): module for module in linear.values()}.items()
    }
    return [name for name, module in linear.items() if plain[type(module)]]


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


def _switch_off_dropout(config: Any) -> None:
    # Set in the configuration: attention layers keep their rate as a plain number, which no walk over modules finds.
    for part in (config, *(value for value in vars(config).values() if hasattr(value, "to_diff_dict"))):
        for name, value in list(vars(part).items()):
            if ("dropout" in name or "pdrop" in name) and name not in _NO_DROPOUT and isinstance(value, float):
                setattr(part, name, 0.0)


def _quantization(quantize: str, dtype: torch.dtype, device: torch.device) -> Any:
    import importlib.util

    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None or device.type == "cpu":
        raise OptionError(
            f"--quantize {quantize} needs an accelerator and the bitsandbytes library (pip install 'clora-cli[quantize]')",
            code="quantisation-unavailable",
        )
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return a linear layer's (out, in), or None for any other module."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):  # bitsandbytes' layers are subclasses that keep these two attributes
        return module.out_features, module.in_features
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    return None


def linear_layers(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the paths of all linear layers with their (out, in), in the model's order."""
    return {name: shape for name, module in model.named_modules() if (shape := linear_shape(module)) is not None}


def is_transposed(model: nn.Module, site: str) -> bool:
    """Tell whether a layer stores its weight as (in, out), as GPT-2's Conv1D does."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(model.get_submodule(site), Conv1D)


def _query_value(linear: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    for group in _QUERY_VALUE:
        if all(any(_ends(name, target) for name in linear) for target in group):
            return group
    endings = sorted({name.rpartition(".")[2] for name in linear})
    raise OptionError(
        f"no query and value projections found; pass --target-modules with some of {', '.join(endings)}",
        code="no-default-target-modules",
    )


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
