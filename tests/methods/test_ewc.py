from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from refusals import refused

from clora_cli.methods import Factors
from clora_cli.methods.ewc import Ewc

# One site, rank 1, in = 2, out = 1. The adapter has moved by (1, -2) in A and by 3 in B.
OLD = {"lora_A": torch.tensor([[[4.0, 1.0]]]), "lora_B": torch.tensor([[[2.0]]])}
KEPT = {**OLD, "fisher_a": torch.tensor([[[0.5, 2.0]]]), "fisher_b": torch.tensor([[[1.0]]])}
GIVEN = Factors(OLD["lora_A"] + torch.tensor([[[1.0, -2.0]]]), OLD["lora_B"] + 3, 2.0, None, None, recalled=KEPT)


class Known:
    """A run that knows its answers."""

    def __init__(self, before):
        self.past, self.asked = [SimpleNamespace(state=lambda: before)] if before else [], []

    def fisher(self, rows):
        self.asked.append(rows)
        return {"lora_A": {"site": torch.tensor([[1.0, 2.0]])}, "lora_B": {"site": torch.tensor([[3.0]])}}


def test_by_hand():
    # 10 / 2 * (0.5 * 1 + 2 * 4 + 1 * 9); slopes 10 * (0.5 * 1, 2 * -2) and 10 * 1 * 3
    penalty = Ewc(strength=10).penalty(GIVEN)
    assert penalty.value.item() == 87.5
    assert penalty.grad_a.tolist() == [[[5.0, -40.0]]]
    assert penalty.grad_b.tolist() == [[[30.0]]]


def test_without_a_previous_adapter_it_does_not_act():
    assert Ewc().penalty(Factors(GIVEN.a, GIVEN.b, 2.0, None, None)) is None


def test_fisher_information_is_added_up_task_by_task():
    run = Known({})
    kept = Ewc(rows=7).finish(run)
    assert run.asked == [7]
    assert {name: tensor.tolist() for name, tensor in kept.items()} == {
        "fisher_a/site": [[1.0, 2.0]],
        "fisher_b/site": [[3.0]],
    }
    later = Ewc(decay=0.5).finish(
        Known({"fisher_a/site": torch.tensor([[4.0, 0.0]]), "fisher_b/site": torch.tensor([[2.0]])})
    )
    assert later["fisher_a/site"].tolist() == [[3.0, 2.0]]
    assert later["fisher_b/site"].tolist() == [[4.0]]


@pytest.mark.parametrize("option", [{"decay": 1.1}, {"rows": 0}])
def test_options_that_make_no_sense_are_refused(option):
    with refused("option-out-of-range", f"{next(iter(option))}=", "ewc"):
        Ewc(**option)
