"""Published methods in whole runs: what each promises, measured on what was trained."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from support import Signals, contents, continued, options_for, save_model, write_task

from clora_cli.algebra.lora import Factor
from clora_cli.methods._input_bases import grown, leading, residual
from clora_cli.methods.sd_lora import _norm, _weights
from clora_cli.model.bank import AdapterBank
from clora_cli.routing.fixed_weights import fixed_weights
from clora_cli.training import make_plan, train_task

PROMPTS = ("prog-prompt", "l2p", "dual-prompt")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    tasks = [write_task(root / name, seed) for seed, name in enumerate(("first", "second", "third"))]
    return save_model("llama", root / "model"), dict(zip(("first", "second", "third"), tasks, strict=True))


@pytest.fixture
def learn(inputs, tmp_path):
    """Train a task with a method."""
    model, tasks = inputs

    def train(method, task, package="adapters", **chosen):
        options = options_for(model, tasks[task], tmp_path / package, method=method, **chosen)
        return train_task(make_plan(options))[0]

    return train


def test_inf_lora_s_directions_by_hand():
    # Inputs along e1 (energy 16), e2 (4) and e3 (1), of which e1 is the past's.
    moment, basis = torch.diag(torch.tensor([4.0, 2.0, 1.0]).double()), torch.eye(3).double()[:, :1]
    assert residual(moment, basis).diagonal().tolist() == [0, 2, 1]
    assert torch.allclose(leading(residual(moment, basis), basis, 1, 0), torch.eye(3).double()[:, 1:2])
    # 16 of 21 are held; with e2 it is 20.
    assert grown(moment, basis, 0.76).shape == (3, 1)
    assert torch.allclose(grown(moment, basis, 0.9)[:, 1:].abs(), torch.eye(3).double()[:, 1:2])
    assert grown(moment, basis, 1.0).shape == (3, 3)


def test_inf_lora_fills_up_with_directions_that_nobody_used():
    moment, basis = torch.diag(torch.tensor([4.0, 0, 0, 0]).double()), torch.eye(4).double()[:, :1]
    found = leading(residual(moment, basis), basis, 2, 7)
    assert torch.allclose(found.mT @ found, torch.eye(2).double()) and float((basis.mT @ found).abs().max()) < 1e-12


def test_inf_lora_does_nothing_to_inputs_of_earlier_tasks(learn):
    first, second, third = (learn("inf-lora", task, lr=0.05) for task in ("first", "second", "third"))
    for before, after in ((first, second), (second, third)):
        bases = {key.partition("/")[2]: kept for key, kept in before.state().items()}
        for site, factor in after.factors().items():
            seen = bases[site] @ torch.randn(bases[site].shape[1], 20, generator=torch.Generator().manual_seed(0))
            assert float(factor.b.abs().max()) > 0
            assert float((factor.delta() @ seen).abs().max()) < 1e-5
            assert float((factor.delta() @ torch.randn(factor.shape[1], 20)).abs().max()) > 1e-3
            assert torch.allclose(factor.a.norm(dim=1), torch.full((2,), 3**-0.5), atol=1e-5)
    assert all(kept.shape[1] >= first.state()[key].shape[1] for key, kept in third.state().items())


def test_inf_lora_without_room_is_refused(learn):
    learn("inf-lora", "first", method_options={"energy": "1"})
    with refused("no-room-for-rank", 30, "--rank"):
        learn("inf-lora", "second", rank=30)


def test_sd_lora_s_weights_by_hand():
    norms, before = torch.tensor([[4.0, 0.5]]), torch.tensor([[1.0, 0.7]])
    assert torch.equal(_weights(norms * before, norms, before), torch.tensor([[1.0, 0.7, 1.0]]))
    # A magnitude of 6 of a delta of norm 4 is a weight of 1.5.
    assert torch.allclose(_weights(torch.tensor([[6.0, 0.1]]), norms, before), torch.tensor([[1.5, 0.2, 1.0]]))


def test_sd_lora_measures_a_delta_and_not_its_factors():
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(*shape, generator=generator) for shape in ((2, 5), (4, 2)))
    mix = torch.tensor([[3.0, 1.0], [0.0, 0.2]])
    one, other = Factor(a, b, 3.0), Factor(torch.linalg.inv(mix) @ a, b @ mix, 3.0)
    assert torch.allclose(one.delta(), other.delta(), atol=1e-4)
    assert _norm(one) == pytest.approx(float(one.delta().norm())) == pytest.approx(_norm(other), rel=1e-4)
    products = [float(factor.a.norm() * factor.b.norm()) for factor in (one, other)]
    assert abs(products[0] - products[1]) > 1  # by which the published code divides


def logits_of(model_folder, adapters, weights):
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    base = load_backbone(find_model(str(model_folder)), device=torch.device("cpu"))
    bank = AdapterBank(base.model)
    bank.activate([adapter.factors() for adapter in adapters])
    bank.gate({site: weights[site] for site in bank.sites})
    with torch.no_grad():
        return base.model(input_ids=torch.tensor([[5, 6, 7, 30, 31, 32]])).logits


def test_sd_lora_begins_where_the_last_task_ended(learn, inputs):
    first, second = (learn("sd-lora", task, lr=0.05) for task in ("first", "second"))
    weights = fixed_weights([first, second])
    assert all(0 < abs(float(row[0, 0]) - 1) < 0.5 and float(row[0, 1]) == 1 for row in weights.values())
    expected = logits_of(inputs[0], [first, second], weights)
    third = learn("sd-lora", "third", lr=1e-12, max_steps=1)
    assert third.manifest.scores["beside_the_lora"] == {"trained": 2 * len(third.factors())}
    later = fixed_weights([first, second, third])
    assert all(torch.equal(later[site][:, :2], row) for site, row in weights.items())
    assert torch.allclose(logits_of(inputs[0], [first, second, third], later), expected, atol=1e-6)


def test_sd_lora_is_evaluated_with_its_magnitudes(learn, inputs):
    from clora_cli.data import load_task
    from clora_cli.evaluation import evaluate
    from clora_cli.evaluation.combine import Fixed
    from clora_cli.evaluation.prompts import Prompts
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model
    from clora_cli.options import EvalOptions

    members = [learn("sd-lora", task, lr=0.05) for task in ("first", "second")]
    task = load_task(str(inputs[1]["first"]))
    scores = evaluate(members, [task], EvalOptions(score="labels", device="cpu", matrix=True))
    assert scores.combine == "weighted" and len(scores.rows) == 3
    base = load_backbone(find_model(str(inputs[0])), device=torch.device("cpu"))
    bank = AdapterBank(base.model)
    Fixed(bank, members, "weighted").use(members, Prompts.encode(base, task, task.test[:1], 64, 1))
    with torch.no_grad():
        found = base.model(input_ids=torch.tensor([[5, 6, 7, 30, 31, 32]])).logits
    weights = fixed_weights(members)
    plain, last = ({site: torch.tensor([row]) for site in weights} for row in ([1.0, 1.0], [0.0, 1.0]))
    assert torch.allclose(found, logits_of(inputs[0], members, weights), atol=1e-6)
    for other in (plain, last):
        assert not torch.allclose(found, logits_of(inputs[0], members, other), atol=1e-5)
    first = learn("sd-lora", "first", package="other")
    with refused("mixing-weights-missing", members[1].path, first.path):
        fixed_weights([first, members[1]])


def test_osf_lora_leaves_what_the_model_does_in_its_largest_directions(learn, inputs):
    from clora_cli.model.base_layers import BaseLayers
    from clora_cli.model.base_model import find_model

    first, second = (
        learn("osf-lora", task, lr=0.05, method_options={"directions": "8"}) for task in ("first", "second")
    )
    layers = BaseLayers(find_model(str(inputs[0])))
    for site, factor in second.factors().items():
        weight = layers.weight(site, factor.shape).float() + first.factors()[site].delta()
        left, _, right = torch.linalg.svd(weight)
        delta = factor.delta()
        assert float(delta.norm()) > 1e-2
        assert float((left[:, :8].mT @ delta).norm()) < 1e-4 * float(delta.norm())
        assert float((delta @ right[:8].mT).norm()) < 1e-4 * float(delta.norm())


@pytest.mark.parametrize("method", ["mocl", "sapt", "gain-lora", "epi"])
def test_gates_choose_at_evaluation_as_they_did_in_training(learn, inputs, method):
    from clora_cli.data import load_task
    from clora_cli.evaluation import evaluate
    from clora_cli.options import EvalOptions

    members = [learn(method, task, lr=0.05) for task in ("first", "second")]
    tasks = [load_task(str(inputs[1][name])) for name in ("first", "second")]
    scores = evaluate(members, tasks, EvalOptions(score="labels", device="cpu", matrix=True))
    assert scores.combine == "learned" and len(scores.rows) == 3
    assert all(float(f.b.abs().max()) > 0 for member in members for f in member.factors().values())
    first, second = (member.state() for member in members)
    kept = "means" if method == "epi" else "key"
    assert not torch.equal(first[kept], second[kept])


@pytest.mark.parametrize("method", ["gem", "inc-lora+gem", "a-gem"])
def test_remembered_rows_are_read_and_not_trained_on(learn, inputs, tmp_path, method):
    rows = {"method_options": {"gem.rows" if "+" in method else "rows": "3"}}
    learn(method, "first")
    learn(method, "second", **rows)
    plan = make_plan(options_for(inputs[0], inputs[1]["third"], tmp_path / "adapters", method=method, **rows))
    assert plan.remembered == 0 and set(plan.order) <= set(range(len(plan.rows)))
    third = train_task(plan)[0]
    assert [entry["rows"] for entry in third.manifest.raw["data"]["memory"]] == [3, 3]


@pytest.mark.parametrize(
    "method",
    [
        "inf-lora",
        "sd-lora",
        "slao",
        "osf-lora",
        "a-gem",
        "gem",
        "mocl",
        "sapt",
        "gain-lora",
        "tasl",
        "deal",
        "tree-lora",
        *PROMPTS,
    ],
)
def test_an_interrupted_run_continues_to_the_same_bytes(method, learn, inputs, tmp_path):

    chosen = {"max_steps": 4, "save_steps": 1, "lr": 0.01}
    for package in ("whole", "cut"):
        learn(method, "first", package)
    expected = contents(learn(method, "second", "whole", **chosen).path)
    plan = make_plan(options_for(inputs[0], inputs[1]["second"], tmp_path / "cut", method=method, **chosen))
    assert contents(continued(plan).path) == expected


def test_deal_changes_lora_a_by_its_band_alone(learn):
    from clora_cli.methods.deal import coarse, fine

    first, second = (learn("deal", task, lr=0.05) for task in ("first", "second"))
    for site, after in second.factors().items():
        before = first.factors()[site]
        changed = after.a - before.a
        assert torch.equal(after.b, before.b) and float(changed.abs().max()) > 0
        assert torch.allclose(changed, fine(coarse(changed), changed.shape), atol=1e-6)
        band = second.state()[f"band/{site}"]
        assert torch.allclose(coarse(after.a), band * coarse(before.a), atol=1e-5)


def test_tree_lora_keeps_a_gradient_of_norm_1_for_each_task_and_site(learn):
    members = [learn("tree-lora", task, lr=0.05) for task in ("first", "second", "third")]
    for number, member in enumerate(members, start=1):
        kept = member.state()
        assert {key.partition("/")[2] for key in kept} == set(member.factors())
        assert all(torch.allclose(one.flatten(1).norm(dim=1), torch.ones(number), atol=1e-5) for one in kept.values())
    for key, all_three in members[2].state().items():
        assert torch.equal(all_three[:1], members[0].state()[key]) and torch.equal(
            all_three[:2], members[1].state()[key]
        )
    alone, plain = (learn(method, "second", package=method, lr=0.05) for method in ("tree-lora", "seq-lora"))
    assert all(torch.equal(factor.a, plain.factors()[site].a) for site, factor in alone.factors().items())


def test_inf_lora_goes_on_from_adapters_alone_that_tell_what_their_inputs_use(learn):
    first = learn("o-lora", "first")
    with refused("method-state-missing", first.path, "the same method"):
        learn("inf-lora", "second")


def test_inf_lora_remembers_inputs_of_layers_that_a_task_leaves_out(learn):
    first = learn("inf-lora", "first", target_modules=("q_proj",))
    second = learn("inf-lora", "second", target_modules=("v_proj",))
    queries = {key for key in first.state() if "q_proj" in key}
    assert queries
    assert {key: second.state()[key].tolist() for key in queries} == {
        key: first.state()[key].tolist() for key in queries
    }
    assert any("v_proj" in key for key in second.state())


def test_epi_goes_on_from_adapters_alone_that_inputs_can_find(learn):
    first = learn("per-task", "first")
    with refused("method-state-missing", first.path, "--method epi"):
        learn("epi", "second")


def _deltas(adapter):
    return {site: factor.delta() for site, factor in adapter.factors().items()}


def _alike(first, second):
    one, other = _deltas(first), _deltas(second)
    return all(torch.equal(delta, other[site]) for site, delta in one.items())


@pytest.mark.parametrize("other", ["ewc", "migu", "tree-lora"])
def test_deal_hands_on_what_others_make_of_the_gradients_in_either_order(learn, other):
    found = {}
    for name in ("deal", f"deal+{other}", f"{other}+deal"):
        learn(name, "first", package=name)
        found[name] = learn(name, "second", package=name)
    assert _alike(found[f"deal+{other}"], found[f"{other}+deal"])
    assert not _alike(found["deal"], found[f"deal+{other}"])


def test_jump_lora_hands_on_what_a_filter_leaves(learn):
    plain, filtered = (learn(name, "first", package=name) for name in ("jump-lora", "jump-lora+migu"))
    assert _alike(plain, filtered)  # migu leaves the first task alone
    plain, filtered = (learn(name, "second", package=name) for name in ("jump-lora", "jump-lora+migu"))
    assert not _alike(plain, filtered)


@pytest.mark.parametrize("name", ["deal", "tasl", "slao", "jump-lora"])
def test_a_slow_copy_without_decay_is_the_other_method(learn, name):
    both = f"{name}+slow"
    for task in ("first", "second"):
        plain = learn(name, task, package=name)
        slow = learn(both, task, package=both, method_options={"slow.decay": "0"})
        assert _alike(plain, slow), task


@pytest.mark.parametrize("name", ["mocl", "moe-lora", "gain-lora", "sapt"])
def test_remembered_rows_pass_a_learned_gate_too(learn, name):
    both = f"{name}+gem"
    learn(name, "first", package=both)
    plain = learn(name, "first", package=name)
    found = learn(both, "second", package=both, method_options={"gem.margin": "0"})
    assert set(found.state()) == set(plain.state()) | {key for key in found.state() if "basis" in key}


def test_osf_lora_is_refused_where_the_rank_leaves_the_model_no_direction(learn):
    with refused("no-room-for-rank", "--rank"):
        learn("osf-lora+jump-lora", "first")


@pytest.mark.parametrize("name", ["sapt", "gain-lora"])
def test_a_gate_goes_on_at_its_own_width_alone(learn, name):
    learn(name, "first", method_options={"width": "6"})
    with refused("gate-width-differs", "width=6"):
        learn(name, "second")
    assert learn(name, "second", method_options={"width": "6"}).stage == 2


def test_a_penalty_of_factors_that_are_not_trained_changes_nothing_not_even_what_is_clipped(learn, inputs, tmp_path):
    # inf-lora holds lora_A still, which o-lora's penalty is of
    both = "inf-lora+o-lora"
    for name in ("inf-lora", both):
        learn(name, "first", package=name)
    plain = learn("inf-lora", "second", package="inf-lora")
    told, (model, tasks) = Signals(), inputs
    chosen = {"method": both, "method_options": {"strength": "1000"}}
    plan = make_plan(options_for(model, tasks["second"], tmp_path / both, **chosen))
    assert _alike(plain, train_task(plan, progress=told)[0])
    assert told.warnings == [
        "o-lora: its penalty is inactive in this run: it is of factors that this run does not train"
    ]
