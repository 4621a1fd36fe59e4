"""Trainings that tests carry out in one process, in several, and with the base model divided among those."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from clora_cli.base import registry

ENGINES = ("ddp", "sharded")
ZERO = "zero-2"  # where DeepSpeed is installed
# Accelerate's configuration for it, on a CPU.
ZERO_CONFIGURED = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
    "DS_ACCELERATOR": "cpu",
}
SHARED = "inc-lora"  # the method of the first adapter, where another's second task can stand on it
WHOLE = ("penalty", "loss", "gradients", "after_step")  # moments that need whole gradients: ``Moments.needs_whole``
LEARNING_MORE = (
    "moe-lora",
    "prog-prompt",
    "sd-lora",
)  # that have tensors of their own to learn, which ZeRO-2 would divide too
ADAPTER = "second/adapter_model.safetensors"


@dataclass(frozen=True)
class Case:
    """A second task, trained on top of a first one.

    Attributes:
        name: Its own.
        method: The method, of the first task too where it needs what that kept.
        first: The first task's method.
        family: The model's.
        chosen: Other options, of both tasks.
        engines: Where it is trained.
        limit: How far the result may be from one process's, relative to its norm.
    """

    name: str
    method: str
    first: str = SHARED
    family: str = "llama"
    chosen: Mapping[str, Any] = field(default_factory=dict)
    engines: tuple[str, ...] = ENGINES
    limit: float = 1e-3

    @property
    def start(self) -> str:
        """The folder of the first adapter."""
        odd = "" if self.first == SHARED and not self.chosen else f"-{self.name}"
        return f"first-{self.family}{odd}"

    @property
    def needs_whole(self) -> bool:
        """Whether the method acts on gradients, or learns tensors of its own: ZeRO-2 divides both."""
        return self.method in LEARNING_MORE or any(self._composition.at(moment) for moment in WHOLE)

    @property
    def soft(self) -> bool:
        """Whether the method trains a soft prompt."""
        return self._composition.lead.virtual_tokens() > 0

    @property
    def _composition(self) -> Any:
        from clora_cli.training.composition import compose

        return compose(self.method, self.chosen.get("method_options", {}))


# Masks are drawn by the seed here, few enough that no limit cuts them by size: those that a threshold chooses differ where an entry
# lies on it.
CAST = {"method_options": {"trim": "random,density=0.04"}}
# A few rows that the model makes show as much as fifty.
MADE = {"method_options": {"rows": "2", "surplus": "1", "groups": "2"}}
OWN: dict[str, Any] = {"cast": {"first": "cast", "chosen": CAST}, "ssr": {"first": "ssr", "chosen": MADE}}
# The past of these must be of their own kind.
OWN |= {
    name: {"first": name}
    for name in (
        "epi",
        "ewc",
        "gain-lora",
        "inf-lora",
        "lamol",
        "mocl",
        "moe-lora",
        "pfd",
        "sapt",
        "seq-ft",
        "tree-lora",
    )
}
OWN |= {name: {"first": name, "engines": ("ddp",)} for name in ("dual-prompt", "l2p", "lfpt5", "prog-prompt")}
METHODS = [
    Case(name, name, **OWN.get(name, {})) for name in registry.names("methods") if registry.load("methods", name).trains
]
ALONE = ("sharded",)
CASES = [
    *METHODS,
    Case("accumulated", "o-lora", chosen={"grad_accum": 2}, engines=ALONE),
    Case("checkpointed", "n-lora", chosen={"gradient_checkpointing": True}, engines=ALONE),
    Case("bfloat16", "o-lora", chosen={"dtype": "bfloat16"}, engines=ALONE, limit=0.05),
    Case("all-linear", "o-lora+n-lora", chosen={"target_modules": ("all-linear",)}, engines=ALONE),
    Case("conv1d", "lwf", family="gpt2", engines=ALONE),
    Case("seq2seq", "o-lora", family="t5", engines=ALONE),
    Case("seq2seq-watched", "migu", family="t5", engines=ALONE),
]


def plan_of(case: Case, root: Path, package: str, task: str, method: str, **more: Any) -> Any:
    """Return the plan of one training, in ``root`` with the models and tasks that are there."""
    from support import options_for

    from clora_cli.training import make_plan

    given = {"max_steps": 2, "save_steps": 2, **case.chosen, **more}
    return make_plan(options_for(root / "models" / case.family, root / task, root / package, method=method, **given))


def distance(one: Path, other: Path) -> float:
    """Return the norm of two adapters' difference as a share of the first one's."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    missed = sum((first[key] - second[key]).square().sum().item() for key in first)
    return (missed / sum(first[key].square().sum().item() for key in first)) ** 0.5


def carry_out(root: Path, cases: list[Case]) -> None:
    """Train all cases on all their engines in this process, one of several; write what each kept of the base model."""
    import torch
    from torch import distributed
    from torch.distributed.tensor import DTensor

    from clora_cli.model.sharding import local_bytes
    from clora_cli.processes.meeting import wait_for_all
    from clora_cli.training import fit, train_task

    wait_for_all()
    distributed.init_process_group("gloo")
    if ZERO_CONFIGURED.items() <= os.environ.items():
        _carry_out_under_zero(root, cases)
        return
    kept: dict[str, tuple[int, int]] = {}
    build = fit.build

    def weighed(*arguments: Any) -> Any:
        built = build(*arguments)
        whole = {id(one): one.numel() * one.element_size() for one in built.backbone.model.parameters()}
        own = sum(one.numel() * one.element_size() for pair in built.trainable.values() for one in (pair.a, pair.b))
        kept["now"] = local_bytes(built.backbone.model) - own, sum(whole.values()) - own
        return built

    fit.build = weighed
    DTensor.full_tensor = _put_together
    found: dict[str, Any] = {}
    for case in cases:
        for engine in case.engines:
            train_task(plan_of(case, root, f"{engine}/{case.name}", "second", case.method, shard=engine == "sharded"))
            found[f"{engine}/{case.name}"] = kept["now"]
    found |= _interrupted(root, cases[0])
    (root / f"kept-{os.environ['RANK']}.json").write_text(json.dumps(found))
    distributed.barrier()
    assert torch.get_num_threads() == 1
    distributed.destroy_process_group()


def _put_together(tensor: Any, **how: Any) -> Any:
    raise AssertionError(f"{tuple(tensor.shape)} of the base model was put together outside of a pass")


def _carry_out_under_zero(root: Path, cases: list[Case]) -> None:
    """Train all cases under ZeRO-2; write how those ended that are refused there."""
    from torch import distributed

    from clora_cli.base.errors import OptionError
    from clora_cli.training import train_task

    ended = {}
    for case in cases:
        ended[case.name] = ""
        try:
            train_task(plan_of(case, root, f"{ZERO}/{case.name}", "second", case.method))
        except OptionError as error:
            ended[case.name] = error.code
    (root / f"{ZERO}-{os.environ['RANK']}.json").write_text(json.dumps(ended))
    distributed.barrier()
    distributed.destroy_process_group()


def _interrupted(root: Path, case: Case) -> dict[str, str]:
    """Train a case in two goes."""
    from support import Signals

    from clora_cli.base.errors import InterruptedRunError
    from clora_cli.training import train_task

    given = {"shard": True, "max_steps": 4, "save_steps": 1}
    train_task(plan_of(case, root, "undisturbed", "second", case.method, **given))
    try:
        train_task(plan_of(case, root, "resumed", "second", case.method, **given), progress=Signals(after=2))
    except InterruptedRunError as error:
        train_task(plan_of(case, root, "resumed", "second", case.method, **given), resume=True)
        return {"interrupted": str(error)}
    return {}


def table(root: Path, published: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return each case on each engine, in words: what was measured, what is refused and why, what was not tried.

    Args:
        root: Where all was trained.
        published: The table as it was; it tells of ZeRO-2 where there is no DeepSpeed to measure it.
    """
    return {case.name: _row(root, case, published.get(case.name, {})) for case in CASES}


def _row(root: Path, case: Case, published: Mapping[str, str]) -> dict[str, str]:
    refused = "refused: option-not-for-soft-prompts"
    untried = refused if case.soft else "not tried"
    found = {"one": "measured", **{engine: _measured(root, case, engine) or untried for engine in ENGINES}}
    found[ZERO] = (
        "refused: gradients-divided"
        if case.needs_whole
        else _measured(root, case, ZERO) or published.get(ZERO, "not tried: no DeepSpeed in the tests")
    )
    if case.soft:
        return found | dict.fromkeys(("4bit", "4bit-sharded"), refused)
    return found | {"4bit": "not tried: no GPU at hand", "4bit-sharded": "refused: quantized-not-divided"}


def _measured(root: Path, case: Case, engine: str) -> str:
    """Return how far an engine's adapter is from one process's; empty if it was not trained there."""
    one, other = (root / name / case.name / ADAPTER for name in ("one", engine))
    return f"measured: {distance(one, other):.0e}" if other.exists() else ""


def prepare(root: Path, cases: list[Case], train: Any) -> None:
    """Train the first tasks, copy them to where each engine's second task joins them, and train those of one process."""
    for case in cases:
        start = root / case.start
        if not start.exists():
            train(plan_of(case, root, case.start, "first", case.first))
        for package in ("one", *case.engines, *((ZERO,) if find_spec("deepspeed") else ())):
            shutil.copytree(start, root / package / case.name)
        train(plan_of(case, root, f"one/{case.name}", "second", case.method))
    for package in ("undisturbed", "resumed"):
        shutil.copytree(root / cases[0].start, root / package)


if __name__ == "__main__":
    carry_out(Path(sys.argv[1]), CASES)
