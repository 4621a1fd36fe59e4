from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from clora_cli.algebra.lora import Factor
from clora_cli.methods.tree_lora import TreeLora, nearest
from clora_cli.testing.requirements import draw


def run_of(grads, past=None, step=0, steps=4):
    trainable = {}
    for site, grad in grads.items():
        own = torch.nn.Parameter(torch.full_like(torch.tensor(grad), 9.0))
        own.grad = torch.tensor(grad)
        trainable[site] = Factor(own, torch.nn.Parameter(torch.ones(2, 1)), 1.0)
    earlier = [] if past is None else [SimpleNamespace(state=lambda: past)]
    return SimpleNamespace(trainable=trainable, past=earlier, kept={}, step=step, steps=steps)


def gradients(*tasks):
    return {"gradient/s": torch.tensor(tasks)[:, None]}


def test_a_step_by_hand():
    # (3, 4) is nearer to (0.6, 0.8) than to (-1, 0); it is 5 long, and at the second of four steps half the strength counts
    run = run_of({"s": [[3.0, 4.0]]}, gradients([-1.0, 0.0], [0.6, 0.8]), step=1)
    method = TreeLora(strength=0.4)
    method.begin(run)
    run.kept["mean/s"] = torch.tensor([[3.0, 4.0]])
    method.gradients(run)
    assert torch.allclose(run.trainable["s"].a.grad, torch.tensor([[3.0, 4.0]]) + 0.2 * 5 * torch.tensor([[0.6, 0.8]]))
    assert torch.equal(run.kept["mean/s"], torch.tensor([[3.0, 4.0]]))  # without what was added


def test_the_tree_by_hand():
    # At the first site tasks 0 and 1 lie together and the new one with them: at the second, task 2, which is nearest there, is no
    # longer asked.
    first = torch.tensor([[[1.0, 0.0]], [[0.9, 0.1]], [[-1.0, 0.0]]])
    second = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.8, 0.6]]])
    new = {"one": torch.tensor([[1.0, 0.05]]), "two": torch.tensor([[0.8, 0.6]])}
    assert nearest(new, {"one": first, "two": second}) == {"one": 0, "two": 0}
    assert nearest({"two": new["two"]}, {"two": second}) == {"two": 2}


def test_the_nearest_task_is_preferred_and_not_the_most_distant():
    own = draw(1, 6).float()
    tasks = torch.stack([-own, own + 0.1 * draw(1, 6, seed=1).float(), draw(1, 6, seed=2).float()])
    assert nearest({"s": own}, {"s": tasks / tasks.flatten(1).norm(dim=1)[:, None, None]}) == {"s": 1}


def test_what_is_compared_are_gradients_and_not_parameters():
    runs = [run_of({"s": [[3.0, 4.0]]}, gradients([-1.0, 0.0], [0.6, 0.8])) for _ in range(2)]
    with torch.no_grad():
        runs[1].trainable["s"].a.copy_(torch.tensor([[-50.0, 0.0]]))
    for run in runs:
        TreeLora().begin(run)
        TreeLora().gradients(run)
    assert torch.equal(runs[0].trainable["s"].a.grad, runs[1].trainable["s"].a.grad)


def test_a_sites_gradient_counts_once_whatever_the_number_of_sites():
    kept = []
    for sites in (("s",), ("s", "t", "u")):
        run = run_of({site: [[3.0, 4.0]] for site in sites})
        for run.step in range(3):
            TreeLora().gradients(run)
        kept.append(run.kept["mean/s"])
        assert torch.allclose(TreeLora().finish(run)["gradient/s"], torch.tensor([[[0.6, 0.8]]]))
    assert torch.equal(*kept)


def test_the_same_gradients_give_the_same_step():
    past = {"gradient/s": torch.stack([draw(2, 5, seed=seed).float() for seed in range(6)])}
    grads = draw(2, 5, seed=9).float().tolist()
    found = []
    for _ in range(2):
        run = run_of({"s": grads}, past)
        TreeLora().begin(run)
        TreeLora().gradients(run)
        found.append(run.trainable["s"].a.grad)
    assert torch.equal(*found)


def test_the_first_task_is_trained_as_it_is():
    run = run_of({"s": [[3.0, 4.0]]})
    TreeLora().begin(run)
    TreeLora().gradients(run)
    assert run.trainable["s"].a.grad.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_length_of_old_gradients_does_not_matter(scale):
    run = run_of({"s": [[3.0 * scale, 4.0 * scale]]}, gradients([0.6, 0.8]))
    TreeLora().begin(run)
    TreeLora().gradients(run)
    assert torch.allclose(run.trainable["s"].a.grad, torch.tensor([[3.0, 4.0]]) * scale * (1 + 0.5 / 4))


def test_an_old_gradient_pulls_its_own_way_even_against_the_new_one():
    # against (3, 4) lies (-0.6, -0.8): of 5 a quarter of the strength of 0.4 is taken away
    run = run_of({"s": [[3.0, 4.0]]}, gradients([-0.6, -0.8]))
    method = TreeLora(strength=0.4)
    method.begin(run)
    method.gradients(run)
    assert torch.allclose(run.trainable["s"].a.grad, torch.tensor([[3.0, 4.0]]) * 0.9)


def test_the_gradients_of_all_tasks_are_kept():
    run = run_of({"s": [[3.0, 4.0]]}, gradients([-1.0, 0.0], [0.0, 1.0]))
    TreeLora().begin(run)
    TreeLora().gradients(run)
    assert torch.allclose(
        TreeLora().finish(run)["gradient/s"], torch.tensor([[[-1.0, 0.0]], [[0.0, 1.0]], [[0.6, 0.8]]])
    )
