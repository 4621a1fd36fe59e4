"""Starts from earlier LoRAs' singular triplets, and training outside of their subspaces: by hand, against autograd, in trainings."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from support import train

from clora_cli.algebra.lora import Factor
from clora_cli.methods.lb_cl import LbCl, start, triplets
from clora_cli.testing.requirements import draw

OUT, IN, RANK = 5, 6, 2


def run_of(earlier, slopes=None, seed=9):
    """A run on one site, whose slopes are those of a given gradient of the whole delta, row by row."""
    own = Factor(torch.nn.Parameter(draw(RANK, IN, seed=seed).float()), torch.nn.Parameter(torch.zeros(OUT, RANK)), 2.0)
    past = [SimpleNamespace(factors=lambda one=one: {"s": one}) for one in earlier]
    run = SimpleNamespace(past=past, trainable={"s": own}, kept={}, step=0, batches=[[3, 1], [2, 3]])
    run.slopes = lambda rows: [
        (own.a, own.scaling * own.b.detach().mT @ slopes[rows[0]]),
        (own.b, own.scaling * slopes[rows[0]] @ own.a.detach().mT),
    ]
    return run


def earlier(seed, rank=RANK):
    return Factor(draw(rank, IN, seed=seed).float(), draw(OUT, rank, seed=seed + 1).float(), 0.5)


def test_triplets_and_start_by_hand():
    # delta_1 = 4 e1 e1^T, delta_2 = -(2 e1 e2^T): its triplet's sign is turned where it disagrees with the first one's
    first, second = torch.zeros(2, 2), torch.zeros(2, 2)
    first[0, 0], second[0, 1] = 4.0, -2.0
    known = [triplets(Factor(torch.eye(2), one, 1.0), 1) for one in (first, second)]
    assert [values.item() for _, values, _ in known] == pytest.approx([4.0, 2.0])
    found = start(known, torch.tensor([[3.0], [1.0]]))
    # u = 3/4 e1 + 1/4 e1, l = 3/4 * 4 + 1/4 * 2, v = 3/4 e1 - 1/4 e2
    assert torch.allclose(found.delta(), torch.tensor([[3.5 * 0.75, -3.5 * 0.25], [0.0, 0.0]]))


def test_sensitivities_are_those_of_autograd_mean_over_the_rows():
    slopes = {row: draw(OUT, IN, seed=20 + row).float() for row in (1, 2, 3)}
    one = earlier(1)
    run = run_of([one], slopes)
    u, values, v = (side.clone().requires_grad_(True) for side in triplets(one, RANK))
    expected = torch.zeros(RANK)
    for row in (3, 1):
        loss = (slopes[row] * (u @ torch.diag(values) @ v)).sum()
        of_u, of_values, of_v = (
            w * slope for w, slope in zip((u, values, v), torch.autograd.grad(loss, (u, values, v)), strict=True)
        )
        expected += (of_values.abs() + of_u.abs().mean(dim=0) + of_v.abs().mean(dim=1)).detach() / 2
    found = LbCl(seeds=2).sensitivities(run, {"s": triplets(one, RANK)})
    assert torch.allclose(found["s"], expected, rtol=1e-4)


def test_what_the_new_task_s_rows_feel_decides_and_not_the_size_of_a_singular_value():
    large, small = torch.zeros(OUT, IN), torch.zeros(OUT, IN)
    large[0, 0], small[1, 1] = 9.0, 1.0
    past = [Factor(torch.eye(IN)[:RANK], one[:, :RANK], 1.0) for one in (large, small)]
    felt = torch.zeros(OUT, IN)
    felt[1, 1] = 0.3  # the loss of every row depends on the small one alone
    run = run_of(past, dict.fromkeys((1, 2, 3), felt))
    LbCl().begin(run)
    assert torch.allclose(run.trainable["s"].delta().detach(), small, atol=1e-5)


def test_equal_deltas_give_equal_starts_whatever_their_factors():
    slopes = {row: draw(OUT, IN, seed=20 + row).float() for row in (1, 2, 3)}
    turn = draw(RANK, RANK, seed=5).float()
    one = earlier(3)
    alike = Factor(torch.linalg.inv(turn) @ one.a, one.b @ turn, one.scaling)
    found = []
    for second in (one, alike):
        run = run_of([earlier(1), second], slopes)
        LbCl().begin(run)
        found.append(run.trainable["s"].delta().detach())
    assert torch.allclose(*found, atol=1e-4)


@pytest.mark.parametrize("ranks", [(2, 2), (1, 2), (3, 2)])
def test_no_step_reaches_into_what_any_earlier_triplet_spans_overlapping_or_not(ranks):
    slopes = {row: draw(OUT, IN, seed=20 + row).float() for row in (1, 2, 3)}
    past = [earlier(1, ranks[0]), earlier(1, ranks[1])]
    run = run_of(past, slopes)
    LbCl().begin(run)
    own = run.trainable["s"]
    before = own.a.detach().clone(), own.b.detach().clone()
    with torch.no_grad():
        own.a.add_(draw(RANK, IN, seed=7).float())
        own.b.add_(draw(OUT, RANK, seed=8).float())
    LbCl().after_step(run)
    for one in past:
        u, values, v = triplets(one, RANK)
        held = values > 1e-6
        assert torch.allclose((own.a.detach() - before[0]) @ v[held].mT, torch.zeros(()), atol=1e-5)
        assert torch.allclose(u[:, held].mT @ (own.b.detach() - before[1]), torch.zeros(()), atol=1e-5)
    assert float((own.a.detach() - before[0]).norm()) > 0.1


def test_a_method_that_trains_one_factor_alone_is_refused_beside_it():
    run = run_of([earlier(1)])
    run.trainable["s"].a.requires_grad_(False)
    with refused("methods-disagree", "lb-cl"):
        LbCl().begin(run)


def test_a_layer_without_room_is_refused():
    with refused("no-room-for-rank", IN, "'s'"):
        LbCl().begin(run_of([earlier(seed) for seed in (1, 3, 5)], dict.fromkeys((1, 2, 3), torch.ones(OUT, IN))))


def test_a_training_starts_beside_the_sum_and_moves_outside_of_it(model_folder, tasks, tmp_path):
    first = train(model_folder("llama"), tasks["first"], tmp_path, method="lb-cl", max_steps=2, rank=2)
    second = train(model_folder("llama"), tasks["second"], tmp_path, method="lb-cl", max_steps=2, rank=2)
    for site, factor in second.factors().items():
        _, _, v = triplets(first.factors()[site], 2)
        # the start is a multiple of the one earlier triplets; what came since is orthogonal to both sides
        change = factor.a - (factor.a @ v.mT) @ v
        assert float(change.norm()) > 1e-4 and float(torch.linalg.norm(factor.delta() @ v.mT)) > 0
        assert torch.allclose(change @ v.mT, torch.zeros(()), atol=1e-5)


def test_a_larger_rank_and_a_layer_that_no_earlier_adapter_has_start_as_a_fresh_lora():
    # one earlier triplet at "s", none at "other": the second rank, and all of "other", would otherwise stay 0 for ever
    run = run_of([earlier(1, rank=1)], {row: draw(OUT, IN, seed=row).float() for row in (1, 2, 3)})
    fresh = run.trainable["s"].a.detach().clone()
    LbCl(seeds=1).begin(run)
    own = run.trainable["s"]
    assert torch.equal(own.a[1], fresh[1])
    assert not own.b[:, 1].any()
    assert own.b[:, 0].any()
    assert run.kept["basis_a/s"].shape == (IN, 1)

    run = run_of([earlier(1)], {row: draw(OUT, IN, seed=row).float() for row in (1, 2, 3)})
    run.past = [SimpleNamespace(factors=dict)]
    LbCl(seeds=1).begin(run)
    assert torch.equal(run.trainable["s"].a, fresh)
    assert run.kept["basis_b/s"].shape == (OUT, 0)


def test_what_rounding_leaves_beyond_a_delta_s_rank_is_no_triplet():
    a = draw(1, IN, seed=1).float()
    u, values, v = triplets(Factor(torch.cat([a, a, a]), draw(OUT, 3, seed=2).float(), 0.7), 3)
    assert [bool(one.any()) for one in (values[0], values[1:], u[:, 1:], v[1:])] == [True, False, False, False]
