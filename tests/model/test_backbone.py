"""Which device a process takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from clora_cli.base.errors import OptionError
from clora_cli.model.backbone import pick_device


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are GPUs."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch, "empty", lambda size, device: SimpleNamespace(device=torch.device(device)))


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [
        ("auto", None, "cuda:0"),
        ("auto", "1", "cuda:1"),
        ("cuda", "1", "cuda:1"),
        ("cuda:0", "1", "cuda:1"),
        ("cuda:3", None, "cuda:3"),
        ("cpu", "1", "cpu"),
    ],
)
def test_of_several_processes_each_takes_its_own_device(gpus, monkeypatch, name, rank, expected):
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert pick_device(name) == torch.device(expected)


def test_a_launcher_that_was_told_to_stay_on_the_cpu_is_obeyed(gpus, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert pick_device("auto") == torch.device("cpu")


def test_a_device_that_is_not_here_is_told():
    with pytest.raises(OptionError, match="--device nonsense cannot be used here"):
        pick_device("nonsense")
