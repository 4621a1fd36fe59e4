from __future__ import annotations

import json

import pytest
from refusals import refused
from safetensors.torch import load_file, save_file
from support import Signals, write_random_adapter

from clora_cli.base.errors import OptionError
from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.evaluation.combine import active
from clora_cli.options import EvalOptions
from clora_cli.store.package import read_package


@pytest.fixture
def package(tmp_path, backbone):
    base = backbone("llama")
    for stage, task in enumerate(("first", "second"), start=1):
        write_random_adapter(tmp_path / "adapters" / task, base, stage=stage, alpha=8)
    return read_package([tmp_path / "adapters"])


@pytest.fixture
def loaded(tasks):
    return [load_task(str(tasks[name])) for name in ("first", "second", "third")]


def names(members):
    return [member.task for member in members]


def test_combinations_choose_their_adapters(package):
    assert names(active(package, "sum", "second")) == ["first", "second"]
    assert names(active(package, "last", "first")) == ["second"]
    assert names(active(package, "task-id", "first")) == ["first"]
    assert names(active(package, "task-id", "third")) == []
    assert names(active(package, "none", "first")) == []
    assert names(active([], "last", "first")) == []


@pytest.fixture
def activated(monkeypatch):
    """Record which adapters are active whenever a task is scored."""
    from clora_cli.model.bank import AdapterBank

    seen = []
    real = AdapterBank.activate

    def activate(self, adapters, **options):
        seen.append(len(adapters))
        real(self, adapters, **options)

    monkeypatch.setattr(AdapterBank, "activate", activate)
    return seen


@pytest.mark.parametrize(
    ("combine", "counts"),
    [
        ("sum", [0, 1, 2]),
        ("last", [0, 1, 1]),
        ("task-id", [0, 1, 1]),
        ("none", [0]),
        ("magmax", [0, 1, 1]),
    ],
)
def test_the_matrix_has_a_row_a_stage_and_scores_nothing_twice(package, loaded, activated, combine, counts):
    scores = evaluate(package, loaded, EvalOptions(combine=combine, matrix=True, score="labels", device="cpu"))
    assert activated == counts
    assert [(row.stage, row.after, names(row.adapters)) for row in scores.rows] == [
        (0, "", []),
        (1, "first", ["first"]),
        (2, "second", ["first", "second"]),
    ]
    assert all(list(row.scores) == ["first", "second", "third"] for row in scores.rows)
    assert scores.order == ("first", "second")
    assert (scores.combine, scores.method, scores.score) == (combine, "inc-lora", "labels")
    base, last = scores.rows[0].scores, scores.rows[-1].scores
    if combine == "none":
        assert base == last


def test_a_matrix_may_leave_out_what_is_not_learned_yet(package, loaded):
    options = {"matrix": True, "score": "labels", "device": "cpu"}
    whole, seen = (evaluate(package, loaded, EvalOptions(seen=seen, **options)) for seen in (False, True))
    assert [(row.stage, list(row.scores)) for row in seen.rows] == [
        (1, ["first", "third"]),
        (2, list(whole.rows[2].scores)),
    ]
    assert all(row.scores.items() <= whole.rows[row.stage].scores.items() for row in seen.rows)
    with refused("option-missing", "--seen", "--matrix"):
        EvalOptions(seen=True)


def test_a_merge_scores_as_its_folder_does(package, loaded, tmp_path):
    from clora_cli.options import MergeOptions
    from clora_cli.transforming import merge_adapters, plan_merge

    merge_adapters(plan_merge(package, MergeOptions(out=tmp_path / "merged", strategy="magmax")))
    folder = read_package([tmp_path / "merged"])
    options = {"score": "labels", "device": "cpu"}
    one = evaluate(folder, loaded, EvalOptions(**options)).rows[-1]
    other = evaluate(package, loaded, EvalOptions(combine="magmax", **options)).rows[-1]
    assert one.scores == other.scores
    assert one.scores != evaluate(package, loaded, EvalOptions(combine="sum", **options)).rows[-1].scores


def test_without_a_matrix_there_is_the_last_row_alone(package, loaded):
    options = {"score": "labels", "device": "cpu"}
    whole = evaluate(package, loaded, EvalOptions(matrix=True, **options))
    last = evaluate(package, loaded, EvalOptions(**options))
    assert last.rows == whole.rows[-1:]
    assert last.combine == "sum"


def test_numbers_of_a_score(package, loaded):
    scores = evaluate(package, loaded[:1], EvalOptions(score="labels", test_rows=5, device="cpu"))
    score = scores.rows[0].scores["first"]
    assert (score.metric, score.total) == ("label-rank", 5)
    assert score.value == 100 * score.correct / 5
    generated = evaluate(package, loaded[:1], EvalOptions(device="cpu")).rows[0].scores["first"]
    assert (generated.metric, generated.total) == ("exact-match", 9)
    dev = evaluate(package, loaded[:1], EvalOptions(split="dev", device="cpu")).rows[0].scores["first"]
    assert dev.total == 4


def test_a_model_that_says_the_answers_is_right_everywhere(package, loaded, monkeypatch):
    from clora_cli.evaluation import bench

    monkeypatch.setattr(bench, "generate", lambda prompts, *_: [row.references[0] for row in prompts.examples])
    row = evaluate(package, loaded, EvalOptions(device="cpu")).rows[-1]
    assert [score.value for score in row.scores.values()] == [100.0] * 3
    monkeypatch.setattr(bench, "generate", lambda prompts, *_: [""] * len(prompts.examples))
    row = evaluate(package, loaded, EvalOptions(device="cpu")).rows[-1]
    assert [(score.value, score.empty) for score in row.scores.values()] == [(0.0, 9)] * 3


def test_open_ended_tasks_are_scored_by_rouge_l(tmp_path, package, monkeypatch):
    from clora_cli.evaluation import bench

    rows = [{"prompt": f"say {i} in words", "completion": f"number {i} it is"} for i in range(40)]
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = load_task(str(path), metric="rouge-l")
    lengths = []

    def half(prompts, length, done, before, cut):
        lengths.append(length)
        return [" ".join(row.references[0].split()[:2]) for row in prompts.examples]

    monkeypatch.setattr(bench, "generate", half)
    score = evaluate(package, [task], EvalOptions(max_new_tokens=11, device="cpu")).rows[0].scores["words"]
    assert lengths == [11]
    assert (score.metric, score.correct) == ("rouge-l", None)
    assert score.value == pytest.approx(100 * 2 / 3)
    with refused("task-has-no-labels", "'words'"):
        evaluate(package, [task], EvalOptions(score="labels", device="cpu"))


def test_the_base_model_alone(loaded, model_folder):
    options = EvalOptions(model=str(model_folder("llama")), score="labels", device="cpu")
    scores = evaluate([], loaded[:1], options)
    assert [(row.stage, row.after, row.adapters) for row in scores.rows] == [(0, "", ())]
    assert (scores.combine, scores.method) == ("none", "none")
    with refused("base-model-unknown", "--model"):
        evaluate([], loaded[:1], EvalOptions(device="cpu"))


def test_what_does_not_fit_is_refused(package, loaded, tmp_path, backbone, model_folder):
    with refused("trained-on-other-base-model", model_folder("llama", 1)):
        evaluate(package, loaded, EvalOptions(model=str(model_folder("llama", 1)), device="cpu"))
    with refused("task-given-twice", "'first'"):
        evaluate(package, [loaded[0], loaded[0]], EvalOptions(device="cpu"))
    with refused("option-missing", "--data"):
        evaluate(package, [], EvalOptions(device="cpu"))
    write_random_adapter(tmp_path / "more" / "third", backbone("llama"), stage=3, combine="task-id")
    mixed = read_package([tmp_path / "adapters", tmp_path / "more"])
    with refused("ways-to-combine-differ", "--combine sum|last|route|task-id|progressive|none"):
        evaluate(mixed, loaded, EvalOptions(device="cpu"))


def test_a_task_without_rows_in_a_split_is_told(package, tmp_path):
    rows = [{"prompt": f"say {i}", "completion": "yes"} for i in range(4)]
    (tmp_path / "few").mkdir()
    for split in ("train", "test"):
        (tmp_path / "few" / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    with refused("task-has-no-rows", "'few'", "dev"):
        evaluate(package, [load_task(str(tmp_path / "few"))], EvalOptions(split="dev", device="cpu"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("combine", "routed"),
        ("score", "best"),
        ("split", "train"),
        ("dtype", "int8"),
        ("batch_size", 0),
        ("max_length", 0),
        ("max_new_tokens", 0),
        ("test_rows", -1),
    ],
)
def test_values_out_of_range_are_refused_by_the_flag(name, value):
    code = "option-choice-unknown" if isinstance(value, str) else "option-out-of-range"
    with refused(code, f"--{name.replace('_', '-')} {value}", error=OptionError):
        EvalOptions(**{name: value})


def test_a_bare_peft_folder_is_evaluated_when_told_how(package, loaded, model_folder):
    bare = package[0]
    (bare.path / "clora.json").unlink()
    members = read_package([bare.path])
    options = {"model": str(model_folder("llama")), "score": "labels", "device": "cpu"}
    assert evaluate(members, loaded[:1], EvalOptions(combine="sum", **options)).rows[0].stage == 1


def _bare_without(adapter, layer):
    """Make an adapter folder another tool's, without the weights of a layer."""
    (adapter.path / "clora.json").unlink()
    file = adapter.path / "adapter_model.safetensors"
    save_file({key: one for key, one in load_file(file).items() if layer not in key}, file)
    return read_package([adapter.path])


def test_layers_that_a_peft_adapter_names_and_has_no_weights_for_are_told(package, loaded, model_folder):
    members, heard = _bare_without(package[0], "layers.1.self_attn.v_proj"), Signals()
    options = EvalOptions(model=str(model_folder("llama")), score="labels", device="cpu")
    evaluate(members, loaded[:1], options, progress=heard)
    (warning,) = heard.warnings
    assert str(members[0].path) in warning and "1 layers" in warning and "layers.1.self_attn.v_proj" in warning


@pytest.mark.parametrize(
    "choice", [{"layers_to_transform": [0]}, {"exclude_modules": ["model.layers.1.self_attn.v_proj"]}]
)
def test_layers_that_its_configuration_leaves_out_are_not(package, loaded, model_folder, choice):
    config = package[0].path / "adapter_config.json"
    endings = {"target_modules": ["q_proj", "v_proj"]}
    config.write_text(json.dumps(json.loads(config.read_text()) | endings | choice))
    layer = "layers.1." if "layers_to_transform" in choice else "layers.1.self_attn.v_proj"
    members, heard = _bare_without(package[0], layer), Signals()
    options = EvalOptions(model=str(model_folder("llama")), score="labels", device="cpu")
    evaluate(members, loaded[:1], options, progress=heard)
    assert heard.warnings == []
