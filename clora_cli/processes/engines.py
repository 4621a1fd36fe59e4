"""What the launcher's configuration asks of Accelerate, read from the environment before anything is loaded (layer L0)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from clora_cli.base.errors import OptionError
from clora_cli.base.intake import natural

__all__ = ["refuse_other_engines"]

_TRUE = {"1", "true", "yes", "y", "on", "t"}
_AXES = {"TP": "tensor parallelism", "CP": "context parallelism", "SP": "sequence parallelism", "DP_SHARD": "FSDP"}
_WHOLE = 3  # the stage of ZeRO from which on the weights themselves are divided


def refuse_other_engines() -> None:
    """Refuse a launch whose configuration has Accelerate divide the model's weights, or compile the model.

    Accelerate divides them after every process has loaded all of them, and replaces the parameters, so that penalties, masks and
    gates would act on tensors that are trained no more. On a CPU it ignores the wish without a word.

    Raises:
        OptionError: If it is configured for FSDP, ZeRO-3, Megatron-LM or another way to divide a model, or for ``torch.compile``.
    """
    if (backend := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")).lower() not in {"", "no"}:
        raise OptionError(
            f"Accelerate is configured to compile the model (dynamo backend {backend.lower()}), again for every shape of a batch "
            "and around the hooks of methods and adapters, which does not end in useful time; launch with --dynamo_backend no",
            code="engine-compiles",
        )
    if (found := _found()) is not None:
        raise OptionError(
            f"Accelerate is configured for {found}, which loads the whole model on every process and then replaces the "
            "parameters that methods act on (and does nothing on a CPU); launch without it and pass --shard, which "
            "divides the base model as it is loaded",
            code="engine-shards-by-itself",
        )


def _found() -> str | None:
    """Return what Accelerate is configured for that divides the weights; None if nothing."""
    if _asked("ACCELERATE_USE_FSDP"):
        return "FSDP"
    if _asked("ACCELERATE_USE_MEGATRON_LM"):
        return "Megatron-LM"
    if _asked("ACCELERATE_USE_DEEPSPEED") and _zero_stage() >= _WHOLE:
        return "DeepSpeed's ZeRO-3"
    return next(
        (name for axis, name in _AXES.items() if _number(os.environ.get(f"PARALLELISM_CONFIG_{axis}_SIZE", "")) > 1),
        None,
    )


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in _TRUE


def _zero_stage() -> int:
    """Return the stage of ZeRO that the launch is configured for; a configuration file of DeepSpeed's own comes first."""
    try:
        settings = json.loads(Path(os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")).read_bytes())
        return _number(str(settings["zero_optimization"]["stage"]))
    except (OSError, ValueError, KeyError, TypeError):
        return _number(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", ""))


def _number(text: str) -> int:
    return natural(text.strip()) or 0
