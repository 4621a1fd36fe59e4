from __future__ import annotations

import pytest
import torch
from refusals import refused

from clora_cli.base import registry
from clora_cli.methods import Factors, Memory


@pytest.mark.parametrize(
    ("name", "past", "start", "combine"),
    [
        ("inc-lora", "sum", "fresh", "sum"),
        ("seq-lora", "none", "previous", "last"),
        ("per-task", "none", "fresh", "task-id"),
        ("o-lora", "sum", "fresh", "sum"),
        ("n-lora", "sum", "fresh", "sum"),
        ("replay", "none", "previous", "last"),
        ("mtl", "none", "fresh", "last"),
        ("ewc", "none", "previous", "last"),
        ("lwf", "none", "previous", "last"),
        ("migu", "none", "previous", "last"),
        ("zero-shot", "none", "fresh", "none"),
    ],
)
def test_how_each_treats_the_past(name, past, start, combine):
    method = registry.load("methods", name)()
    assert (method.past, method.start, method.combine) == (past, start, combine)


@pytest.mark.parametrize("name", ["inc-lora", "seq-lora", "per-task", "replay", "mtl", "zero-shot"])
def test_baselines_have_no_penalty(name):
    ones = torch.ones(1, 2, 2)
    assert registry.load("methods", name)().penalty(Factors(ones, ones, 1.0, ones, ones)) is None


def test_what_each_asks_for_beyond_the_new_task_s_rows():
    reusing = {name for name in registry.names("methods") if registry.load("methods", name)().reuses_data}
    assert reusing == {"replay", "mtl", "gem", "a-gem", "i-lora"}
    assert not any(
        registry.load("methods", name).grows for name in ("replay", "mtl", "ewc", "lwf", "migu", "zero-shot")
    )


def test_memories():
    replay, mtl = (registry.load("methods", name) for name in ("replay", "mtl"))
    assert replay().memory() == Memory(rows=50)
    assert replay(rows=3, share=0.02).memory() == Memory(rows=3, share=0.02)
    assert mtl().memory() == Memory(rows=0)  # all
    with refused("option-out-of-range", "rows=-1", "replay"):
        replay(rows=-1)


def test_what_is_merged_by_ranks_goes_on_from_the_last_one():
    """Ranks of two LoRAs mean the same only where one began as the other."""
    for name in ("tasl", "slao", "slow"):
        assert registry.load("methods", name).start == "previous"
