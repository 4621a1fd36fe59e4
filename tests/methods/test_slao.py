from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from clora_cli.algebra.lora import Factor
from clora_cli.methods.slao import Slao, orthonormal
from clora_cli.testing.requirements import draw


def run_after(last, state, a, b, step=0):
    past = [SimpleNamespace(factors=lambda: {"site": last}, state=lambda: state)] if last else []
    return SimpleNamespace(step=step, past=past, trainable={"site": Factor(a, b, 1.0)})


def test_the_decomposition_by_hand_and_with_a_positive_diagonal():
    # the first row is (3, 4) of length 5; the second has -1 along (3, 4) / 5 and 2 along (-4, 3) / 5
    rows, r = orthonormal(torch.tensor([[3.0, 4.0], [-2.2, 0.4]]))
    assert torch.allclose(rows, torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double(), atol=1e-6)
    assert torch.allclose(r, torch.tensor([[5.0, -1.0], [0.0, 2.0]]).double(), atol=1e-6)
    assert orthonormal(-rows)[1].diagonal().sign().tolist() == [1, 1]


@pytest.mark.parametrize(("beginning", "kept"), [("exact", True), ("paper", False)])
def test_the_exact_start_is_the_last_tuned_function_and_the_paper_s_is_not(beginning, kept):
    tuned = {"tuned_a/site": draw(2, 5).float(), "tuned_b/site": draw(4, 2, seed=1).float()}
    merged = Factor(tuned["tuned_a/site"], torch.zeros(4, 2), 1.0)
    run = run_after(merged, tuned, torch.zeros(2, 5), torch.zeros(4, 2))
    Slao(beginning=beginning).begin(run)
    factor, expected = run.trainable["site"], tuned["tuned_b/site"] @ tuned["tuned_a/site"]
    assert torch.allclose(factor.a @ factor.a.mT, torch.eye(2), atol=1e-6)
    assert torch.allclose(factor.b @ factor.a, expected, atol=1e-5) == kept


def test_a_run_that_is_continued_keeps_its_factors():
    run = run_after(Factor(torch.ones(1, 2), torch.ones(2, 1), 1.0), {}, torch.full((1, 2), 3.0), torch.ones(2, 1), 5)
    Slao().begin(run)
    assert run.trainable["site"].a.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("tasks", [1, 2, 200])
def test_b_is_averaged_with_one_over_the_root_of_the_tasks_without_a_floor(tasks):
    merged = Factor(torch.ones(1, 2), torch.tensor([[1.0], [3.0]]), 1.0)
    run = run_after(merged, {"tasks": torch.tensor(tasks)}, torch.full((1, 2), 2.0), torch.tensor([[5.0], [3.0]]))
    kept = Slao().finish(run)
    share = 1 / math.sqrt(tasks + 1)
    assert torch.allclose(run.trainable["site"].b, torch.tensor([[1 + 4 * share], [3.0]]))
    assert run.trainable["site"].a.tolist() == [[2.0, 2.0]] and int(kept["tasks"]) == tasks + 1
    assert kept["tuned_b/site"].tolist() == [[5.0], [3.0]]


def test_the_first_task_is_kept_as_it_is():
    run = run_after(None, {}, torch.ones(1, 2), torch.ones(2, 1))
    assert int(Slao().finish(run)["tasks"]) == 1 and run.trainable["site"].b.tolist() == [[1.0], [1.0]]
