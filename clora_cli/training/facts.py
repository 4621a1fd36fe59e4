"""Facts on which all processes of a training must agree before it begins (layer L3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clora_cli.base.files import sha256
from clora_cli.model.backbone import pick_device
from clora_cli.store.adapter_folder import WEIGHTS
from clora_cli.store.package import marks
from clora_cli.training.checkpoints import RECORD
from clora_cli.training.plan import Plan

__all__ = ["begun", "facts"]

_SHORT = 12  # digits of a checksum that a message shows


def facts(plan: Plan) -> dict[str, Any]:
    """Return the plan's recipe and inputs, and whether its adapter is there already."""
    weights = plan.out / WEIGHTS
    return {
        **plan.recipe(),
        "base_model": plan.reference.fingerprint,  # its name is a path, which may differ from machine to machine
        "package": marks(plan.members),
        "device": pick_device(plan.options.device).type,
        "shard": plan.options.shard,
        "save_steps": plan.options.save_steps,
        "gradient_checkpointing": plan.options.gradient_checkpointing,
        "finished adapter": sha256(weights)[:_SHORT] if weights.is_file() else "none",
    }


def begun(plan: Plan, checkpoint: Path | None) -> dict[str, Any]:
    """Return the state of the run on disk, and the checkpoint that it would continue from."""
    return {
        "unfinished run": "there" if plan.work.exists() else "none",
        "checkpoint": f"{checkpoint.name}/{sha256(checkpoint / RECORD)[:_SHORT]}" if checkpoint else "none",
    }
