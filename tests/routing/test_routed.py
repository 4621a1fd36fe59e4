"""A package whose inputs find their own adapters: against each adapter alone, whoever chooses, wherever features come from."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from routed import write_routable
from torch.nn import functional

from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.evaluation.answers import Prompts, generate
from clora_cli.model.bank import AdapterBank
from clora_cli.options import EvalOptions, RouteOptions
from clora_cli.routing.guide import Guide
from clora_cli.routing.routed_adapters import RoutedAdapters
from clora_cli.store.package import read_package

FAMILIES = ("llama", "gpt2", "t5", "encoder-decoder")


@pytest.fixture
def package(tmp_path, backbone, tasks):
    """Make a package of two adapters with distributions over one family's model."""

    def make(family="llama", **how):
        base = backbone(family)
        write_routable(tmp_path / "package", base, [str(tasks["first"]), str(tasks["second"])], rows=12, **how)
        return base, read_package([tmp_path / "package"])

    return make


def answers_under(base, members, options, prompts, count=None):
    bank = AdapterBank(base.model)
    routed = RoutedAdapters(bank, Guide(base.reference, members, options, backbone=base), members)
    before = routed.gates(prompts.examples, count or len(members))
    found = generate(prompts, 5, lambda rows: None, before)
    bank.clear()
    return found


def chosen_by_hand(base, members, prompts, sites):
    """Route with the formula alone: nearest mean at each site's own features, read from whole hidden states."""
    guide = Guide(base.reference, members, RouteOptions(similarity="l2"), backbone=base)
    features = guide.features(prompts.examples)
    from clora_cli.store.distribution import read_distribution

    means = [read_distribution(member.features).sites for member in members]
    return {
        site: torch.stack([(features[site] - mean[site].mean).norm(dim=1) for mean in means], dim=1).argmin(dim=1)
        for site in sites
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_top_1_answers_as_each_input_s_own_adapters_do(package, tasks, family):
    base, members = package(family)
    base.model.double()
    task = load_task(str(tasks["third"]))
    prompts = Prompts.encode(base, task, task.test, 64, 4)
    options = RouteOptions(
        similarity="l2",
        layer="last",
        module=next(iter(Guide(base.reference, members, RouteOptions(), backbone=base).sites)).rpartition(".")[2],
    )
    routed = answers_under(base, members, options, prompts)
    (site,) = Guide(base.reference, members, options, backbone=base).sites
    choice = chosen_by_hand(base, members, prompts, [site])[site]
    bank = AdapterBank(base.model)
    alone = []
    for member in members:
        bank.activate([member.factors()])
        alone.append(generate(prompts, 5, lambda rows: None))
    assert len(set(choice.tolist())) == 2
    assert routed == [alone[number][row] for row, number in enumerate(choice.tolist())]


def test_each_site_may_choose_for_itself(package, tasks):
    base, members = package()
    base.model.double()
    task = load_task(str(tasks["third"]))
    prompts = Prompts.encode(base, task, task.test, 64, 32)
    bank = AdapterBank(base.model)
    guide = Guide(base.reference, members, RouteOptions(similarity="l2"), backbone=base)
    before = RoutedAdapters(bank, guide, members).gates(prompts.examples, 2)
    choice = chosen_by_hand(base, members, prompts, guide.sites)
    assert len({tuple(one.tolist()) for one in choice.values()}) > 1
    routed = generate(prompts, 5, lambda rows: None, before)
    bank.activate([member.factors() for member in members])

    def by_hand(rows, mask):
        bank.gate({site: functional.one_hot(choice[site][rows], 2).float() for site in bank.sites})

    assert routed == generate(prompts, 5, lambda rows: None, by_hand)


def test_soft_weights_of_a_cold_softmax_are_those_of_top_1(package, tasks):
    base, members = package("t5")
    task = load_task(str(tasks["third"]))
    prompts = Prompts.encode(base, task, task.test, 64, 4)
    cold = answers_under(base, members, RouteOptions(similarity="l2", top_k=0, temperature=1e-6), prompts)
    assert cold == answers_under(base, members, RouteOptions(similarity="l2"), prompts)
    assert cold != answers_under(base, members, RouteOptions(similarity="l2", top_k=0, temperature=1e6), prompts)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_adapted_features_decide_within_the_pass_that_answers(package, tasks, family):
    base, members = package(family, source="adapted")
    base.model.double()
    task = load_task(str(tasks["third"]))
    prompts = Prompts.encode(base, task, task.test, 64, 4)
    adapted = answers_under(base, members, RouteOptions(similarity="l2", top_k=0), prompts)
    for member in members:
        record = member.path / "features.clora"
        assert record.exists()
    first_layer = RouteOptions(similarity="l2", top_k=0)
    guide = Guide(base.reference, members, first_layer, backbone=base)
    # The first layer's inputs no adapter has touched: there, adapted features are the base model's own.
    site = guide.sites[0]
    bank = AdapterBank(base.model)
    routed = RoutedAdapters(bank, guide, members)
    seen = {}
    real = bank._gate
    bank._gate = lambda name, weights: (seen.setdefault(name, weights), real(name, weights))
    before = routed.gates(prompts.examples, 2)
    assert generate(prompts, 5, lambda rows: None, before) == adapted
    bank.clear()
    rows, _ = next(iter(prompts.batches()))
    features = guide.features([prompts.examples[row] for row in rows])
    expected = guide.routing().weights(guide.routing().similarities({site: features[site]}))[site]
    assert torch.allclose(seen[site].float(), expected, atol=1e-4)


def test_adapted_features_of_one_layer_cannot_decide_for_those_before_it(package, tasks):
    base, members = package(source="adapted")
    task = load_task(str(tasks["third"]))
    prompts = Prompts.encode(base, task, task.test, 64, 4)
    with refused("route-layer-too-late", "--route-layer all"):
        answers_under(base, members, RouteOptions(similarity="l2", layer="last"), prompts)


def test_a_matrix_grows_by_one_adapter_a_stage(package, tasks):
    _, members = package()
    loaded = [load_task(str(tasks[name])) for name in ("first", "second")]
    scores = evaluate(members, loaded, EvalOptions(combine="route", matrix=True, device="cpu"))
    alone = evaluate(members, loaded, EvalOptions(combine="task-id", matrix=True, device="cpu"))
    assert scores.combine == "route"
    assert scores.rows[0].scores == alone.rows[0].scores
    assert scores.rows[1].scores["first"] == alone.rows[1].scores["first"]


def test_a_package_of_many_loads_what_its_inputs_ask_for(package, tasks, monkeypatch):
    from clora_cli.routing import mixed_adapters as routed

    base, members = package()
    monkeypatch.setattr(routed, "_MOST", 0)
    read = []
    real = type(members[0]).deltas
    monkeypatch.setattr(type(members[0]), "deltas", lambda self: (read.append(self.task), real(self))[1])
    task = load_task(str(tasks["third"]))
    prompts = Prompts.encode(base, task, task.test, 64, 1)
    options = RouteOptions(similarity="l2", layer="last", module="v_proj")
    one_by_one = answers_under(base, members, options, prompts)
    (site,) = Guide(base.reference, members, options, backbone=base).sites
    order = [row for rows, _ in prompts.batches() for row in rows]
    choice = chosen_by_hand(base, members, prompts, [site])[site][order].tolist()
    changes = [number for place, number in enumerate(choice) if place == 0 or choice[place - 1] != number]
    assert read == [members[number].task for number in changes]
    monkeypatch.setattr(routed, "_MOST", 32)
    assert one_by_one == answers_under(base, members, options, prompts)


def test_an_adapter_without_a_distribution_cannot_be_routed(package, tasks):
    _, members = package()
    members[0].features.unlink()
    with refused("feature-distribution-missing", members[0].path, "clora stat-features"):
        evaluate(members, [load_task(str(tasks["first"]))], EvalOptions(combine="route", device="cpu"))


def test_mahalanobis_needs_second_moments(package, tasks):
    _, members = package(second="none")
    options = EvalOptions(combine="route", similarity="mahalanobis", device="cpu")
    with refused("second-moments-differ", "mahalanobis", "--second-moment"):
        evaluate(members, [load_task(str(tasks["first"]))], options)


def test_routing_options_without_routing_are_refused():
    with refused("option-has-no-effect", "--combine sum", "--top-k", "--route-layer"):
        EvalOptions(combine="sum", top_k=1, route_layer="last")


def test_routing_options_for_adapters_that_are_summed_are_refused(package, tasks):
    _, members = package()
    loaded = [load_task(str(tasks["first"]))]
    with refused("adapters-not-routed", "sum", "--combine route"):
        evaluate(members, loaded, EvalOptions(top_k=1, device="cpu"))
    with refused("option-has-no-effect", "--calibrate", "--abstain"):
        evaluate(members, loaded, EvalOptions(combine="route", calibrate=("x",), device="cpu"))


def test_inputs_that_abstain_get_the_base_model(package, tasks, monkeypatch):
    _, members = package()
    loaded = [load_task(str(tasks["third"]))]
    calibrate = tuple(str(tasks[name]) for name in ("first", "second"))
    monkeypatch.setattr(Guide, "threshold", lambda self, routing, tasks: (float("inf"), 1))
    options = EvalOptions(combine="route", abstain=0.1, calibrate=calibrate, device="cpu")
    all_abstain = evaluate(members, loaded, options)
    assert (
        all_abstain.rows[-1].scores
        == evaluate(members, loaded, EvalOptions(combine="none", device="cpu")).rows[-1].scores
    )


def test_the_threshold_leaves_the_asked_share_of_known_inputs_below(package, tasks):
    base, members = package()
    options = RouteOptions(similarity="l2", abstain=0.25)
    guide = Guide(base.reference, members, options, backbone=base)
    known = [load_task(str(tasks[name])) for name in ("first", "second")]
    threshold, rows = guide.threshold(guide.routing(), known)
    assert rows == sum(len(task.dev) for task in known)
    routing = guide.routing(threshold=threshold)
    kept = [routing.weights(routing.similarities(guide.features(task.dev))) for task in known]
    abstained = sum(int((weights[guide.sites[0]].sum(dim=1) == 0).sum()) for weights in kept)
    assert abstained == rows // 4


def test_a_threshold_of_features_that_are_not_finite_is_none(package, tasks, monkeypatch):
    """One such row made it NaN, which no input is near enough to: all would have gone to the base model unseen."""
    base, members = package()
    guide = Guide(base.reference, members, RouteOptions(similarity="l2", abstain=0.25), backbone=base)
    plain = Guide.features

    def spoilt(self, examples, **given):
        return {
            site: one.index_fill(0, torch.tensor([1]), torch.nan)
            for site, one in plain(self, examples, **given).items()
        }

    monkeypatch.setattr(Guide, "features", spoilt)
    with refused("features-not-finite", "first, dev rows"):
        guide.threshold(guide.routing(), [load_task(str(tasks["first"]))])
