from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from clora_cli.methods.a_gem import AGem
from clora_cli.methods.gem import Gem, dual


def run_with(gradient, *memories):
    """Return a run of one trained tensor, whose gradient and the memories' are given."""
    own = torch.nn.Parameter(torch.zeros(len(gradient)))
    own.grad = torch.tensor(gradient)
    slopes = dict(enumerate(map(torch.tensor, memories)))
    return SimpleNamespace(
        seed=0,
        step=3,
        memory=range(len(memories)),
        memories=[range(place, place + 1) for place in slopes],
        own=own,
        slopes=lambda rows: [(own, torch.stack([slopes[row] for row in rows]).mean(dim=0))],
    )


def test_a_gem_by_hand():
    # <g, m> = -2 and <m, m> = 4: half of m is added
    run = run_with([-1.0, 3.0], [2.0, 0.0])
    AGem().gradients(run)
    assert run.own.grad.tolist() == [0.0, 3.0]


@pytest.mark.parametrize("method", [AGem(), Gem()])
def test_a_step_without_a_conflict_stays(method):
    run = run_with([1.0, 3.0], [2.0, 0.0], [0.0, 1.0])
    method.gradients(run)
    assert run.own.grad.tolist() == [1.0, 3.0]


def test_gem_by_hand():
    # against both memories, which are orthogonal: each takes its own part away
    run = run_with([-1.0, -3.0, 5.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    Gem(margin=0).gradients(run)
    assert torch.allclose(run.own.grad, torch.tensor([0.0, 0.0, 5.0]), atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("tasks", [1, 4, 14])
def test_gem_s_step_is_against_no_memory_however_many(tasks, margin):
    generator = torch.Generator().manual_seed(tasks)
    memories = torch.randn(tasks, 40, generator=generator) + 1
    gradient = -memories.sum(dim=0) + 0.1 * torch.randn(40, generator=generator)
    run = run_with(gradient.tolist(), *memories.tolist())
    Gem(margin=margin).gradients(run)
    assert float((memories @ run.own.grad).min()) >= -1e-3
    assert float((memories @ gradient).max()) < -1


def test_gem_resolves_a_step_straight_against_a_memory():
    run = run_with([-1.0, -2.0], [1.0, 2.0])
    Gem(margin=0).gradients(run)
    assert torch.allclose(run.own.grad, torch.zeros(2), atol=1e-6)


def test_the_dual_of_equal_memories_is_found():
    memory = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    found = dual(memory @ memory.mT, torch.tensor([-4.0, -4.0]).double(), 0.0)
    assert float(found.sum()) == pytest.approx(2) and float(found.min()) >= 0


def test_a_sample_is_the_same_at_a_step_and_another_at_the_next():
    seen = []
    run = run_with([-1.0], *[[1.0]] * 30)
    slopes = run.slopes
    run.slopes = lambda rows: seen.append(list(rows)) or slopes(rows)
    for step in (1, 1, 2):
        run.step = step
        AGem(sample=5).gradients(run)
    assert seen[0] == seen[1] != seen[2] and len(set(seen[0])) == 5


def test_gem_turns_a_step_that_it_changes_towards_every_task_by_the_margin_at_least():
    # against the first memory of length 1 by 2: v = 2 there; the second, which nothing speaks against, has the margin
    run = run_with([-2.0, 3.0], [1.0, 0.0], [0.0, 1.0])
    Gem(margin=0.5).gradients(run)
    assert torch.allclose(run.own.grad, torch.tensor([0.0, 3.5]), atol=1e-6)
