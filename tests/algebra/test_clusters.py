from __future__ import annotations

import pytest
import torch

from clora_cli.algebra.clusters import classes, clusters


def clouds(*centres, rows=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.tensor(centre) + 0.1 * torch.randn(rows, 2, generator=generator) for centre in centres])


def test_classes_are_numbered_by_their_answers():
    assert classes(["no", "yes", "no", "no"]).tolist() == [0, 1, 0, 0]


def test_answers_that_are_nearly_all_distinct_are_one_class():
    assert classes(["a", "b", "b"]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_clouds_far_apart_are_clusters_of_their_own(seed):
    found = clusters(clouds([0.0, 0.0], [9.0, 0.0], [0.0, 9.0]), 3, seed)
    parts = [set(part.tolist()) for part in found.split(20)]
    assert [len(part) for part in parts] == [1, 1, 1] and set.union(*parts) == {0, 1, 2}


def test_each_vector_is_nearest_to_the_mean_of_its_own_cluster():
    vectors = torch.randn(60, 3, generator=torch.Generator().manual_seed(2))
    found = clusters(vectors, 4, seed=0)
    means = torch.stack([vectors[found == number].mean(dim=0) for number in range(4)])
    assert torch.equal(torch.cdist(vectors, means).argmin(dim=1), found)


def test_a_cluster_too_small_is_given_up_to_the_nearest_other():
    vectors = torch.cat([clouds([0.0, 0.0], [9.0, 0.0]), torch.tensor([[9.0, 40.0]])])
    assert clusters(vectors, 3, seed=1).bincount().min() == 1
    found = clusters(vectors, 3, seed=1, least=5)
    assert found.unique().tolist() == [0, 1] and found[-1] == found[-2] != found[0]


def test_there_are_no_more_clusters_than_distinct_vectors():
    assert clusters(torch.ones(5, 2), 3, seed=0).tolist() == [0] * 5
    assert clusters(torch.zeros(1, 2), 3, seed=0, least=9).tolist() == [0]


def test_the_seed_decides_and_nothing_else():
    vectors = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(clusters(vectors, 5, seed=7), clusters(vectors, 5, seed=7))
