"""A run's moments and services, with methods that are made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from refusals import refused
from support import Signals, contents, continued, run_of, trainer_for, write_random_adapter

from clora_cli.base import registry
from clora_cli.data import Collator, load_task
from clora_cli.evaluation import evaluate
from clora_cli.evaluation.combine import Routed
from clora_cli.evaluation.prompts import Prompts
from clora_cli.methods import Method
from clora_cli.model.bank import AdapterBank
from clora_cli.model.features import prompt_ids
from clora_cli.model.task_vectors import embeddings
from clora_cli.options import EvalOptions, RouteSettings
from clora_cli.routing.dispatch import Dispatcher
from clora_cli.routing.inputs import Input
from clora_cli.routing.route_settings import route_options
from clora_cli.training import train_task
from clora_cli.training.build import build
from clora_cli.training.fit import encoded_rows, methods_of
from clora_cli.training.run import TrainingRun


@dataclass(frozen=True, kw_only=True)
class Mixing(Method):
    """Mixes adapters, as pfd does; each keeps the same name."""

    past = "weighted"

    def begin(self, run) -> None:
        share = run.parameter("share", torch.tensor(0.5))
        count = len(run.past)
        run.mix(lambda rows, inputs: {site: share.expand(1, count + 1) for site in run.trainable})


class Mixing2(Mixing):
    """The same under another name."""


class Keeps(Mixing):
    """Keeps what another keeps."""

    def begin(self, run) -> None:
        """Do nothing."""

    def finish(self, run) -> Mapping[str, torch.Tensor]:
        return {"share": torch.ones(1)}


@dataclass(frozen=True, kw_only=True)
class Gated(Method):
    """A key for each task, whose cosine with an input weighs its adapter, after GainLoRA (arXiv:2505.15424)."""

    past = "weighted"
    combine = "learned"

    def begin(self, run) -> None:
        queries, past = run.embeddings(), [adapter.state() for adapter in run.past]
        run.parameter("key", queries[0])
        run.mix(lambda rows, inputs: {"": self.weigh([*past, run.own], queries[rows])})

    def weigh(self, states, queries):
        keys = torch.stack([state["key"] for state in states])
        return torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(keys).mT


METHODS = {"gated": Gated, "mixing": Mixing, "mixing2": Mixing2, "keeps": Keeps}


@pytest.fixture(autouse=True)
def _made_here(monkeypatch):
    real = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: METHODS.get(name) or real(kind, name))


@pytest.fixture
def second(plan_for):
    """Plan a second task with a method, after a first one."""

    def plan(method, package="adapters", first="seq-lora", **chosen):
        train_task(plan_for("first", package=package, method=first))
        return plan_for("second", package=package, method=method, **chosen)

    return plan


def test_rows_of_a_memory_that_is_not_mixed_are_not_trained_on(second):
    plan = second("a-gem", method_options={"rows": "4", "sample": "0"})
    assert plan.remembered == 0 and max(plan.order) < len(plan.rows)
    run = run_of(plan, build(plan))
    assert list(run.memory) == list(range(24, 28))


@pytest.mark.parametrize(("method", "chosen"), [("a-gem", {}), ("gem", {"margin": "0"})])
def test_a_step_that_would_harm_the_memory_s_rows_is_projected(second, method, chosen):
    plan = second(method, method_options={"rows": "4", "sample": "0", **chosen})
    built = build(plan)
    run = run_of(plan, built)
    reference = run.slopes(run.memory)
    assert [own.requires_grad for own, _ in reference] == [True] * (2 * len(built.trainable))
    generator = torch.Generator().manual_seed(0)
    for own, slope in reference:
        own.grad = torch.randn(own.shape, generator=generator) * 1e-3 - slope  # against the memory
    before = [own.grad.clone() for own, _ in reference]
    plan.method.lead.gradients(run)
    product = sum(float((own.grad * slope).sum()) for own, slope in reference)
    assert abs(product) < 1e-5 * sum(float(slope.square().sum()) for _, slope in reference)
    # What is taken away lies along the reference: by hand <g, r> / <r, r> of it.
    scale = sum(float((old * slope).sum()) for old, (_, slope) in zip(before, reference, strict=True))
    scale /= sum(float(slope.square().sum()) for _, slope in reference)
    for old, (own, slope) in zip(before, reference, strict=True):
        assert torch.allclose(old - own.grad, scale * slope, atol=1e-6)
    for own, slope in reference:
        own.grad = slope.clone()
    plan.method.lead.gradients(run)
    assert all(torch.equal(own.grad, slope) for own, slope in reference)  # no conflict, no change


@pytest.mark.parametrize("method", ["a-gem", "gem"])
def test_a_step_straight_against_the_memory_is_not_taken(second, monkeypatch, method):
    """Public code projects after the optimizer's step, when it is taken."""

    def opposite(run, rows):
        trained = [own for factor in run.trainable.values() for own in (factor.a, factor.b)]
        return [(own, -own.grad) for own in trained]

    monkeypatch.setattr(TrainingRun, "slopes", opposite)
    plan = second(method, method_options={"margin": "0"} if method == "gem" else {}, max_steps=2)
    found, _ = train_task(plan)
    for site, factor in plan.past[-1].factors().items():
        assert torch.allclose(found.factors()[site].b, factor.b, atol=1e-6) and bool(factor.b.any())


def test_a_filter_acts_on_the_penalties_of_the_method_that_it_joins(plan_for, monkeypatch):
    def opposite(run, rows):
        return [(own, -own.grad) for factor in run.trainable.values() for own in (factor.a, factor.b)]

    monkeypatch.setattr(TrainingRun, "slopes", opposite)
    found = []
    for strength in ("0", "100"):
        train_task(plan_for("first", package=strength, method="o-lora"))
        chosen = {"method": "o-lora+a-gem", "method_options": {"o-lora.strength": strength}, "max_steps": 2}
        found.append(train_task(plan_for("second", package=strength, **chosen))[0].factors())
    assert all(torch.equal(factor.a, found[1][site].a) for site, factor in found[0].items())


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_slopes_are_those_of_the_mean_loss_of_the_rows(plan_for, family):
    plan = plan_for(method="seq-lora", family=family, dropout=0.3)
    built = build(plan)
    run, items = run_of(plan, built), encoded_rows(plan, built)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for factor in built.trainable.values():
            factor.b.normal_(std=0.1, generator=chance)
    built.model.train()
    found = run.slopes([2, 5])
    assert built.model.training and all(own.grad is None for own, _ in found)
    built.model.eval()
    batch = Collator(built.backbone.tokens)([items[2], items[5]])
    tokens = int((batch["labels"] != -100).sum())
    if family == "t5":
        batch["decoder_input_ids"] = built.backbone.tokens.decoder_inputs(batch["labels"])
    logits = built.model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    labels = batch["labels"] if family == "t5" else batch["labels"][:, 1:]
    logits = logits if family == "t5" else logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / tokens
    expected = torch.autograd.grad(loss, [own for own, _ in found])
    for (_, slope), own in zip(found, expected, strict=True):
        assert torch.allclose(slope, own, rtol=1e-3, atol=1e-5 * float(own.abs().max()))


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_input_moments_are_means_over_all_tokens_but_padding(plan_for, family):
    plan = plan_for(method="seq-lora", family=family, train_rows=6)
    built = build(plan)
    run, items = run_of(plan, built), encoded_rows(plan, built)
    found = dict(run.input_moments())
    assert found.keys() == built.trainable.keys()
    seen = {site: [] for site in found}
    handles = [
        built.backbone.model.get_submodule(site).register_forward_pre_hook(
            lambda module, given, site=site: seen[site].append(
                given[0].detach().reshape(-1, given[0].shape[-1]).double()
            )
        )
        for site in found
    ]
    built.model.eval()
    for item in items[:6]:  # one by one, so that there is no padding
        batch = Collator(built.backbone.tokens)([item])
        if family == "t5":
            batch["decoder_input_ids"] = built.backbone.tokens.decoder_inputs(batch["labels"])
        with torch.no_grad():
            built.model(**{key: value for key, value in batch.items() if key != "labels"})
    for handle in handles:
        handle.remove()
    for site, moment in found.items():
        vectors = torch.cat(seen[site])
        expected = vectors.mT @ vectors / len(vectors)
        assert torch.allclose(moment, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())), site


def test_a_slow_copy_is_the_moving_average_of_every_step(plan_for):
    plain, _ = train_task(plan_for(method="inc-lora", package="plain", max_steps=4))
    slow, _ = train_task(plan_for(method="inc-lora+slow", package="slow", max_steps=4))
    still, _ = train_task(
        plan_for(method="inc-lora+slow", package="still", max_steps=4, method_options={"slow.decay": "0"})
    )
    for site, factor in plain.factors().items():
        assert torch.equal(still.factors()[site].b, factor.b)
        assert 0 < float(slow.factors()[site].b.norm()) < 0.9 * float(factor.b.norm())


@pytest.mark.parametrize("method", ["inc-lora+slow", "mixing"])
def test_what_a_method_keeps_and_trains_outlasts_an_interruption(plan_for, backbone, tmp_path, method):
    chosen = {"method": method, "max_steps": 4, "save_steps": 1, "dropout": 0.1}
    for package in ("whole", "cut"):
        write_random_adapter(tmp_path / package / "second", backbone(), stage=1)
    expected = contents(train_task(plan_for(package="whole", **chosen))[0].path)
    plan = plan_for(package="cut", **chosen)
    folder = continued(plan)
    assert contents(folder.path) == expected
    if method == "mixing":
        assert folder.state()["share"].shape == () and float(folder.state()["share"]) != 0.5
        assert folder.manifest.scores["beside_the_lora"] == {"trained": 1}


def test_parts_that_join_act_last(plan_for):
    assert list(plan_for(method="slow+o-lora").method.acting) == ["o-lora", "slow"]


def test_only_one_part_may_mix_and_no_two_keep_one_name(plan_for):
    plan = plan_for(method="mixing+mixing2")
    built = build(plan)
    with refused("several-methods-mix", "mixing+mixing2"):
        methods_of(plan, built, encoded_rows(plan, built)).begin(None, Signals())
    with refused("methods-keep-same-state", "mixing+keeps", "'share'"):
        train_task(plan_for(method="mixing+keeps"))


def test_a_method_that_says_that_it_mixes_is_to_mix(plan_for, backbone, tmp_path):
    write_random_adapter(tmp_path / "adapters" / "second", backbone(), stage=1)
    with refused("method-mixes-nothing", "keeps", "past='weighted'", "run.mix()"):
        train_task(plan_for(method="keeps"))


def test_nothing_is_made_that_no_method_asks_for(plan_for, backbone, tmp_path):
    write_random_adapter(tmp_path / "adapters" / "second", backbone(), stage=1)
    plan = plan_for(method="o-lora")
    built = build(plan)
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in built.model.modules())
    trainer = trainer_for(plan, built)
    trainer._moments.begin(None, Signals())
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in built.model.modules()) == hooks
    run = trainer._moments._runs["o-lora"]
    assert (run.rate, run._previous, run._magnitudes, run._confined, run.own) == (None,) * 4 + ({},)
    assert built.mixtures == []


def test_a_learned_gate_weighs_at_evaluation_as_in_training(plan_for, backbone, tasks):
    folders = [train_task(plan_for(task, method="gated", lr=0.02))[0] for task in ("first", "second")]
    plan = plan_for("second", method="gated", lr=0.02)
    start = run_of(plan, build(plan)).embeddings()[0]
    assert not torch.allclose(folders[1].state()["key"], start, atol=1e-3)  # the gate was trained
    base, task = backbone(), load_task(str(tasks["first"]))
    bank = AdapterBank(base.model)
    combination = Routed(base, bank, folders, route_options(folders, {}))
    _, before = combination.use(folders, Prompts.encode(base, task, task.test, 512, 8))
    before([2, 0], torch.ones(2, 1))
    queries = embeddings(base, prompt_ids(base, task.test, max_length=plan.options.max_length))
    expected = Gated().weigh([folder.state() for folder in folders], queries)[[2, 0]]
    assert all(torch.allclose(weights, expected, atol=1e-6) for weights in bank._weights.values())
    routed = [Input(row, {}, f"line {number}") for number, row in enumerate(task.test)]
    dispatcher = Dispatcher(folders, route_options(folders, {}), RouteSettings(device="cpu"))
    dispatcher.start()
    (decided,) = dispatcher.decide(routed)
    assert torch.allclose(decided.weights[[2, 0]].to(expected), expected, atol=1e-6)
    scores = evaluate(folders, [task], EvalOptions(score="labels", device="cpu", matrix=True))
    assert scores.combine == "learned" and len(scores.rows) == 3
    plain, _ = train_task(plan_for(method="inc-lora", package="other"))
    with refused("method-learns-no-weights", plain.path):
        evaluate([plain], [task], EvalOptions(combine="learned"))


def test_services_read_rows_under_their_own_weights(plan_for):
    train_task(plan_for("first", method="gated"))
    plan = plan_for("second", method="gated")
    built = build(plan)
    run = run_of(plan, built)
    plan.method.lead.begin(run)
    with torch.no_grad():
        for factor in built.trainable.values():
            factor.b.normal_()
    alone, again = (run.attribution(None, steps=2, rows=2, together=True, answer="probability") for _ in range(2))
    slopes = run.slopes([3])
    built.mixtures[0].before(torch.arange(5), {})  # another batch's weights are not those of what is asked
    assert torch.equal(alone, again)
    assert torch.equal(alone, run.attribution(None, steps=2, rows=2, together=True, answer="probability"))
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(slopes, run.slopes([3]), strict=True))
    assert any(own is run.own["key"] and bool(slope.any()) for own, slope in slopes)
    assert all(bool(moment.isfinite().all()) for _, moment in run.input_moments())
