from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from refusals import refused

from clora_cli.methods import Factors
from clora_cli.methods.aso_lora import AsoLora
from clora_cli.methods.o_lora import OLora

# One site, in = 3. New A of rank 1; earlier adapters of ranks 1 and 2. Overlaps 1, -4 and -1; psi 0.5 and 1.25.
GIVEN = Factors(
    torch.tensor([[[1.0, -2.0, 0.0]]]),
    torch.full((1, 2, 1), 7.0),
    9.0,
    torch.tensor([[[3.0, 1.0, 5.0], [0.0, 2.0, 1.0], [1.0, 1.0, 0.0]]]),
    torch.full((1, 2, 3), 7.0),
    past_owner=torch.tensor([0, 1, 1]),
    kept={"relations": torch.tensor([0.5, -0.25])},
)


def test_squared_by_hand():
    # 0.5^2 + 5^2 + 1.25^2; slopes 2 psi^2 overlap: 0.5, -12.5, -3.125
    penalty = AsoLora(strength=2).penalty(GIVEN)
    assert penalty.value.item() == 2 * 26.8125
    assert penalty.grad_a.tolist() == [[[-3.25, -55.25, -20.0]]]
    assert penalty.grad_b is None


def test_absolute_by_hand():
    # 0.5 + 5 + 1.25; slopes psi sign: 0.5, -1.25, -1.25
    penalty = AsoLora(strength=2, norm="absolute").penalty(GIVEN)
    assert penalty.value.item() == 2 * 6.75
    assert penalty.grad_a.tolist() == [[[0.5, -6.5, 2.5]]]


def test_clamped_by_hand():
    # psi 0.5 and 1: 0.5^2 + 4^2 + 1^2
    assert AsoLora(strength=2, negative="clamp").penalty(GIVEN).value.item() == 2 * 17.25


@pytest.mark.parametrize("norm", ["squared", "absolute"])
def test_before_relations_are_known_it_is_o_lora(norm):
    given = dataclasses.replace(GIVEN, kept={})
    own, other = AsoLora(strength=2, norm=norm).penalty(given), OLora(strength=2, norm=norm).penalty(given)
    assert (own.value, own.grad_a.tolist()) == (other.value, other.grad_a.tolist())


def test_an_adapter_of_the_same_knowledge_costs_nothing():
    penalty = AsoLora().penalty(dataclasses.replace(GIVEN, kept={"relations": torch.ones(2)}))
    assert penalty.value.item() == 0
    assert not penalty.grad_a.any()


@pytest.mark.parametrize(
    ("options", "steps", "expected"),
    [
        ({}, 100, [10]),
        ({}, 3, [1]),
        ({}, 1, [0]),
        ({"warmup": 0}, 100, [0]),
        ({"warmup": 0.99}, 10, [9]),
        ({"refresh": 3}, 100, [10, 40, 70]),
        ({"refresh": 5, "warmup": 0.5}, 4, [2, 3]),
    ],
)
def test_when_it_asks(options, steps, expected):
    method = AsoLora(**options)
    assert [step for step in range(steps) if method.due(step, steps)] == expected


class Recorded:
    """Answers with vectors that were written down: the new adapter's under None."""

    def __init__(self, vectors, states=()):
        self.vectors, self.asked, self.kept, self.overlaps = vectors, [], {}, True
        states = states or [{} for _ in vectors][1:]
        self.past = [SimpleNamespace(state=lambda state=state: state) for state in states]

    def attribution(self, adapter, **how):
        self.asked.append((adapter, how))
        return torch.tensor(self.vectors[adapter])


VECTORS = {None: [1.0, 2.0, 3.0, 4.0], 0: [2.0, 1.0, 4.0, 3.0], 1: [9.0, 8.0, 7.0, 6.0], 2: [5.0, 5.0, 5.0, 5.0]}


def test_relations_are_rank_correlations():
    run = Recorded(VECTORS)
    # Rank differences -1, 1, -1, 1: 1 - 6 * 4 / (4 * 15) = 0.6; then reversed; then constant.
    assert AsoLora(rows=7, layers="together").relate(run).tolist() == pytest.approx([0.6, -1.0, 0.0])
    assert [adapter for adapter, _ in run.asked] == [None, 0, 1, 2]
    how = {"steps": 20, "rows": 7, "together": True, "answer": "log-probability", "calls": 5}
    assert all(asked == how for _, asked in run.asked)


def test_calls_of_a_run_are_counted():
    method = AsoLora(refresh=2)
    run, alone = Recorded(VECTORS), Recorded({None: VECTORS[None]})
    method.relate(run)
    method.finish(alone)
    assert run.asked[0][1]["calls"] == 2 * 4 + 1
    assert alone.asked[0][1]["calls"] == 1


def test_stored_vectors_cost_nothing():
    states = [{"attribution": torch.tensor(VECTORS[number])} for number in range(3)]
    run = Recorded(VECTORS, states)
    assert AsoLora(vectors="stored").relate(run).tolist() == pytest.approx([0.6, -1.0, 0.0])
    assert [(adapter, how["calls"]) for adapter, how in run.asked] == [(None, 2)]


@pytest.mark.parametrize("state", [{}, {"attribution": torch.ones(3)}])
def test_stored_vectors_that_are_not_there_are_told(state):
    with refused("method-state-missing", "earlier adapter 1", "vectors=current"):
        AsoLora(vectors="stored").relate(Recorded(VECTORS, [state] * 3))


def test_the_own_vector_is_kept():
    kept = AsoLora().finish(Recorded(VECTORS))
    assert {name: vector.tolist() for name, vector in kept.items()} == {"attribution": VECTORS[None]}


@pytest.mark.parametrize("name", ["steps", "rows", "refresh"])
def test_counts_start_at_one(name):
    with refused("option-out-of-range", f"{name}=0", "aso-lora", "[1, inf)"):
        AsoLora(**{name: 0})


def test_blocks_that_were_not_chosen_are_free():
    given = dataclasses.replace(
        GIVEN,
        a=GIVEN.a.repeat(2, 1, 1),
        past_a=GIVEN.past_a.repeat(2, 1, 1),
        sites=("model.layers.0.self_attn.q_proj", "model.layers.11.self_attn.q_proj"),
    )
    whole, one = AsoLora(strength=2).penalty(given), AsoLora(strength=2, blocks="1,11").penalty(given)
    assert (whole.value.item(), one.value.item()) == (2 * 2 * 26.8125, 2 * 26.8125)
    assert one.grad_a.tolist() == [[[0.0, 0.0, 0.0]], [[-3.25, -55.25, -20.0]]]
    absolute = AsoLora(strength=2, blocks="0", norm="absolute").penalty(given)
    assert absolute.grad_a[1].abs().sum() == 0 and absolute.value.item() == 2 * 6.75


def test_blocks_that_there_are_not_are_refused():
    run = SimpleNamespace(trainable={"model.layers.3.self_attn.q_proj": None})
    AsoLora(blocks="3").begin(run)
    with refused("option-choice-unknown", "blocks=3,4", "block 4"):
        AsoLora(blocks="3,4").begin(run)
    with refused("option-choice-unknown", "blocks=9"):
        AsoLora(blocks="9" * 5000)
    with refused("option-choice-unknown", "blocks=last"):
        AsoLora(blocks="last")
