from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from clora_cli.methods.epi import Epi
from clora_cli.testing.requirements import draw


def state_of(queries, answers, **options):
    run = SimpleNamespace(embeddings=lambda: torch.tensor(queries), answers=answers)
    return dict(Epi(**options).finish(run))


def test_means_and_covariance_by_hand():
    # class a at (1, 0) and (3, 0), class b at (0, 5) twice: means (2, 0) and (0, 5); deviations of -1 and 1 along the first axis
    found = state_of([[1.0, 0.0], [0.0, 5.0], [3.0, 0.0], [0.0, 5.0]], ["a", "b", "a", "b"])
    assert found["means"].tolist() == [[2.0, 0.0], [0.0, 5.0]]
    assert found["covariance"].tolist() == [[0.5, 0.0], [0.0, 0.0]]
    whole = state_of([[1.0, 0.0], [0.0, 5.0], [3.0, 0.0], [0.0, 5.0]], ["a", "b", "a", "b"], means="task")
    assert whole["means"].tolist() == [[1.0, 2.5]]


def test_answers_that_are_nearly_all_distinct_are_no_classes():
    assert state_of([[1.0, 0.0], [3.0, 0.0], [0.0, 3.0]], ["a", "b", "b"])["means"].shape == (1, 2)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_the_nearest_class_decides_under_the_shared_covariance(covariance):
    # The first axis varies widely, the second hardly: (4, 0.9) is nearer to (0, 1) than to (4, 0), and to a class of task 2.
    states = [
        {"means": torch.tensor([[4.0, 0.0], [-4.0, 0.0]]), "covariance": torch.tensor([[18.0, 0.0], [0.0, 0.02]])},
        {"means": torch.tensor([[0.0, 1.0]]), "covariance": torch.tensor([[14.0, 0.0], [0.0, 0.02]])},
    ]
    if covariance == "diag":
        states = [{**state, "covariance": state["covariance"].diagonal()} for state in states]
    found = Epi(covariance=covariance, shrinkage=1e-6).weigh(states, torch.tensor([[4.0, 0.9], [-3.0, 0.1]]))
    assert found.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_few_rows_still_give_a_choice():
    states = [state_of((draw(3, 8, seed=seed).float() + 9 * seed).tolist(), ["a"] * 3) for seed in (0, 1)]
    assert Epi().weigh(states, torch.stack([state["means"][0] for state in states])).tolist() == [
        [1.0, 0.0],
        [0.0, 1.0],
    ]


def test_adapters_with_a_whole_covariance_and_with_its_diagonal_go_together():
    queries = [(draw(6, 4, seed=seed).float() + 9 * seed).tolist() for seed in (0, 1)]
    mixed = [state_of(rows, ["a"] * 6, covariance=form) for rows, form in zip(queries, ("full", "diag"), strict=True)]
    plain = [state_of(rows, ["a"] * 6, covariance="diag") for rows in queries]
    asked = torch.tensor([*queries[0], *queries[1]])
    assert torch.equal(Epi().weigh(mixed, asked), Epi(covariance="diag").weigh(plain, asked))


def test_the_covariance_is_the_mean_of_all_tasks():
    # of (18, 0.02) and (0.02, 18) both axes count alike, of either alone one of them
    means = ([[0.0, 0.0]], [[3.0, 4.0]])
    spreads = (torch.diag(torch.tensor([18.0, 0.02])), torch.diag(torch.tensor([0.02, 18.0])))
    states = [{"means": torch.tensor(mean), "covariance": spread} for mean, spread in zip(means, spreads, strict=True)]
    asked = torch.tensor([[3.0, 0.0], [0.0, 4.0]])  # 3 and 4 from the first, 4 and 3 from the second
    assert Epi(shrinkage=1e-6).weigh(states, asked).tolist() == [[1.0, 0.0], [0.0, 1.0]]
