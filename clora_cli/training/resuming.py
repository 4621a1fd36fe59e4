"""Transformers' Trainer with checkpoints of safetensors and JSON in place of its pickled ones (layer L3)."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerState

from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import read_json
from clora_cli.processes.ranks import gathered, rank
from clora_cli.store.tensors import read_tensors, save_tensors
from clora_cli.training.checkpoints import ADAPTER, OPTIMIZER, RANDOM, STATE, TRAINER, new_checkpoint, start_anew

__all__ = ["Kept", "ResumableTrainer"]


class Kept(Protocol):
    """A part of a run that goes into its checkpoints."""

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint's folder."""


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints hold nothing that is pickled, and continue to the same bytes.

    The hooks that it replaces are the Trainer's own for saving and loading: a checkpoint has the adapter's tensors and all
    others that are trained, the optimizer's, the scheduler's and the scaler's state, and every process's random numbers.
    """

    kept: tuple[Kept, ...] = ()

    @property
    def divides_state(self) -> bool:
        """Whether no process has the whole of the gradients and of the optimizer's state: then there are no checkpoints."""
        return str(self.accelerator.distributed_type).rpartition(".")[2] == "DEEPSPEED"

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint; one that could not be written whole is not there.

        Raises:
            CloraError: If the disk is full or not writable.
        """
        self.store_flos()
        if self.divides_state:
            return
        drawn = _random_states(self.args.device)
        if not self.args.should_save:
            return
        with new_checkpoint(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}") as folder:
            save_tensors(folder / ADAPTER, _changed(self.model))
            optimizer = self.optimizer.state_dict()
            save_tensors(folder / OPTIMIZER, _flat(optimizer["state"]))
            save_tensors(folder / RANDOM, drawn)
            for kept in self.kept:
                kept.save(folder)
            scaler = self.accelerator.scaler
            state = {
                "groups": optimizer["param_groups"],
                "scheduler": self.lr_scheduler.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            (folder / STATE).write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
            self.state.save_to_json(str(folder / TRAINER))

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        saved, own = read_tensors(Path(resume_from_checkpoint) / ADAPTER), _changed(self.model)
        with _fitting(resume_from_checkpoint):
            step = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER)).global_step
            if Path(resume_from_checkpoint).name != f"checkpoint-{step}":
                raise ValueError(f"it says that it is of step {step!r}")
            if saved.keys() != own.keys():
                raise ValueError(f"its adapter has not '{min(saved.keys() ^ own.keys())}' in common with this run's")
            for name, tensor in own.items():
                if tensor.shape != saved[name].shape:
                    raise ValueError(f"'{name}' has another shape")
                tensor.copy_(saved[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors, state = read_tensors(Path(checkpoint) / OPTIMIZER), read_json(Path(checkpoint) / STATE, "state")
        with _fitting(checkpoint):
            self.optimizer.load_state_dict({"state": _nested(tensors), "param_groups": state["groups"]})
            self.lr_scheduler.load_state_dict(state["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.accelerator.scaler is None:
            return
        with _fitting(checkpoint):
            self.accelerator.scaler.load_state_dict(read_json(Path(checkpoint) / STATE, "state")["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        drawn = read_tensors(Path(checkpoint) / RANDOM)
        own = {name: tensor for key, tensor in drawn.items() for name in [key.partition("/")] if name[0] == str(rank())}
        with _fitting(checkpoint):
            if own:  # a run with fewer processes saved none for this one
                _set_random_states({name[2]: tensor for name, tensor in own.items()}, self.args.device)


@contextlib.contextmanager
def _fitting(checkpoint: str) -> Iterator[None]:
    """Turn errors about an intact checkpoint that does not fit this run, perhaps of another version, into one line."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        path, reason = Path(checkpoint), " ".join(str(error).split())
        raise ArtifactError(
            f"{path} does not fit this run ({reason}); {start_anew(path.parent)}", code="checkpoint-does-not-fit"
        ) from error


def _changed(model: nn.Module) -> dict[str, Tensor]:
    """Return all tensors that are not the base model's: trained ones, and factors that keep their initial values."""
    parameters = model.named_parameters()
    return {name: own for name, own in parameters if own.requires_grad or ".lora_A." in name or ".lora_B." in name}


def _flat(state: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return an optimizer's state as tensors named ``number of the parameter/name``."""
    return {f"{number}/{name}": value for number, own in state.items() for name, value in own.items()}


def _nested(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = tensor
    return state


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of all processes' random generators, as tensors named ``process/generator``."""
    _, drawn, gauss = random.getstate()
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    states = {
        "python": torch.tensor([*drawn, gauss is not None], dtype=torch.int64),
        "python-gauss": torch.tensor(gauss or 0.0, dtype=torch.float64),
        "numpy": torch.tensor(
            [*numpy["state"]["key"].tolist(), numpy["state"]["pos"], numpy["has_gauss"]], dtype=torch.int64
        ),
        "numpy-gauss": torch.tensor(numpy["gauss"], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state()
    found = {}
    for name, state in states.items():
        for number, own in enumerate(gathered(state, device)):
            found[f"{number}/{name}"] = own
    return found


def _set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    *drawn, has_gauss = states["python"].tolist()
    random.setstate((3, tuple(drawn), states["python-gauss"].item() if has_gauss else None))
    *key, position, has_cached = states["numpy"].tolist()
    legacy = ("MT19937", np.array(key, dtype=np.uint32), position, has_cached, states["numpy-gauss"].item())
    np.random.set_state(legacy)
    torch.set_rng_state(states["torch"])
    if "device" in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states["device"])
