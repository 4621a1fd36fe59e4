"""Routing by task vectors: against embeddings and softmaxes worked out apart, in ``route`` and in ``eval``."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from parts import RECORDED, mean_vector, members_of, write_parts
from refusals import refused
from routed import give_distribution, write_routable
from support import Signals
from torch.nn import functional

from clora_cli.data import load_task
from clora_cli.data.readers import Record
from clora_cli.evaluation import evaluate
from clora_cli.evaluation.answers import Prompts, generate
from clora_cli.model.bank import AdapterBank
from clora_cli.model.changes import Subspaces
from clora_cli.model.features import prompt_ids
from clora_cli.model.task_vectors import embeddings
from clora_cli.options import EvalOptions, RouteOptions, RouteSettings
from clora_cli.routing.dispatch import Dispatcher
from clora_cli.routing.guide import Guide
from clora_cli.routing.inputs import inputs_of_rows
from clora_cli.routing.route_settings import calibration_tasks, route_options, tasks_known
from clora_cli.routing.routed_adapters import RoutedAdapters
from clora_cli.store.adapter_folder import AdapterFolder, read_adapter
from clora_cli.store.package import read_package

FAMILIES = ("llama", "gpt2", "t5", "encoder-decoder")
VECTOR = RouteOptions(similarity="task-vector", top_k=0, temperature=0.1)
TEXTS = ("the boat was great", "lunch", "this long book seemed so so to all of us, for a while and then some more 7")
TABLES = {"llama": "model.embed_tokens", "t5": "encoder.embed_tokens"}


@pytest.fixture
def package(tmp_path, backbone, tasks):
    """Make a package of two parts of one LoRA whose vectors are the middles of two tasks' inputs, and the base model."""

    def make(family="llama", **how):
        base = backbone(family)
        vectors = [mean_vector(base, load_task(str(tasks[name])).train) for name in ("first", "second")]
        if how.pop("random", False):
            vectors = None
        if how.pop("halves", False):
            vectors = either_side(base, load_task(str(tasks["third"])).test)
        path = write_parts(tmp_path / "package", base, ["first", "second"], vectors, **how)
        return base, path

    return make


def either_side(base, examples):
    """Return two vectors between which these inputs divide themselves."""
    found = embeddings(base, prompt_ids(base, examples, max_length=64))
    middle = functional.normalize(found.mean(dim=0), dim=0)
    apart = torch.linalg.svd(found - found.mean(dim=0)).Vh[0]
    apart = apart - (apart @ middle) * middle
    return [middle + apart, middle - apart]


def dispatcher(members, **options):
    made = Dispatcher(members, RouteOptions(**{"similarity": "task-vector", **options}), RouteSettings(device="cpu"))
    made.start()
    return made


def rows(*texts):
    return list(inputs_of_rows(Record("x", "line", i, {"prompt": text}) for i, text in enumerate(texts, start=1)))


def weights_by_hand(base, members, ids, temperature):
    """Return softmax(<E(x), v_k> / T), one prompt at a time, from the table's rows."""
    table = base.model.get_submodule(TABLES.get(base.reference.path.name.split("-")[0], "")).weight.double()
    vectors = torch.stack([member.state()["task_vector"].double() for member in members])
    embedded = torch.stack([functional.normalize(table[tokens].mean(dim=0), dim=0) for tokens in ids])
    return (embedded @ vectors.mT / temperature).softmax(dim=1)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_weights_are_the_softmax_of_cosines_with_the_vectors(package, family):
    base, path = package(family, random=True)
    members = members_of(path)
    made = dispatcher(members, top_k=0, temperature=0.1)
    assert made.guide.sites == [TABLES[family]] == made.how["sites"]
    (decided,) = made.decide(rows(*TEXTS))
    ids = [base.tokenizer(text)["input_ids"] for text in TEXTS]
    expected = weights_by_hand(base, members, ids, 0.1)
    assert (expected[:, 0] - expected[:, 1]).abs().max() > 0.05
    torch.testing.assert_close(decided.weights.double(), expected, rtol=1e-4, atol=1e-5)
    (top,) = dispatcher(members, top_k=1).decide(rows(*TEXTS))
    assert top.chosen == expected.argmax(dim=1).tolist()


def test_no_block_of_the_model_is_run(package):
    _, path = package()
    made, run = dispatcher(members_of(path)), []
    made.guide.backbone.model.model.layers[0].register_forward_pre_hook(lambda *_: run.append(0))
    assert len(list(made.decide(rows(*TEXTS)))) == 1
    assert run == []


def answers_under(base, members, options, prompts):
    bank = AdapterBank(base.model)
    routed = RoutedAdapters(bank, Guide(base.reference, members, options, backbone=base), members)
    found = generate(prompts, 5, lambda rows: None, routed.gates(prompts.examples, len(members)))
    assert {type(change) for changes in bank._changes.values() for change in changes} == {Subspaces}
    bank.clear()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_top_1_answers_as_each_input_s_own_part_does(package, tasks, family):
    base, path = package(family, halves=True)
    base.model.double()
    members = members_of(path)
    task = load_task(str(tasks["third"]))
    prompts = Prompts.encode(base, task, task.test, 64, 4)
    guide = Guide(base.reference, members, RouteOptions(similarity="task-vector"), backbone=base)
    choice = guide.routing().similarities(guide.features(prompts.examples))[guide.sites[0]].argmax(dim=1)
    assert len(set(choice.tolist())) == 2
    bank, alone = AdapterBank(base.model), []
    for member in members:
        bank.activate([member.factors()])
        alone.append(generate(prompts, 5, lambda rows: None))
    bank.clear()
    routed = answers_under(base, members, RouteOptions(similarity="task-vector"), prompts)
    assert alone[0] != alone[1]
    assert routed == [alone[number][row] for row, number in enumerate(choice.tolist())]


def test_soft_answers_are_those_of_the_weighted_sum_of_parts(package, tasks):
    """One input at a time, its two parts merged by its weights into one adapter."""
    base, path = package(random=True)
    base.model.double()
    members = members_of(path)
    task = load_task(str(tasks["third"]))
    prompts = Prompts.encode(base, task, task.test, 64, 3)
    guide = Guide(base.reference, members, VECTOR, backbone=base)
    routing = guide.routing()
    weights = routing.weights(routing.similarities(guide.features(prompts.examples)))[guide.sites[0]]
    bank, factors, expected = AdapterBank(base.model), [member.factors() for member in members], []
    for row, mixture in enumerate(weights.tolist()):
        bank.activate(
            [{s: w * f[s].scaling * (f[s].b @ f[s].a) for s in f} for w, f in zip(mixture, factors, strict=True)]
        )
        expected.append(generate(prompts, 5, lambda rows: None)[row])
    bank.clear()
    assert answers_under(base, members, VECTOR, prompts) == expected


def test_a_matrix_grows_by_one_part_a_stage(package, tasks):
    _, path = package()
    loaded = [load_task(str(tasks[name])) for name in ("first", "second")]
    scores = evaluate(members_of(path), loaded, EvalOptions(matrix=True, device="cpu"))
    alone = evaluate(members_of(path), loaded, EvalOptions(combine="task-id", matrix=True, device="cpu"))
    assert scores.combine == "route"  # as the adapters' method says
    assert scores.rows[1].scores["first"] == alone.rows[1].scores["first"]


def test_the_way_that_cast_records_is_the_default_and_its_temperature_stays_with_it(package):
    _, path = package()
    members = members_of(path)
    assert route_options(members, {}) == RouteOptions(**RECORDED)
    assert route_options(members, {"top_k": 0}) == RouteOptions(**{**RECORDED, "top_k": 0})
    assert route_options(members, {"similarity": "task-vector"}).temperature == 0.05
    assert route_options(members, {"similarity": "l2"}) == RouteOptions(similarity="l2", top_k=1)
    assert route_options(members, {"similarity": "auto", "temperature": 3.0}).temperature == 3


def test_a_temperature_holds_for_a_router_with_other_options(package):
    _, path = package(route={**RECORDED, "similarity": "mahalanobis", "temperature": 7.0})
    given = {"similarity": "mahalanobis,shrinkage=0.5"}
    assert route_options(members_of(path), given).temperature == 7


@pytest.mark.parametrize("similarity", ["l2", "mahalanobis", "auto"])
def test_the_same_adapters_go_by_features_once_they_have_distributions(package, tasks, similarity):
    base, path = package()
    for name in ("first", "second"):
        give_distribution(path / name, base, load_task(str(tasks[name])).train, data=name, second="diag")
    made = dispatcher(members_of(path), similarity=similarity)
    assert len(made.guide.sites) == 4
    assert made.routing.similarity == ("l2" if similarity == "l2" else "mahalanobis")
    options = EvalOptions(combine="route", similarity=similarity, device="cpu")
    by_features = evaluate(members_of(path), [load_task(str(tasks["third"]))], options)
    assert by_features.rows[-1].scores["third"].total == 9


def test_inputs_may_abstain(package, tasks):
    _, path = package()
    members = members_of(path)
    options = RouteOptions(similarity="task-vector", abstain=0.25)
    heard = Signals()
    made = Dispatcher(members, options, RouteSettings(device="cpu"), heard)
    known = calibration_tasks(members, options, [str(tasks["first"]), str(tasks["second"])])
    made.start(known)
    assert heard.notes[-1].endswith(f"25 % of {sum(len(task.dev) for task in known)} dev rows")
    assert -1 < made.routing.threshold < 1
    (far,) = made.decide(rows("}{" * 40))
    assert far.chosen == [None]


def test_what_an_adapter_knows_needs_no_distribution(package):
    _, path = package(first="mnli")
    assert tasks_known(members_of(path)[0]) == ["first", "mnli"]


def test_inputs_are_cut_as_the_longest_trainings_were(package):
    base, path = package()
    manifest = json.loads((path / "second" / "clora.json").read_text())
    manifest["training"]["max_length"] = 7
    (path / "second" / "clora.json").write_text(json.dumps(manifest))
    guide = Guide(base.reference, members_of(path), VECTOR, backbone=base)
    assert guide.record.raw["max_length"] == 128
    with refused("prompt-too-long", "--max-length"):
        list(dispatcher(members_of(path)[1:]).decide(_long()))


def _long():
    from clora_cli.data import Example
    from clora_cli.routing.inputs import Input

    return [Input(Example("so " * 60, "body", "", ()), {}, "x, line 9")]


def test_an_adapter_without_a_vector_is_named_with_ways_out(package, tmp_path, tasks):
    base, path = package()
    write_routable(tmp_path / "others", base, [str(tasks["third"])], rows=8)
    members = read_package([path, tmp_path / "others"])
    with refused(
        "task-vector-missing", tmp_path / "others" / "third", "--method cast", "clora stat-features", "--similarity"
    ):
        Guide(base.reference, members, VECTOR)


def test_a_vector_without_a_manifest_tells_not_how_inputs_are_cut(package):
    base, path = package()
    (path / "first" / "clora.json").unlink()
    config = json.loads((path / "first" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base.reference.id
    (path / "first" / "adapter_config.json").write_text(json.dumps(config))
    with refused("prompt-length-not-recorded", path / "first", "training.max_length"):
        Guide(base.reference, [read_adapter(path / "first")], VECTOR)


def test_another_base_model_is_refused(package, backbone):
    _, path = package()
    with refused("trained-on-other-base-model", backbone("llama", 1).reference.id):
        Guide(backbone("llama", 1).reference, members_of(path), VECTOR)


def test_vectors_of_two_lengths_are_refused(package, tmp_path):
    from safetensors.torch import load_file, save_file

    base, path = package()
    state = load_file(path / "second" / "state.clora")
    shutil.copytree(path / "second", tmp_path / "odd")
    save_file({**state, "task_vector": torch.ones(5)}, tmp_path / "odd" / "state.clora")
    odd = AdapterFolder(tmp_path / "odd", *_settings(read_adapter(path / "second")))
    with refused("task-vectors-differ", 32, 5, path / "first", tmp_path / "odd"):
        Guide(base.reference, [members_of(path)[0], odd], VECTOR)


def _settings(member):
    return member.config, member.manifest


def test_auto_names_the_way_that_is_open(package):
    base, path = package()
    with refused("feature-distribution-missing", path / "first", "--similarity task-vector"):
        Guide(base.reference, members_of(path), RouteOptions())


@pytest.mark.parametrize(
    ("chosen", "flag"), [({"layer": "last"}, "--route-layer"), ({"module": "q"}, "--route-module")]
)
def test_layers_do_not_decide_by_task_vectors(chosen, flag):
    with refused("option-has-no-effect", flag, "task-vector"):
        RouteOptions(similarity="task-vector", **chosen)


def test_the_model_holds_one_lora_and_nothing_is_kept_beside_it(package, tasks):
    base, path = package()
    members = members_of(path)
    bank = AdapterBank(base.model)
    routed = RoutedAdapters(bank, Guide(base.reference, members, VECTOR, backbone=base), members)
    task = load_task(str(tasks["third"]))
    prompts = Prompts.encode(base, task, task.test, 64, 4)
    generate(prompts, 2, lambda rows: None, routed.gates(prompts.examples, 2))
    one = sum(f.a.nbytes + f.b.nbytes + f.b.numel() for f in members[0].factors().values())
    assert bank.nbytes == one
    assert routed._mixed._deltas == {}
