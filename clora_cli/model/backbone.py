"""The frozen base model (layer L1): load it, find its sites."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from clora_cli.base.errors import OptionError
from clora_cli.base.progress import Progress
from clora_cli.model.base_model import Kind, ModelReference
from clora_cli.model.conventions import neutral_generation, read_tokens
from clora_cli.model.half_precision import slow_here
from clora_cli.model.loading import load_skeleton, model_with_weights, read_config, read_tokenizer
from clora_cli.model.sharding import divided, ready
from clora_cli.processes.engines import refuse_other_engines

if TYPE_CHECKING:
    import torch

    from clora_cli.data.tokens import Tokens
    from clora_cli.model.sharing import Sharing

__all__ = [
    "Backbone",
    "dtype_name",
    "load_backbone",
    "load_skeleton",
    "pick_device",
]


# Called a dropout or a noise, but a part of what a model computes in evaluation, by type and name: NLLB's experts are scaled
# down by the one, and the other is how far apart the scores of PhiMoE's experts may be.
_NO_DROPOUT = {("nllb-moe", "moe_token_dropout"), ("phimoe", "router_jitter_noise")}
# In names of settings: what is left out at random, single numbers or whole blocks and layers, and what routers' inputs are multiplied with.
_DROPPING = ("dropout", "pdrop", "drop_path", "layerdrop", "drop_rate", "jitter_noise", "jitter_eps")


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded base model with its tokenizer, or its image processor.

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
    progress: Progress | None = None,
) -> Backbone:
    """Load a base model, frozen and in evaluation mode, with its tokenizer.

    Args:
        reference: From ``find_model``.
        device: Where to put it.
        dtype: ``auto`` is float32 on a CPU, bfloat16 on an accelerator.
        quantize: ``none``, ``4bit`` (NF4) or ``8bit``; needs the ``quantize`` extra and an accelerator.
        dropout: Whether the base model keeps its own dropout in training mode.
        shard: Whether each of the processes, which have met, keeps a part of it.
        progress: Told if this type is slow on this processor.

    Raises:
        ArtifactError: If the files cannot be loaded.
        OptionError: If it cannot be quantised or divided here, or Accelerate is to divide or compile it.
    """
    import torch

    refuse_other_engines()

    name = dtype_name(dtype, device)
    if progress is not None and (remark := slow_here(name, device)):
        progress.warn(remark)
    torch_dtype = getattr(torch, name)
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
    """Write what was decided about tokens where Transformers reads it; let a model that sees look its images up."""
    tokens, tokenizer = backbone.tokens, backbone.tokenizer
    if tokens.seen is not None:
        tokens.seen.show(backbone.model)
        return
    if tokenizer.pad_token_id != tokens.pad:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(tokens.pad)
    if backbone.kind != "encoder":
        own = backbone.model.generation_config
        starts = {"bos_token_id": own.bos_token_id, "decoder_start_token_id": own.decoder_start_token_id}
        backbone.model.generation_config = neutral_generation(tokens, **starts)


def _switch_off_dropout(config: Any) -> None:
    # Set in the configuration: attention layers keep their rate as a plain number, which no walk over modules finds.
    for part in (config, *(value for value in vars(config).values() if hasattr(value, "to_diff_dict"))):
        for name, value in list(vars(part).items()):
            acts = (getattr(config, "model_type", ""), name) in _NO_DROPOUT
            if any(word in name for word in _DROPPING) and not acts and isinstance(value, float):
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
