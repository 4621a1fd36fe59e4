from __future__ import annotations

from types import SimpleNamespace

import torch

from clora_cli.algebra.lora import Factor
from clora_cli.methods.tasl import Tasl, scaled


def parameter(values, gradient):
    own = torch.nn.Parameter(torch.tensor(values))
    own.grad = torch.tensor(gradient)
    return own


def run_of(a, b, last=None, importance=None):
    state = {} if importance is None else {"importance/s": torch.tensor(importance)}
    past = [SimpleNamespace(state=lambda: state, factors=lambda: {"s": last})] if last else []
    return SimpleNamespace(past=past, kept={}, trainable={"s": Factor(a, b, 1.0)})


def test_sensitivities_by_hand():
    # |w g| = 2, then 4; with beta 0.5: M = 1, 2.5 and U = (2 - 1) / 2 = 0.5, 0.25 + (4 - 2.5) / 2 = 1
    run = run_of(parameter([[2.0]], [[-1.0]]), parameter([[0.0]], [[5.0]]))
    Tasl(beta=0.5).gradients(run)
    assert (run.kept["sensitivity_a/s"].item(), run.kept["uncertainty_a/s"].item()) == (1.0, 0.5)
    run.trainable["s"].a.grad.mul_(2)
    Tasl(beta=0.5).gradients(run)
    assert (run.kept["sensitivity_a/s"].item(), run.kept["uncertainty_a/s"].item()) == (2.5, 1.0)
    assert Tasl()._score(run, "s").item() == 2.5 / 2  # the mean over a row of lora_A and a column of lora_B


def test_the_averages_keep_the_share_beta_and_a_fall_counts_as_a_rise_does():
    # |w g| = 8, then 0; with beta 3/4: M = 2, 1.5 and U = (8 - 2) / 4 = 1.5, 3/4 * 1.5 + (1.5 - 0) / 4 = 1.5
    run = run_of(parameter([[2.0]], [[-4.0]]), parameter([[0.0]], [[5.0]]))
    method = Tasl(beta=0.75)
    method.gradients(run)
    assert (run.kept["sensitivity_a/s"].item(), run.kept["uncertainty_a/s"].item()) == (2.0, 1.5)
    run.trainable["s"].a.grad.zero_()
    method.gradients(run)
    assert (run.kept["sensitivity_a/s"].item(), run.kept["uncertainty_a/s"].item()) == (1.5, 1.5)


def test_what_becomes_of_a_unit_by_hand():
    scores, known = {"s": torch.tensor([0.9, 0.8, 0.1, 0.0])}, {"s": torch.tensor([0.7, 0.0, 0.9, 0.1])}
    assert torch.allclose(Tasl(share=0.5).weights(scores, known)["s"], torch.tensor([0.3, 1.0, 0.0, 0.5]))
    soft = Tasl(merging="soft").weights(scores, known)["s"]
    assert torch.allclose(soft[0], torch.exp(torch.tensor(0.9 / 0.25)) / (torch.tensor([0.9, 0.7]) / 0.25).exp().sum())


def test_a_rank_that_only_the_past_needs_is_as_it_was_on_both_sides():
    a, b = torch.zeros(2, 3), torch.zeros(4, 2)
    run = run_of(
        parameter(a.tolist(), a.tolist()), parameter(b.tolist(), b.tolist()), Factor(a + 1, b + 1, 1.0), [1.0, 0.0]
    )
    for name, value in (("sensitivity", [0.0, 1.0]), ("uncertainty", [0.0, 1.0])):
        run.kept |= {
            f"{name}_a/s": torch.tensor(value)[:, None].expand(2, 3),
            f"{name}_b/s": torch.tensor(value).expand(4, 2),
        }
    kept = Tasl(share=0.5).finish(run)
    assert run.trainable["s"].a.tolist() == [[1.0] * 3, [0.0] * 3]
    assert run.trainable["s"].b.tolist() == [[1.0, 0.0]] * 4
    assert torch.allclose(kept["importance/s"], torch.tensor([1.0, 0.0]))  # 0.7 and 0.3, brought to [0, 1]


def test_the_first_task_stays_and_equal_scores_are_none():
    run = run_of(parameter([[2.0]], [[0.0]]), parameter([[3.0]], [[0.0]]))
    assert Tasl().finish(run)["importance/s"].tolist() == [0.0]
    assert run.trainable["s"].a.tolist() == [[2.0]]
    assert scaled({"s": torch.tensor([1.0, 3.0]), "t": torch.tensor([2.0])})["t"].tolist() == [0.5]
