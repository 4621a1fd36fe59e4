from __future__ import annotations

import pytest
import torch

from clora_cli import registry
from clora_cli.methods import Factors


@pytest.mark.parametrize(
    ("name", "past", "start", "combine"),
    [
        ("inc-lora", "sum", "fresh", "sum"),
        ("seq-lora", "none", "previous", "last"),
        ("per-task", "none", "fresh", "task-id"),
        ("o-lora", "sum", "fresh", "sum"),
        ("n-lora", "sum", "fresh", "sum"),
    ],
)
def test_how_each_treats_the_past(name, past, start, combine):
    method = registry.load("methods", name)()
    assert (method.past, method.start, method.combine) == (past, start, combine)


@pytest.mark.parametrize("name", ["inc-lora", "seq-lora", "per-task"])
def test_baselines_have_no_penalty(name):
    ones = torch.ones(1, 2, 2)
    assert registry.load("methods", name)().penalty(Factors(ones, ones, 1.0, ones, ones)) is None
