"""Evaluate a model in the middle of its training, without leaving a trace (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from peft import PeftModel
from torch import nn

from clora_cli.algebra.lora import Factor
from clora_cli.model.bank import AdapterBank

__all__ = ["bare", "replaced", "undisturbed"]


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """For a while, put a model into evaluation mode with parameters that need no gradient; then put it back."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def bare(model: PeftModel, bank: AdapterBank) -> Iterator[None]:
    """For a while, let the base model act alone, ``undisturbed``: without the new adapter and those of a bank."""
    with undisturbed(model), bank.only(None):
        model.base_model.disable_adapter_layers()
        try:
            yield
        finally:
            model.base_model.enable_adapter_layers()  # which asks for gradients that ``undisturbed`` takes back


@contextlib.contextmanager
def replaced(trainable: Mapping[str, Factor], instead: Mapping[str, Factor] | None) -> Iterator[None]:
    """For a while, let another LoRA's numbers stand in the trained one's place, without gradients; nothing changes without one."""
    if instead is None:
        yield
        return
    own = {site: (factor.a.data, factor.b.data) for site, factor in trainable.items()}
    with torch.no_grad():
        try:
            for site, factor in trainable.items():
                factor.a.data, factor.b.data = instead[site].a.to(factor.a), instead[site].b.to(factor.b)
            yield
        finally:
            for site, factor in trainable.items():
                factor.a.data, factor.b.data = own[site]
