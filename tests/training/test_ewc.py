"""What the last adapter kept comes back in the penalty: elastic weight consolidation over whole runs."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from support import write_random_adapter

from clora_cli.model.bank import AdapterBank
from clora_cli.training import train_task
from clora_cli.training.build import build
from clora_cli.training.penalties import Penalties, recall


@pytest.fixture
def learn(plan_for):
    """Train a task and return its folder."""

    def run(task, package="adapters", method="ewc", **chosen):
        return train_task(plan_for(task, package=package, method=method, **chosen))[0]

    return run


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_penalty_sees_each_site_s_own_fisher_information(learn, plan_for, family):
    last = learn("first", family=family)
    plan = plan_for("second", family=family, method="ewc", method_options={"strength": "8"})
    built = build(plan)
    recalled = recall(plan.method.recalling["ewc"], last)
    penalties = Penalties(plan.method.at("penalty"), built.trainable, built.bank, recalled)
    state, expected = last.state(), 0.0
    with torch.no_grad():
        for number, (site, factor) in enumerate(built.trainable.items(), start=1):
            factor.a.add_(0.1 * number)
            factor.b.sub_(0.2 * number)
            expected += 4 * (0.1 * number) ** 2 * float(state[f"fisher_a/{site}"].sum())
            expected += 4 * (0.2 * number) ** 2 * float(state[f"fisher_b/{site}"].sum())
    penalties.add("ewc", {})
    penalties.end_step()
    assert penalties.take() == {"ewc": pytest.approx(expected, rel=1e-4)}
    for number, (site, factor) in enumerate(built.trainable.items(), start=1):
        assert torch.allclose(factor.a.grad, 8 * 0.1 * number * state[f"fisher_a/{site}"], rtol=1e-3, atol=1e-6)


def test_a_strength_of_0_is_seq_lora_to_the_last_bit(learn):
    digests = set()
    for method, options in (("seq-lora", {}), ("ewc", {"strength": "0"})):
        learn("first", method)
        digests.add(learn("second", method, method, method_options=options, dropout=0.2, grad_accum=2).digest)
    assert len(digests) == 1


def test_a_great_strength_keeps_the_old_function(learn, backbone):
    moved = {}
    for method, options in (("seq-lora", {}), ("ewc", {"strength": "1e9"})):
        old = learn("first", method, max_steps=20)
        new = learn("second", method, method, method_options=options, max_steps=40, lr=1e-3)
        tokens, answers = torch.tensor([[5, 6, 7, 30, 31, 32]]), []
        for adapter in (old, new):
            base = backbone("llama")
            AdapterBank(base.model).activate([adapter.factors()])
            with torch.no_grad():
                answers.append(base.model(input_ids=tokens).logits)
        moved[method] = float((answers[1] - answers[0]).norm())
    assert moved["ewc"] < 0.2 * moved["seq-lora"]


def test_what_the_second_task_keeps_holds_the_first_one_s(learn):
    first, second = learn("first"), learn("second", method_options={"rows": "4"})
    learn("first", "other")
    fresh = learn("second", "other", method_options={"rows": "4", "decay": "0"})
    for name, kept in second.state().items():
        assert bool((kept >= 0).all()) and bool(kept.any())
        assert torch.allclose(kept, first.state()[name] + fresh.state()[name], rtol=1e-5)
    assert first.state().keys() == second.state().keys()


def test_an_adapter_that_kept_nothing_is_refused_before_training(plan_for, backbone, tmp_path):
    write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1)
    with refused("method-state-missing", tmp_path / "adapters" / "second", "fisher_a", "fisher_b", "--method ewc"):
        plan_for(method="ewc")


def test_the_first_task_says_that_there_is_no_earlier_one(plan_for):
    from support import Signals

    listener = Signals()
    train_task(plan_for(method="ewc"), progress=listener)
    assert listener.warnings == ["ewc: its penalty is inactive in this run: there is no earlier adapter"]
