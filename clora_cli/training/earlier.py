"""Whether a run goes with the adapters that its package holds (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence

from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.options import TrainOptions
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.training.composition import Composition

__all__ = ["check_earlier"]


def check_earlier(
    others: Sequence[AdapterFolder], past: Sequence[AdapterFolder], method: Composition, options: TrainOptions
) -> None:
    """Check that a run can build on a package's adapters.

    Args:
        others: All other adapters of the package.
        past: Those of earlier stages.
        method: The run's method or methods.
        options: The run's options.

    Raises:
        MismatchError: If they are of another kind or form, or lack what the method needs of them.
        OptionError: If a soft prompt is to be trained on a base model that is not whole.
    """
    prompt, start = method.lead.virtual_tokens() > 0, method.lead.start
    _check_kind(others, prompt, options)
    if prompt:
        _check_loading(options)
    elif start != "fresh":
        _check_continues(others if start == "shared" else past, options, full_rank=method.full_rank)
    if past and method.recalling:
        _check_recalled(past[-1], method)


def _check_kind(others: Sequence[AdapterFolder], prompt: bool, options: TrainOptions) -> None:
    if odd := next((member for member in others if member.is_prompt is not prompt), None):
        held, made = ("changes weights", "soft prompts") if prompt else ("holds a soft prompt", "LoRAs")
        raise MismatchError(
            f"{odd.path} {held}, and --method {options.method} trains {made}; train into another --package",
            code="adapter-kinds-differ",
        )


def _check_loading(options: TrainOptions) -> None:
    if options.shard or options.quantize != "none":
        flag = "--shard" if options.shard else f"--quantize {options.quantize}"
        raise OptionError(
            f"{flag} does not go with --method {options.method}, which trains a soft prompt; leave it out",
            code="option-not-for-soft-prompts",
        )


def _check_continues(past: Sequence[AdapterFolder], options: TrainOptions, *, full_rank: bool) -> None:
    if not past:
        return
    manifest = past[-1].manifest
    if (manifest is not None and manifest.lora.form == "full-rank") is not full_rank:
        held, made = ("a LoRA", "matrices of full rank") if full_rank else ("matrices of full rank", "a LoRA")
        raise MismatchError(
            f"{past[-1].path} holds {held}, and --method {options.method} goes on with {made}; train into another --package",
            code="adapter-kinds-differ",
        )
    if full_rank:
        return
    rank, alpha = past[-1].config.get("r"), past[-1].config.get("lora_alpha")
    if (rank, alpha) != (options.rank, options.alpha):
        raise MismatchError(
            f"--method {options.method} builds on {past[-1].path}, of rank {rank} and alpha {alpha}; pass --rank {rank} --alpha {alpha}",
            code="rank-or-alpha-differs",
        )


def _check_recalled(last: AdapterFolder, method: Composition) -> None:
    """Check that the last earlier adapter kept what penalties need of it."""
    kept = {name.partition("/")[0] for name in last.state()} | {"lora_A", "lora_B"}
    for part, names in method.recalling.items():
        if missing := [name for name in names if name not in kept]:
            raise MismatchError(
                f"--method {part} needs what the last adapter kept, and {last.path} has no {' and no '.join(missing)}; "
                f"train that one with --method {part} too",
                code="method-state-missing",
            )
