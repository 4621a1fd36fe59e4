from __future__ import annotations

import pytest

from clora_cli.training import describe
from clora_cli.training.forecast import in_units, of_process

MILLION = 10**6


def test_each_part_of_a_process_by_hand():
    alone = of_process(1, 100 * MILLION, [], 3, MILLION, 7, 5, passes=2)
    assert (alone.base, alone.together, alone.adapter, alone.sent) == (100 * MILLION, 0, 16 * MILLION, 0)
    assert alone.total == 116 * MILLION + 15
    # Four: each of a quarter, and has the two largest of three blocks, and what is outside, whole at a time.
    divided = [10 * MILLION, 20 * MILLION, 30 * MILLION, 40 * MILLION]
    four = of_process(4, 100 * MILLION, divided, 0, MILLION, None, None, passes=2)
    assert (four.base, four.together) == (25 * MILLION, 80 * MILLION)
    assert four.sent == 2 * 0.75 * 4 * MILLION + 2 * 0.75 * 100 * MILLION
    assert "before activations on each of 4" in four.text()
    assert of_process(4, 100 * MILLION, [], 0, MILLION, None, None, passes=2).base == 100 * MILLION


def test_a_plan_tells_what_each_process_needs(plan_for, backbone):
    one, two, less, lighter = (
        describe(plan_for("first", **chosen)).data()["each_process"]
        for chosen in ({}, {"nproc": 2}, {"nproc": 2, "shard": True}, {"gradient_checkpointing": True})
    )
    assert one["base"] == sum(weight.numel() * weight.element_size() for weight in backbone("llama").model.parameters())
    assert less["together"] == one["base"]  # of two blocks, which are all there are
    assert one["base"] == two["base"] == pytest.approx(2 * less["base"], abs=1)
    assert one["activations"] == pytest.approx(2 * two["activations"], rel=0.05)  # half of the rows each
    assert lighter["activations"] < one["activations"]
    assert one["sent"] == 0 < two["sent"] < less["sent"]
    assert two["together"] == 0


def test_sizes_are_told_in_units_that_fit():
    assert [in_units(size) for size in (5, 2048, 3 << 20, 3 << 29)] == ["5 B", "2 KiB", "3 MiB", "1.5 GiB"]
