"""Adapters that are weighed by what each learned: the weights by hand, and what training must keep."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from support import train
from torch.nn import functional

from clora_cli.base import registry
from clora_cli.base.errors import MismatchError
from clora_cli.methods._gates import Gated
from clora_cli.methods._input_bases import InputBases
from clora_cli.methods.gain_lora import GainLora
from clora_cli.methods.inf_lora import InfLora
from clora_cli.methods.mocl import Mocl
from clora_cli.methods.moe_lora import MoeLora
from clora_cli.methods.sapt import Sapt
from clora_cli.testing.requirements import draw


def gate_of(method, run, queries):
    return dict(registry.load("methods", method)().gate(run, queries))


def run_of(past=(), seed=0):
    return SimpleNamespace(past=[SimpleNamespace(state=lambda s=s: s) for s in past], seed=seed, kept={}, own={})


def test_mocl_by_hand():
    states, queries = [{"key": torch.tensor(key)} for key in ([2.0, 0.0], [0.0, -3.0])], torch.tensor([[0.6, 0.8]])
    assert torch.allclose(Mocl().weigh(states, queries), torch.tensor([[0.6, 0.0]]))  # -0.8 counts as 0
    found = Mocl(weights="softmax", scale=2).weigh(states, queries)
    assert torch.allclose(found, torch.tensor([[1 / (1 + math.exp(-2.8)), 1 / (1 + math.exp(2.8))]]))


def test_mocl_s_matching_loss_is_a_mean_over_the_rows_of_a_step():
    queries = functional.normalize(draw(6, 4).float(), dim=1)
    run = SimpleNamespace(
        embeddings=lambda: queries, own={"key": draw(4, seed=1).float()}, batches=[[], [0, 1, 2, 3, 4, 5]], step=1
    )
    parts = [
        Mocl(matching=3.0).loss(run, SimpleNamespace(rows=torch.tensor(rows), logits=queries))
        for rows in ([0, 4], [1, 2, 3, 5])
    ]
    expected = 3 * (1 - queries @ functional.normalize(run.own["key"], dim=0)).mean()
    assert torch.allclose(torch.stack(parts).sum(), expected)


def test_sapt_by_hand():
    # LN((3, 1)) = (1, -1); down gives 1, SiLU(1) = s; up gives (s, 0), and LN of it (1, -1)
    states = [{"key": torch.tensor([9.0, 9.0])}, {"key": torch.tensor([1.0, -1.0])}]
    states[-1] |= {"down": torch.tensor([[1.0, 0.0]]), "up": torch.tensor([[1.0], [0.0]])}
    found = Sapt().weigh(states, torch.tensor([[3.0, 1.0]]))
    assert torch.allclose(found, torch.softmax(torch.tensor([[0.0, 2 / math.sqrt(2)]]), dim=1), atol=1e-3)


def test_sapt_s_memory_by_hand():
    # before (1/2, 1/2, 0); two rows at (1/2, 1/4, 1/4) and (1/4, 1/2, 1/4): each is ln 2 / 2 away
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], requires_grad=True)
    found = Sapt().divergence(weights, torch.tensor([0.5, 0.5, 0.0]))
    assert found.item() == pytest.approx(math.log(2) / 2)
    found.backward()
    assert weights.grad[:, 2].tolist() == [0.0, 0.0]  # what later adapters get changes nothing but what is left
    assert Sapt().divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0])).item() == 0


def test_sapt_s_memory_holds_each_task_by_its_own_rows_and_adds_up_over_micro_batches():
    keys = draw(2, 4).float()
    own = {"key": draw(4, seed=1).float(), "down": draw(3, 4, seed=2).float(), "up": draw(4, 3, seed=3).float()}
    before = torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.7, 0.0]])
    queries = functional.normalize(draw(5, 4, seed=4).float(), dim=1)
    tasks = ["new", "new", "one", "one", "two", "two", "other"]
    run = SimpleNamespace(
        past=[SimpleNamespace(task="one"), SimpleNamespace(task="two")],
        own=own,
        memory=range(2, 7),
        texts=[SimpleNamespace(task=task) for task in tasks],
        kept={"keys": keys, "attention": before, "remembered": queries},
    )

    def term(answers):
        return Sapt(strength=2.0).loss(run, SimpleNamespace(logits=queries, answers=range(answers), tokens=10))

    weights = Sapt().weigh([{"key": keys[0]}, {"key": keys[1]}, own], queries)
    expected = 2 * (Sapt().divergence(weights[:2], before[0]) + Sapt().divergence(weights[2:4], before[1]))
    assert torch.allclose(term(4) + term(6), expected)
    run.memory = range(2, 2)
    assert term(4) is None


def test_sapt_s_memory_needs_what_earlier_adapters_keep_with_one(model_folder, tasks, tmp_path):
    with_rows = {"method": "sapt", "max_steps": 2, "method_options": {"rows": "4"}}
    for package, method in (("held", with_rows), ("free", {"method": "sapt", "max_steps": 2})):
        first = train(model_folder("llama"), tasks["first"], tmp_path / package, **method)
        assert ("attention" in first.state()) == (package == "held")
    assert first.manifest.method.options == {"sapt": {"width": 100}}
    second = train(model_folder("llama"), tasks["second"], tmp_path / "held", **with_rows)
    assert second.state()["attention"].shape == (2,) and "penalty/sapt" in second.manifest.scores["last_step"]
    with refused("method-state-missing", "attention", tmp_path / "free"):
        train(model_folder("llama"), tasks["second"], tmp_path / "free", **with_rows)


def test_sapt_s_map_goes_on_from_the_last_one_and_its_key_is_new():
    last = gate_of("sapt", run_of(), torch.ones(3, 4))
    new = gate_of("sapt", run_of([last], seed=1), torch.ones(3, 4))
    assert torch.equal(new["down"], last["down"]) and torch.equal(new["up"], last["up"])
    assert not torch.equal(new["key"], last["key"])


def test_moe_lora_by_hand():
    # q at norm 1 in 4 dimensions is doubled: scores 2 * 0.6 * 1 and 2 * 0.8 * -1
    states = [{}, {"router": torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]])}]
    found = MoeLora().weigh(states, torch.tensor([[0.6, 0.8, 0.0, 0.0]]))
    assert torch.allclose(found, torch.softmax(torch.tensor([[1.2, -1.6]]), dim=1))


def test_moe_lora_has_an_expert_for_each_task_however_many_there_will_be():
    state, queries = {}, functional.normalize(draw(3, 8).float(), dim=1)
    shares = []
    for count in range(1, 6):
        state = gate_of("moe-lora", run_of([state] * (count - 1), seed=count), queries)
        weights = MoeLora().weigh([state] * count, queries)
        assert state["router"].shape == (count, 8) and torch.allclose(weights.sum(dim=1), torch.ones(3))
        if shares:  # a new expert takes from all earlier ones alike, at the start
            assert torch.allclose(weights[:, :-1] / weights[:, :-1].sum(dim=1, keepdim=True), shares[-1], atol=1e-6)
        shares.append(weights)


def test_moe_lora_misses_an_expert_that_is_not_there():
    with refused("mixing-weights-missing", 3, 2, "--combine"):
        MoeLora().weigh([{}, {"router": torch.ones(3, 4)}], torch.ones(1, 4))


def test_gain_lora_by_hand():
    # g = SiLU(SiLU(1)), along the key: c = 1 and a = 2 sigmoid(4) - 1; where U q = 0 the gate is shut
    state = {"first": torch.tensor([[1.0, 0.0]]), "second": torch.tensor([[1.0]]), "key": torch.tensor([5.0])}
    found = GainLora().weigh([state], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert torch.allclose(found, torch.tensor([[2 / (1 + math.exp(-4)) - 1], [0.0]]))


def test_gain_lora_s_new_gate_is_shut_for_earlier_inputs_and_stays_so_whatever_a_step_does():
    method, old = GainLora(width=12), functional.normalize(draw(5, 8).float(), dim=1)
    first = run_of()
    gate = dict(method.gate(first, old))
    inputs = [old, functional.silu(old @ gate["first"].mT)]
    inputs.append(functional.silu(inputs[1] @ gate["second"].mT))
    bases = {f"of_{name}": torch.linalg.qr(vectors.mT)[0] for name, vectors in zip(gate, inputs, strict=True)}
    new = functional.normalize(draw(6, 8, seed=3).float(), dim=1)
    run = run_of([gate | bases])
    run.own = {name: torch.nn.Parameter(start.clone()) for name, start in method.gate(run, new).items()}
    assert (
        float(method.weigh([run.own], old).detach().max()) < 1e-5 < float(method.weigh([run.own], new).detach().min())
    )
    with torch.no_grad():
        for number, own in enumerate(run.own.values()):
            own.add_(draw(*own.shape, seed=number).float())
    assert float(method.weigh([run.own], old).detach().max()) > 1e-2
    method.after_step(run)
    assert float(method.weigh([run.own], old).detach().max()) < 1e-5


def test_a_gate_without_room_is_refused():
    gate = gate_of("gain-lora", run_of(), torch.ones(1, 4))
    full = {f"of_{name}": torch.eye(100) for name in gate}
    with refused("no-room-for-gate", 100, "-o energy="):
        GainLora().gate(run_of([gate | full]), torch.ones(1, 4))


def test_the_share_of_the_energy_knows_no_number_of_tasks_but_the_one_given():
    for method in (GainLora, InfLora):
        assert [method(energy=0.9).share(stage) for stage in (1, 15, 16, 40)] == [0.9] * 4
        found = [method(energy=0.9, tasks=4).share(stage) for stage in (1, 2, 4, 5)]
        assert found == pytest.approx([0.925, 0.95, 1.0, 1.0])


@pytest.mark.parametrize("method", ["mocl", "sapt", "gain-lora"])
def test_an_input_s_weights_do_not_depend_on_the_others_of_its_batch(method):
    queries = functional.normalize(draw(4, 6).float(), dim=1)
    states = [gate_of(method, run_of(seed=seed), queries) for seed in (1, 2, 3)]
    weigh = registry.load("methods", method)().weigh
    alone = torch.cat([weigh(states, query[None]) for query in queries])
    assert torch.allclose(weigh(states, queries), alone, atol=1e-6)
    assert alone.shape == (4, 3) and float(alone.min()) >= 0


@pytest.mark.parametrize("method", ["mocl", "sapt", "gain-lora"])
def test_a_package_of_other_methods_has_no_gates_to_go_on_from(tmp_path, model_folder, tasks, method):
    first = train(model_folder("llama"), tasks["first"], tmp_path / "package", method="inc-lora", max_steps=1)
    with refused("method-state-missing", first.path, error=MismatchError):
        train(model_folder("llama"), tasks["second"], tmp_path / "package", method=method, max_steps=1)


def test_sapt_keeps_the_mean_weights_of_its_inputs():
    queries = functional.normalize(draw(5, 4).float(), dim=1)
    states = [gate_of("sapt", run_of(seed=seed), queries) for seed in (1, 2)]
    run = run_of(states[:1])
    run.own, run.embeddings = states[1], lambda: queries
    kept = Sapt(rows=3).finish(run)["attention"]
    assert torch.allclose(kept, Sapt().weigh(states, queries).mean(dim=0)) and kept.sum().item() == pytest.approx(1)
    assert not torch.allclose(kept, torch.full((2,), 0.5), atol=1e-3)


@pytest.mark.parametrize("method", ["mocl", "sapt", "gain-lora"])
def test_rows_are_weighed_in_training_by_the_keys_of_all_adapters_those_of_a_memory_too(method):
    queries = functional.normalize(draw(5, 6).float(), dim=1)
    states = [dict(gate_of(method, run_of(seed=seed), queries[:3])) for seed in (1, 2)]
    run, given = run_of(states, seed=3), []
    run.embeddings, run.memory = lambda: queries[:3], range(3, 5)
    run.embedded = lambda rows: queries[list(rows)]
    run.parameter = run.own.setdefault
    run.mix = given.append
    plugin = registry.load("methods", method)()
    if method == "gain-lora":
        for state in states:
            state |= {
                f"of_{name}": torch.zeros(size, 0) for name, size in (("first", 6), ("second", 100), ("key", 100))
            }
    Gated.begin(plugin, run)
    rows = torch.tensor([4, 0, 3])
    found = given[0](rows, {})[""]
    assert torch.allclose(found, plugin.weigh([*states, run.own], queries[rows]), atol=1e-6)


def test_gain_lora_s_new_key_is_as_long_as_the_last_one_and_a_gate_that_did_not_move_stays():
    method, old = GainLora(width=12), functional.normalize(draw(3, 8).float(), dim=1)
    first = run_of()
    first.own = {name: 3 * start for name, start in method.gate(first, old).items()}
    inputs = [old, functional.silu(old @ first.own["first"].mT)]
    inputs.append(functional.silu(inputs[1] @ first.own["second"].mT))
    bases = {f"of_{name}": torch.linalg.qr(rows.mT)[0] for name, rows in zip(first.own, inputs, strict=True)}
    run = run_of([first.own | bases])
    run.own = {name: start.clone() for name, start in method.gate(run, draw(6, 8, seed=3).float()).items()}
    before = {name: own.clone() for name, own in run.own.items()}
    assert before["key"].norm().item() == pytest.approx(first.own["key"].norm().item(), rel=1e-5)
    method.after_step(run)
    assert all(torch.equal(own, before[name]) for name, own in run.own.items())


def test_gain_lora_s_bases_hold_what_earlier_tasks_inputs_were_too(monkeypatch):
    monkeypatch.setattr(InputBases, "finish", lambda method, run: {})
    method, kept, run = GainLora(width=5), {}, run_of()
    for seed in (1, 2):
        queries = functional.normalize(draw(2, 8, seed=seed).float(), dim=1)
        run = run_of([kept] if kept else (), seed=seed)
        run.own, run.embeddings = dict(method.gate(run, queries)), lambda queries=queries: queries
        before, kept = kept, method.finish(run) | run.own
        for name in ("first", "second", "key") if before else ():
            old, new = before[f"of_{name}"], kept[f"of_{name}"]
            assert new.shape[1] > old.shape[1] and torch.allclose(new @ (new.mT @ old), old, atol=1e-4)
