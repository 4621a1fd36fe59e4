from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support import options_for, run_of, train

from clora_cli.algebra.lora import Factor
from clora_cli.methods.i_lora import ILora
from clora_cli.training import make_plan
from clora_cli.training.build import build


def test_by_hand():
    # the slow copy's states are larger by 2 in one of two entries, and smaller in the others: 4 / 2, at the second token nothing
    fast = torch.tensor([[1.0, 5.0], [3.0, 3.0]], requires_grad=True)
    slow = torch.tensor([[3.0, 4.0], [1.0, 3.0]])
    found = ILora().distance(fast, slow)
    assert found.item() == 2.0
    found.backward()
    assert fast.grad.tolist() == [[-2.0, 0.0], [0.0, 0.0]]  # towards the slow copy's


def test_only_remembered_rows_are_held():
    seen = []
    run = SimpleNamespace(
        memory=range(4, 9),
        kept={},
        trainable={},
        states=lambda rows, instead=None: (
            seen.append((rows, instead)) or torch.full((1, 2), float(instead is not None))
        ),
    )
    batch = SimpleNamespace(rows=torch.tensor([1, 5, 2, 8]), tokens=4)
    assert ILora(strength=2.0).loss(run, batch).item() == 2 * 1 / 4
    assert ILora().loss(run, SimpleNamespace(rows=torch.tensor([0, 3]), tokens=4)).item() == 0
    assert [rows for rows, _ in seen] == [[5, 8], [5, 8], [0], [0]]  # as many passes in every process
    run.memory = range(4, 4)
    assert ILora().loss(run, batch) is None


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_states_are_those_of_the_lora_that_was_asked_for(model_folder, tasks, tmp_path, family):
    plan = make_plan(options_for(model_folder(family), tasks["first"], tmp_path / "adapters", method="i-lora"))
    built = build(plan)
    run = run_of(plan, built)
    factors = {site: Factor(own.a, torch.randn_like(own.b), own.scaling) for site, own in run.trainable.items()}
    before = run.states([0, 3])
    other = run.states([0, 3], factors)
    assert before.requires_grad and not other.requires_grad and not torch.allclose(before, other)
    assert torch.equal(run.states([0, 3]), before)
    before.sum().backward()
    assert all(float(own.b.grad.abs().sum()) > 0 for own in run.trainable.values())
    for site, own in run.trainable.items():
        own.b.data.copy_(factors[site].b)
    assert torch.allclose(run.states([0, 3]), other, atol=1e-6)


def test_the_slow_copy_moves_and_is_what_is_written(model_folder, tasks, tmp_path):
    """Under PEFT 0.21 the copies of two public repositories never move."""
    found = {}
    for decay in ("0", "0.9"):
        how = {"method": "i-lora", "method_options": {"rows": "4", "decay": decay}, "max_steps": 4}
        train(model_folder("llama"), tasks["first"], tmp_path / decay, **how)
        found[decay] = train(model_folder("llama"), tasks["second"], tmp_path / decay, **how)
    fast, slow = (found[decay].factors() for decay in ("0", "0.9"))
    assert all(float(factor.b.abs().max()) > 0 for factor in slow.values())
    assert not any(torch.allclose(fast[site].b, slow[site].b) for site in fast)
    assert "penalty/i-lora" in found["0.9"].manifest.scores["last_step"]
