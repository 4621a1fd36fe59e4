"""Who owns what of a shared LoRA, as a table, as JSON and drawn."""

from __future__ import annotations

import pytest
import torch

from clora_cli.presenting.capacity_forms import capacity_json, capacity_table, draw_capacity
from clora_cli.store.ledger import Ledger

LEDGER = Ledger(
    ("cb", "rte"),
    {"q": torch.tensor([[1, 1], [0, 0]], dtype=torch.int16), "v": torch.tensor([[1, 2], [2, 2]], dtype=torch.int16)},
)


def test_shares_are_of_all_entries_and_of_each_site():
    data = capacity_json(LEDGER)
    assert data["entries"] == 8
    assert data["shares"] == {"cb": 3 / 8, "rte": 3 / 8, "idle": 2 / 8}
    assert data["sites"] == {"q": {"cb": 0.5, "rte": 0, "idle": 0.5}, "v": {"cb": 0.25, "rte": 0.75, "idle": 0}}


def test_the_table_has_a_row_for_each_owner():
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capacity_table(LEDGER).splitlines()]
    assert lines[2:] == [
        ["cb", "3", "37.5", "25.0", "50.0"],
        ["rte", "3", "37.5", "0.0", "75.0"],
        ["idle", "2", "25.0", "0.0", "50.0"],
    ]


def test_a_task_may_be_called_idle(tmp_path):
    ledger = Ledger(("idle", "rte"), LEDGER.owners)
    assert capacity_json(ledger)["shares"] == {"idle": 3 / 8, "rte": 3 / 8, "idle (no task)": 2 / 8}
    assert [line.split("|")[1].strip() for line in capacity_table(ledger).splitlines()[2:]] == [
        "idle",
        "rte",
        "idle (no task)",
    ]
    draw_capacity(ledger, tmp_path / "capacity.svg")


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_figure_is_drawn(tmp_path, ending):
    path = tmp_path / f"capacity.{ending}"
    draw_capacity(LEDGER, path)
    assert path.stat().st_size > 1000
