"""Training with earlier adapters mixed in row by row: weights, gradients, what is kept, what is refused."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from routed import give_distribution
from support import FAMILIES, contents, run_of, write_random_adapter
from torch.nn import functional

from clora_cli.base.errors import InterruptedRunError
from clora_cli.data import Collator, encode, load_task
from clora_cli.methods import pfd
from clora_cli.methods.pfd import Pfd, with_floor
from clora_cli.options import FeatureOptions, RouteOptions
from clora_cli.routing.guide import Guide
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.distribution import read_distribution, read_record
from clora_cli.store.package import read_package
from clora_cli.training import train_task
from clora_cli.training.build import build
from clora_cli.transforming import plan_features


@pytest.fixture
def package(tmp_path, backbone, tasks):
    """Make a package of one earlier adapter with a distribution."""

    def make(family="llama", name="adapters", **how):
        base = backbone(family)
        past = write_random_adapter(tmp_path / name / "second", base, stage=1)
        give_distribution(past.path, base, load_task(str(tasks["second"])).train, data="second", **how)
        return base

    return make


def begun(plan):
    """Return a run's model, its method having begun, what mixes the adapters, and the run."""
    built = build(plan)
    run = run_of(plan, built)
    plan.method.lead.begin(run)
    return built, built.mixtures[0], run


def weights_of(mixture, rows):
    """Return the mixture's weights of training rows."""
    return mixture._weigh(torch.as_tensor(rows), {})


def batch_of(built, plan, rows):
    """Return a right-padded batch of training rows with decoder inputs where the model wants them."""
    backbone = built.backbone
    kind = backbone.prompt_kind
    items = [encode(plan.rows[row], backbone.tokenizer, kind=kind, max_length=64) for row in rows]
    batch = Collator(backbone.tokenizer)(items)
    labels = batch.pop("labels")
    if kind == "seq2seq":
        batch["decoder_input_ids"] = backbone.model.prepare_decoder_input_ids_from_labels(labels=labels)
    return batch


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_s_mixture_is_the_weighted_sum_of_both_adapters(package, plan_for, family):
    package(family)
    plan = plan_for(family=family, method="pfd", method_options={"temperature": "0.5", "train_top_k": "0"})
    built, mixture, run = begun(plan)
    built.model.double()
    for parameter in built.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    built.model.eval()
    built.bank.activate([plan.past[0].factors()])  # once more, in float64
    guide = Guide(
        plan.reference,
        [*plan.past, FakeMember(run.distribution_given, plan)],
        RouteOptions(similarity="l2", top_k=0, temperature=0.5),
    )
    rows = [3, 7, 1]
    weights = weights_of(mixture, rows)
    mixture.before(torch.tensor(rows), {})
    with torch.no_grad():
        mixed = built.model(**batch_of(built, plan, rows)).logits
    assert list(weights) == guide.sites
    for place in range(len(rows)):
        expected = by_hand(
            built, plan, {site: one[place] for site, one in weights.items()}, mixture, batch_of(built, plan, rows)
        )
        assert torch.allclose(mixed[place], expected[place], rtol=1e-6, atol=1e-6)


class FakeMember:
    """A finished adapter's distribution before the adapter is finished."""

    is_prompt = False

    def __init__(self, distribution, plan):
        self.features = plan.out.parent / "distribution-of-this-run.safetensors"
        distribution.write(self.features)


def by_hand(built, plan, weights, mixture, batch):
    """Return logits with ``w_0 delta_0 + w_1 delta_1`` added to every site's output by a hook that knows dense deltas alone."""
    past = plan.past[0].factors()
    built.bank.clear()
    handles = []
    for site, new in built.trainable.items():
        layer = built.model.base_model.model.get_submodule(site)
        weight = weights[mixture._place(site)].double()
        delta = weight[0] * past[site].scaling * (past[site].b.double() @ past[site].a.double())
        delta = delta + weight[1] * new.scaling * (new.b @ new.a)

        def replaced(module, inputs, output, layer=layer, delta=delta):
            return layer.base_layer(*inputs) + functional.linear(inputs[0], delta)

        handles.append(layer.register_forward_hook(replaced))
    with torch.no_grad():
        found = built.model(**batch).logits
    for handle in handles:
        handle.remove()
    built.bank.activate([past])
    return found.detach()


def test_the_first_task_trains_as_it_would_alone(plan_for):
    routed, _ = train_task(plan_for(method="pfd", package="one"))
    alone, _ = train_task(plan_for(method="per-task", package="two"))
    assert routed.manifest.raw["scores"] == alone.manifest.raw["scores"]
    one, two = routed.factors(), alone.factors()
    assert all(torch.equal(one[site].b, two[site].b) for site in one)


def test_with_one_place_the_new_adapter_has_it(package, plan_for):
    package(name="one")
    routed, _ = train_task(plan_for(method="pfd", package="one"))
    mixed, _ = train_task(plan_for(method="pfd", package="one", task="third", method_options={"train_top_k": "0"}))
    assert mixed.manifest.raw["scores"] != routed.manifest.raw["scores"]
    alone, _ = train_task(plan_for(method="per-task", package="two"))
    assert routed.manifest.raw["scores"] == alone.manifest.raw["scores"]


def test_earlier_adapters_that_no_row_chooses_are_not_read(package, plan_for, monkeypatch):
    package()
    read = []
    for owner, name in ((AdapterFolder, "factors"), (pfd, "read_distribution")):
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *given, real=real, name=name, **more: read.append(name) or real(*given, **more)
        )
    alone, *_ = begun(plan_for(method="pfd"))
    assert (read, alone.bank.sites, alone.acting) == ([], (), [])
    mixed, *_ = begun(plan_for(method="pfd", method_options={"train_top_k": "2"}))
    assert (sorted(read), mixed.acting) == (["factors", "read_distribution"], [0])


def test_leaving_them_out_changes_nothing(package, plan_for):
    package()
    plan = plan_for(method="pfd")
    narrow, _, run = begun(plan)
    whole = build(plan)
    weights = plan.method.lead._weights(run, run.distribution_given.sites)
    run_of(plan, whole).mix(lambda rows, inputs: {site: own[rows] for site, own in weights.items()})
    found = []
    for built in (narrow, whole):
        built.mixtures[0].before(torch.arange(4), {})
        found.append(built.model.eval()(**batch_of(built, plan, range(4))).logits)
    assert (narrow.bank.sites, bool(whole.bank.sites)) == ((), True)
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_rows_nearer_to_an_old_task_teach_nothing_when_adapters_compete(package, plan_for):
    package()
    chosen = {"train_top_k": "1", "current": "compete", "layer": "last", "module": "v_proj"}
    built, mixture, _ = begun(plan_for(method="pfd", method_options=chosen))
    (weights,) = weights_of(mixture, range(24)).values()
    starved = (weights[:, -1] == 0).nonzero()[:, 0]
    assert 0 < len(starved) < len(weights)
    mixture.before(starved[:2], {})
    built.model(**batch_of(built, plan_for(method="pfd"), starved[:2].tolist())).logits.sum().backward()
    assert all(float(factor.b.grad.abs().max()) == 0 for factor in built.trainable.values())
    _, included, _ = begun(plan_for(method="pfd", method_options={**chosen, "current": "included", "train_top_k": "2"}))
    (weights,) = weights_of(included, range(24)).values()
    assert (weights[:, -1] > 0).all()


def test_the_new_adapter_takes_the_place_of_a_nearer_one_where_it_is_included(package, plan_for, backbone, tmp_path):
    package()
    write_random_adapter(tmp_path / "adapters" / "third", backbone("llama"), stage=2)
    for name in (
        "second",
        "third",
    ):  # each lies on the first row, which is then nearer to both than to its own task's mean
        row = plan_for(method="seq-lora").rows[:1]
        give_distribution(tmp_path / "adapters" / name, backbone("llama"), row, data=name)
    starved = {}
    for current in ("included", "compete"):
        chosen = {"train_top_k": "2", "layer": "last", "module": "v_proj", "current": current}
        _, mixture, _ = begun(plan_for(method="pfd", method_options=chosen))
        (weights,) = weights_of(mixture, range(24)).values()
        assert ((weights > 0).sum(dim=1) <= 2).all()
        starved[current] = bool((weights[0, -1] == 0).item())
    assert starved == {"included": False, "compete": True}


def test_a_floor_lifts_the_new_adapter_and_keeps_the_sum():
    weights = torch.tensor([[0.6, 0.3, 0.1], [0.0, 0.2, 0.8], [1.0, 0.0, 0.0]])
    lifted = with_floor(weights, 0.4)
    expected = torch.tensor([[0.4, 0.2, 0.4], [0.0, 0.2, 0.8], [0.6, 0.0, 0.4]])
    assert torch.allclose(lifted, expected)
    assert torch.allclose(with_floor(weights, 0.0), weights)


def test_the_distribution_is_that_of_the_training_rows_under_the_bare_base_model(package, plan_for, backbone, tmp_path):
    package()
    plan = plan_for(method="pfd", method_options={"similarity": "mahalanobis"}, train_rows=11)
    folder, _ = train_task(
        plan_for(method="pfd", package="fresh", method_options={"second_moment": "diag"}, train_rows=11)
    )
    twin = write_random_adapter(tmp_path / "twin" / "first", backbone("llama"), stage=1)
    give_distribution(twin.path, backbone("llama"), plan.rows, data="first")
    # Public code takes them of the model that is being trained: whatever the new adapter and the earlier one are by then.
    built = build(plan)
    run = run_of(plan, built)
    for factor in built.trainable.values():
        torch.nn.init.normal_(factor.b, generator=torch.Generator().manual_seed(0))
    built.model.train()
    later = run.distribution(pool="prompt-mean", text="prompt", second_moment="diag").sites
    two = read_distribution(twin.features).sites
    for one in (read_distribution(folder.features).sites, later):
        assert list(one) == list(two)
        for site in one:
            assert one[site].count == two[site].count == 11
            assert torch.allclose(one[site].mean, two[site].mean, atol=1e-6)
            assert torch.allclose(one[site].scatter, two[site].scatter, rtol=1e-4)
    for rows, found in run.features(list(two), pool="prompt-mean", text="prompt"):
        assert sorted(rows) == list(range(11))
        assert all(
            torch.allclose(vectors.double().mean(dim=0), two[site].mean, atol=1e-5) for site, vectors in found.items()
        )
    record = read_record(folder.features).raw
    assert (record["data"][0]["name"], record["data"][0]["rows"]) == ("first", 11)
    assert folder.manifest.raw["method"]["route"]["similarity"] == "l2"
    assert "features.clora" not in folder.manifest.raw["files"]


@pytest.mark.parametrize("train_rows", [0, 11])
def test_stat_features_finds_the_distribution_that_it_would_take(plan_for, train_rows):
    plan = plan_for(method="pfd", train_rows=train_rows)
    folder, _ = train_task(plan)
    asked = FeatureOptions(
        data=(plan.options.data,), limit=train_rows, max_length=plan.options.max_length, min_count=0, device="cpu"
    )
    (job,) = plan_features([folder], asked).jobs
    assert job.state == "up to date"


def test_a_resumed_run_writes_the_bytes_of_an_undisturbed_one(tmp_path, package, plan_for, monkeypatch):
    from clora_cli.training import callbacks

    package(name="one"), package(name="two")
    options = {"method": "pfd", "max_steps": 4, "save_steps": 1, "method_options": {"train_top_k": "2"}}
    whole, _ = train_task(plan_for(package="one", **options))
    real = callbacks.Watch.on_step_end

    def stop(self, args, state, control, **rest):
        self._interruption.wanted = state.global_step == 2
        return real(self, args, state, control, **rest)

    monkeypatch.setattr(callbacks.Watch, "on_step_end", stop)
    with pytest.raises(InterruptedRunError):
        train_task(plan_for(package="two", **options))
    monkeypatch.setattr(callbacks.Watch, "on_step_end", real)
    resumed, _ = train_task(plan_for(package="two", **options), resume=True)
    assert contents(resumed.path) == contents(whole.path)


def test_earlier_adapters_need_distributions_that_compare(package, plan_for):
    package(pool="last")
    with refused("feature-distributions-incomparable", "pool"):
        plan_for(method="pfd")
    bare = read_package([plan_for(method="per-task").options.package])[0]
    bare.features.unlink()
    with refused("feature-distribution-missing", bare.path):
        plan_for(method="pfd")


def test_a_similarity_of_second_moments_keeps_and_needs_them(package, plan_for):
    package(second="none")
    with refused("second-moments-differ", "mahalanobis", "none"):
        train_task(plan_for(method="pfd", method_options={"similarity": "mahalanobis"}))
    chosen = {"similarity": "mahalanobis,shrinkage=0.2"}
    folder, _ = train_task(plan_for(method="pfd", package="fresh", method_options=chosen))
    assert {moments.second for moments in read_distribution(folder.features).sites.values()} == {"full"}


def test_options_out_of_range_are_refused():
    with refused("option-out-of-range", "floor=1.0"):
        Pfd(floor=1.0)
    with refused("option-out-of-range", "temperature=0.0"):
        Pfd(temperature=0.0)
    with refused("unknown-name", "'l3'", "'l2'"):
        Pfd(similarity="l3")


@pytest.mark.parametrize("similarity", ["arrow", "task-vector"])
def test_a_similarity_that_does_not_compare_features_is_refused(similarity):
    with refused("similarity-reads-otherwise", similarity):
        Pfd(similarity=similarity)
