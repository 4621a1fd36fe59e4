"""A base model that is divided among the processes of a launch as it is loaded (layer L1).

Every process reads and keeps its part of each weight, Transformers' ``DistributedConfig`` (FSDP2). A block's weights are put
together on every process for the length of its own pass, so each pass takes all processes: they must make equally many. Adapters,
and all else that is put around the base model, stay whole on every process.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import OptionError
from clora_cli.model.loading import load_skeleton, read_config
from clora_cli.processes.ranks import processes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from clora_cli.model.base_model import ModelReference

__all__ = ["block_modules", "divided", "give_up_whole", "local_bytes", "ready", "whole_tensors"]

_FREED = "free_full_weight"  # Transformers' name: put together for a pass and given up after it


def divided(reference: ModelReference, device: torch.device, quantize: str = "none") -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` with which each process keeps its part of a base model.

    Args:
        reference: The base model.
        device: Where it will run; the processes have met.
        quantize: How its weights are to be quantised.

    Raises:
        OptionError: If there is one process only, or the libraries cannot divide the model here, or its weights are quantised.
    """
    import torch
    import transformers

    if quantize != "none":
        raise OptionError(
            f"--shard and --quantize {quantize} do not go together: Transformers divides a weight as it is read, and "
            "bitsandbytes packs whole ones; give one of them (4 bit on one GPU takes what 16 bit takes on four)",
            code="quantized-not-divided",
        )
    if (stored := getattr(read_config(reference), "quantization_config", None)) is not None:
        raise OptionError(
            f"--shard takes weights that are not quantised; those of {reference.path} are stored so "
            f"({dict(stored).get('quant_method', 'quantization_config')}): give the model in 16 bit, or leave --shard out",
            code="quantized-not-divided",
        )
    if processes() == 1:
        raise OptionError(
            "--shard divides the base model among several processes and there is one: pass --nproc, or use a launcher",
            code="shard-needs-processes",
        )
    if not hasattr(transformers, "DistributedConfig") or "fsdp_size" not in vars(transformers.DistributedConfig):
        raise OptionError(
            f"--shard needs Transformers 5.20 or later; this is {transformers.__version__}", code="sharding-unavailable"
        )
    built = torch.accelerator.current_accelerator()
    if device.type != (built.type if built else "cpu"):
        raise OptionError(
            f"--shard runs on what this PyTorch was built for, {built.type if built else 'the CPU'}, not on {device.type}; "
            "leave --device out, or use another build of PyTorch",
            code="sharding-unavailable",
        )
    plan = dict.fromkeys(_blocks(load_skeleton(reference)), _FREED)
    return {"distributed_config": transformers.DistributedConfig(fsdp_size=processes(), fsdp_plan=plan)}


def ready(model: Any) -> None:
    """Run a divided model once, over a single token, so that any later pass can be the first of its kind.

    FSDP2 takes the first module that runs for the outermost one, which an encoder alone is not; and weights that are put together
    for the first time in inference mode could not be put together in any other.
    """
    import torch

    seq2seq = bool(getattr(model.config, "is_encoder_decoder", False))
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with torch.no_grad():
        model(input_ids=token, **({"decoder_input_ids": token} if seq2seq else {}))
    give_up_whole(model)
    if seq2seq:  # what no block holds is put together in a pass of the outermost module only
        model.get_encoder().register_forward_pre_hook(lambda module, inputs: model.unshard() and None)


def give_up_whole(model: nn.Module) -> None:
    """Give up the weights that are put together at the moment, as after a pass that ended halfway."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights that this process keeps."""
    from torch.distributed.tensor import DTensor

    held = {id(one): one.to_local() if isinstance(one, DTensor) else one for one in model.parameters()}
    return sum(one.numel() * one.element_size() for one in held.values())


def whole_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's tensors by name, but for those of which each process keeps a part."""
    from torch.distributed.tensor import DTensor

    return {name: tensor for name, tensor in model.state_dict().items() if not isinstance(tensor, DTensor)}


def block_modules(model: nn.Module) -> list[nn.Module]:
    """Return a model's blocks, in its order: the members of its outermost lists of modules."""
    return [block for name in _lists(model) for block in model.get_submodule(name).children()]


def _blocks(model: nn.Module) -> list[str]:
    """Return the paths of a model's blocks, with ``*`` in place of their numbers."""
    return [f"{re.sub(r'[.][0-9]+(?=[.]|$)', '.*', name)}.*" for name in _lists(model)]


def _lists(model: nn.Module) -> list[str]:
    """Return the paths of the outermost lists of modules that have weights."""
    from torch import nn

    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and next(module.parameters(), None) is not None
    ]
    return [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
