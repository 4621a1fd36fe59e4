"""Where inputs go, against features and softmaxes worked out apart; what adapters know; what abstains."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from refusals import refused
from routed import give_distribution, write_routable
from support import Signals, config_of, random_factors, write_random_adapter

from clora_cli.base.errors import DataError, OptionError
from clora_cli.data import Example, load_task
from clora_cli.data.readers import Record
from clora_cli.options import RouteOptions, RouteSettings
from clora_cli.routing.dispatch import Dispatcher
from clora_cli.routing.inputs import Input, in_batches, inputs_of_rows, inputs_of_task
from clora_cli.routing.route_settings import calibration_tasks, open_source, route_options, tasks_known
from clora_cli.routing.tally import panels_of
from clora_cli.store.adapter_folder import AdapterFolder, read_adapter
from clora_cli.store.distribution import read_distribution
from clora_cli.store.manifest import Manifest
from clora_cli.store.package import read_package

CPU = {"device": "cpu"}
SOFT = {"top_k": 0, "temperature": 0.5}


@pytest.fixture(scope="module")
def package(tmp_path_factory, model_folder, tasks):
    """Three adapters of a tiny causal model with full second moments, one for each of the tests' tasks."""
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    backbone = load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))
    folder = tmp_path_factory.mktemp("routing") / "adapters"
    return write_routable(folder, backbone, [str(path) for path in tasks.values()], second="full")


def rows(*texts, **fields):
    return list(inputs_of_rows(Record("x", "line", i, {"prompt": t, **fields}) for i, t in enumerate(texts, start=1)))


def dispatcher(package, settings=None, **options):
    made = Dispatcher(read_package([package]), RouteOptions(**options), RouteSettings(**{**CPU, **(settings or {})}))
    made.start()
    return made


def weights_of(made, inputs):
    return torch.cat([decided.weights for decided in made.decide(inputs)])


def bare(member, **method):
    """Return a member as if its manifest recorded this way to route."""
    manifest = {**member.manifest.raw, "method": {**member.manifest.raw["method"], "route": method}}
    return AdapterFolder(member.path, member.config, Manifest(manifest))


def mean_outputs(backbone, text, sites):
    """Return each layer's output for one text, the mean over its tokens."""
    outputs = {}
    hooks = [
        backbone.model.get_submodule(site).register_forward_hook(
            lambda m, i, out, site=site: outputs.update({site: out})
        )
        for site in sites
    ]
    backbone.model(**backbone.tokenizer(text, return_tensors="pt"))
    for hook in hooks:
        hook.remove()
    return {site: output[0].double().mean(dim=0) for site, output in outputs.items()}


TEXTS = ("the boat was great", "lunch", "this long book seemed so so to all of us, for a while and then some more 7")


def test_weights_are_the_mean_over_sites_of_the_softmax_of_the_base_models_features(package):
    """Against hooks of this test's own on the bare model, one prompt at a time."""
    made = dispatcher(package, similarity="l2", **SOFT)
    found = weights_of(made, rows(*TEXTS))
    known = [read_distribution(member.features).sites for member in read_package([package])]
    for row, text in enumerate(TEXTS):
        expected = []
        for site, feature in mean_outputs(made.guide.backbone, text, list(known[0])).items():
            distances = torch.stack([(feature - member[site].mean).norm() for member in known])
            expected.append((-distances / 0.5).softmax(dim=0))
        assert len(expected) == 4
        torch.testing.assert_close(found[row].double(), torch.stack(expected).mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", ["l2", "mahalanobis", "epi"])
def test_batches_change_nothing(package, similarity):
    inputs = rows(*TEXTS, "x", TEXTS[0])
    whole = weights_of(dispatcher(package, {"batch_size": 5}, similarity=similarity, **SOFT), inputs)
    for size in (1, 2):
        made = dispatcher(package, {"batch_size": size}, similarity=similarity, **SOFT)
        assert [len(decided.inputs) for decided in made.decide(inputs)] == [size] * (5 // size) + [1] * (5 % size)
        torch.testing.assert_close(weights_of(made, inputs), whole, rtol=1e-3, atol=1e-4)


def test_the_adapter_of_the_largest_mean_weight_is_chosen(package):
    decided = next(dispatcher(package, similarity="l2", **SOFT).decide(rows(*TEXTS)))
    assert decided.chosen == decided.weights.argmax(dim=1).tolist()
    equal = dataclasses.replace(decided, sites={"a": torch.tensor([[0.2, 0.4, 0.4]] * 3)})
    assert equal.chosen == [1] * 3
    none = dataclasses.replace(decided, sites={"a": torch.zeros(3, 3)})
    assert none.chosen == [None] * 3


def test_an_adapters_own_inputs_find_it(package, tasks):
    made = dispatcher(package, similarity="mahalanobis,shrinkage=0.001")
    for number, path in enumerate(tasks.values()):
        inputs = inputs_of_task(load_task(str(path)), "train")
        chosen = [one for decided in made.decide(inputs) for one in decided.chosen]
        assert chosen.count(number) > len(chosen) / 2  # texts of one kind: chance is a third


def test_one_layer_may_decide_and_the_pass_ends_there(package):
    made = dispatcher(package, similarity="l2", layer="0", module="v_proj")
    assert made.guide.sites == ["model.layers.0.self_attn.v_proj"]
    reached = []
    made.guide.backbone.model.get_submodule("model.layers.1").register_forward_hook(lambda *_: reached.append(1))
    assert weights_of(made, rows(*TEXTS)).shape == (3, 3)
    assert reached == []


def test_what_came_before_a_bad_row_is_decided():
    def bad():
        yield from rows("a", "b", "c")
        raise DataError("x, line 4: bad", code="row-malformed")

    batches = in_batches(bad(), 2)
    assert [len(next(batches)), len(next(batches))] == [2, 1]
    with refused("row-malformed", "line 4"):
        next(batches)
    assert [len(batch) for batch in in_batches(rows("a", "b", "c", "d"), 2)] == [2, 2]
    assert list(in_batches([], 3)) == []


def test_a_limit_reads_no_row_more():
    def endless():
        yield from (Record("x", "line", number, {"prompt": "p"}) for number in (1, 2))
        raise AssertionError("a third row was asked for")

    assert len(list(inputs_of_rows(endless(), limit=2))) == 2


def test_rows_keep_their_fields_and_tell_their_task():
    one, other = inputs_of_rows([Record("x", "line", 1, {"prompt": "p", "task": "cb", "id": 7}),
                                 Record("x", "line", 2, {"messages": [{"role": "user", "content": "hi"}], "task": 3})])  # fmt: skip
    assert (one.task, one.fields, one.chat, one.where) == (
        "cb",
        {"prompt": "p", "task": "cb", "id": 7},
        False,
        "x, line 1",
    )
    assert (other.task, other.chat) == ("", True)


def test_conversations_go_through_the_chat_template_others_do_not(package):
    made = dispatcher(package, similarity="l2", **SOFT)
    plain, chat = rows("why"), [dataclasses.replace(rows("why")[0], chat=True)]
    assert torch.equal(weights_of(made, plain), weights_of(made, chat))  # the tokenizer has no template
    made.guide.backbone.tokenizer.chat_template = "<s>so so so {{ messages[0]['content'] }} so so"
    written = weights_of(made, rows("so so so why so so"))
    mixed = weights_of(made, [*chat, *plain, *chat])
    torch.testing.assert_close(mixed[[0, 2]], written.expand(2, 3), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mixed[1:2], weights_of(made, plain), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(mixed[0], mixed[1], atol=1e-3)


def test_an_instruction_that_does_not_fit_is_named_by_its_row(package):
    long = Input(Example("so " * 600, "body", "", ()), {}, "x, line 9")
    with refused("prompt-too-long", "x, line 9", "--max-length"):
        list(dispatcher(package).decide([*rows("fine"), long]))


def test_numbers_that_are_not_finite_are_refused(package):
    made = dispatcher(package)
    with torch.no_grad():
        made.guide.backbone.model.get_input_embeddings().weight.fill_(float("nan"))
    with refused("features-not-finite", "--dtype float32"):
        list(made.decide(rows("a")))


def test_the_share_that_was_asked_for_abstains(package, tasks):
    members = read_package([package])
    task = load_task(str(tasks["first"]))
    wide = dataclasses.replace(task, dev=task.train, test=task.train)
    heard = Signals()
    made = Dispatcher(members, RouteOptions(abstain=0.25, similarity="l2"), RouteSettings(**CPU), heard)
    made.start([wide])
    assert heard.notes[-1].endswith(f"go to the base model: 25 % of {len(wide.train)} dev rows")
    chosen = [one for decided in made.decide(inputs_of_task(wide, "test")) for one in decided.chosen]
    assert chosen.count(None) == pytest.approx(0.25 * len(chosen), abs=1)
    (far,) = made.decide(rows("}{" * 40))
    assert far.chosen == [None]
    assert not far.weights.any()
    assert made.how["threshold"] == made.routing.threshold < 0


def test_nothing_abstains_unless_asked(package):
    made = dispatcher(package)
    assert made.routing.threshold is None
    (far,) = made.decide(rows("}{" * 40))
    assert far.weights.sum().item() == pytest.approx(1)


ABSTAINING = RouteOptions(abstain=0.1)


def test_calibration_takes_dev_rows_of_the_adapters_own_tasks_or_of_those_named(package, tasks):
    members = read_package([package])
    assert [task.name for task in calibration_tasks(members, ABSTAINING, [])] == list(tasks)
    assert [task.name for task in calibration_tasks(members, ABSTAINING, [str(tasks["third"])])] == ["third"]
    with refused("data-not-found", "'absent'", "--calibrate"):
        calibration_tasks(members, ABSTAINING, ["absent"])


def test_tasks_without_dev_rows_cannot_calibrate(tmp_path):
    (tmp_path / "few").mkdir()
    for split in ("train", "test"):
        (tmp_path / "few" / f"{split}.jsonl").write_text('{"text": "same", "label": "x"}\n', encoding="utf-8")
    with refused("no-rows-to-calibrate", "--abstain", "--calibrate"):
        calibration_tasks([], ABSTAINING, [str(tmp_path / "few")])


def test_an_adapter_knows_its_task_its_data_and_what_its_distribution_is_made_of(package, tasks, tmp_path, backbone):
    first, *_ = read_package([package])
    assert tasks_known(first) == ["first", str(tasks["first"])]
    base = backbone("llama")
    merged = write_random_adapter(
        tmp_path / "both", base, stage=1, manifest={"data": {"name": "both", "merged": ["cb", "rte"]}}
    )
    merged = give_distribution(merged.path, base, load_task(str(tasks["first"])).train, data="cb")
    assert tasks_known(merged) == ["both", "cb", "rte"]
    (merged.path / "clora.json").unlink()
    assert tasks_known(read_adapter(merged.path)) == ["both", "cb"]


def test_options_come_from_the_call_then_from_the_adapters_then_by_default(package):
    first, second, third = read_package([package])
    assert route_options([first, second], {"top_k": None}) == RouteOptions(top_k=1)
    assert route_options([first, second], {}, top_k=0).top_k == 0
    recorded = RouteOptions(similarity="l2", top_k=2, layer="last", temperature=3).recorded()
    agreed = [bare(first, **recorded), bare(second, **recorded), third]
    assert route_options(agreed, {}, top_k=0) == RouteOptions(similarity="l2", top_k=2, layer="last", temperature=3)
    assert route_options(agreed, {"top_k": 0, "layer": "all", "module": None}) == RouteOptions(
        similarity="l2", top_k=0, temperature=3
    )
    split = [bare(first, **recorded), bare(second, **{**recorded, "top_k": 1})]
    assert route_options(split, {}, top_k=0) == RouteOptions(top_k=0)


@pytest.mark.parametrize("route", [{"topk": 1}, {"top_k": "one"}, {"top_k": True}, {"similarity": None}])
def test_a_recorded_way_that_is_none_is_refused(package, route):
    first, *_ = read_package([package])
    with refused("routing-not-supported", first.path):
        route_options([bare(first, **route)], {})


@pytest.mark.parametrize(
    ("values", "code", "flag"),
    [
        ({"batch_size": 0}, "option-out-of-range", "--batch-size 0"),
        ({"limit": -1}, "option-out-of-range", "--limit -1"),
        ({"dtype": "int8"}, "option-choice-unknown", "--dtype int8"),
        ({"split": "valid"}, "option-choice-unknown", "--split valid"),
    ],
)
def test_settings_out_of_range_are_refused(values, code, flag):
    with refused(code, flag, error=OptionError):
        RouteSettings(**values)


def test_sources_are_tasks_files_and_the_standard_input(tmp_path, tasks):
    settings = RouteSettings(limit=2)
    (tmp_path / "rows.csv").write_text("text\none\ntwo\nthree\n", encoding="utf-8")
    named = open_source(str(tasks["first"]), [], settings)
    assert [(one.fields["row"], one.task) for one in named] == [(1, "first"), (2, "first")]
    assert [one.fields for one in open_source(str(tmp_path / "rows.csv"), [], settings)] == [
        {"text": "one"},
        {"text": "two"},
    ]
    assert [one.where for one in open_source("-", [b'{"prompt": "p"}'], settings)] == ["standard input, line 1"]


def test_a_task_without_rows_of_the_split_is_refused(tasks):
    task = load_task(str(tasks["first"]))
    with refused("task-has-no-rows", "'first'", "dev"):
        inputs_of_task(dataclasses.replace(task, dev=()), "dev")


def test_an_adapter_without_a_distribution_is_refused_with_the_command_that_makes_one(package, tmp_path, backbone):
    write_random_adapter(tmp_path / "fourth", backbone("llama"), stage=4)
    with refused("feature-distribution-missing", tmp_path / "fourth", "clora stat-features"):
        Dispatcher(read_package([package, tmp_path / "fourth"]), RouteOptions(), RouteSettings(**CPU))


def test_distributions_taken_in_two_ways_are_refused(package, tmp_path, backbone, tasks):
    base = backbone("llama")
    fourth = write_random_adapter(tmp_path / "fourth", base, stage=4)
    give_distribution(fourth.path, base, load_task(str(tasks["first"])).train, data="x", pool="last")
    with refused("feature-distributions-incomparable", "prompt-mean", "last"):
        Dispatcher(read_package([package, fourth.path]), RouteOptions(), RouteSettings(**CPU))


def test_another_base_model_is_refused(package, model_folder):
    other = RouteSettings(model=str(model_folder("llama", 1)), **CPU)
    with refused("trained-on-other-base-model", model_folder("llama", 1)):
        Dispatcher(read_package([package]), RouteOptions(), other)


@pytest.mark.parametrize("family", ["t5", "encoder-decoder", "gpt2"])
def test_bare_folders_of_other_families_are_routed(tmp_path, backbone, tasks, family):
    """No manifest at all: the distribution tells base model and task."""
    from clora_cli.algebra.lora import factor_keys
    from clora_cli.store.tensors import save_tensors

    base = backbone(family)
    factors = random_factors(base.model, 0, 2)
    for name, path in tasks.items():
        folder = tmp_path / "peft" / name
        folder.mkdir(parents=True)
        tensors = {key: t for site, f in factors.items() for key, t in zip(factor_keys(site), (f.a, f.b), strict=True)}
        save_tensors(folder / "adapter_model.safetensors", tensors)
        config = config_of(base, factors, 2, 4) | {"base_model_name_or_path": "another/name"}
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        give_distribution(folder, base, load_task(str(path)).train, data=f"about-{name}")
    made = dispatcher(tmp_path / "peft", similarity="l2")
    tally = made.tally()
    inputs = [dataclasses.replace(one, task="about-second") for one in rows(*TEXTS)]
    for decided in made.decide(inputs):
        tally.add(decided)
    routes = tally.routes(made.how)
    assert routes.knows == ((1,),)
    assert sum(routes.counts[0]) == 3


def test_a_tally_adds_up_what_went_where(package):
    made = dispatcher(package, similarity="l2", **SOFT)
    inputs = [*rows(*TEXTS, task="second"), *rows("a", "b", task="unseen"), *rows("c"), *rows("d", task="first")]
    tally, kept = made.tally(panels=True), []
    for decided in made.decide(inputs):
        tally.add(decided)
        kept.append(decided)
    routes = tally.routes(made.how)
    assert routes.adapters == ("first", "second", "third")
    assert routes.tasks == ("first", "second", "unseen", "")
    assert routes.knows == ((0,), (1,), (), ())
    assert routes.inputs == (1, 3, 2, 1)
    weights = torch.cat([one.weights for one in kept]).double()
    torch.testing.assert_close(torch.tensor(routes.weights[1]).double(), weights[:3].mean(dim=0), rtol=1e-5, atol=1e-6)
    chosen = [one for decided in kept for one in decided.chosen]
    assert routes.counts[1] == tuple(chosen[:3].count(adapter) for adapter in range(3))
    assert list(routes.panels) == [f"layer {layer} {kind}_proj" for layer in (0, 1) for kind in ("q", "v")]
    panels = torch.tensor([panel[1] for panel in routes.panels.values()])
    torch.testing.assert_close(panels.mean(dim=0), torch.tensor(routes.weights[1]), rtol=1e-5, atol=1e-6)
    assert made.tally().routes({}).tasks == ()


def test_there_are_panels_where_there_are_several_layers():
    assert panels_of(["h.0.q", "h.0.v"]) == {}
    assert panels_of(["h.0.q", "h.0.v", "h.1.q"]) == {
        "layer 0 q": ["h.0.q"],
        "layer 0 v": ["h.0.v"],
        "layer 1 q": ["h.1.q"],
    }
    assert panels_of(["q", "v"]) == {}


def test_a_thousand_adapters_are_weighed(package):
    """Renamed copies of three: each original keeps its share, divided among its copies."""
    made = dispatcher(package, similarity="l2", **SOFT)
    inputs = rows(*TEXTS)
    plain = weights_of(made, inputs)
    many = Dispatcher(read_package([package]) * 400, RouteOptions(similarity="l2", **SOFT), RouteSettings(**CPU))
    many.start()
    found = weights_of(many, inputs)
    assert found.shape == (3, 1200)
    torch.testing.assert_close(found.view(3, 400, 3).sum(dim=1), plain, rtol=1e-3, atol=1e-4)
