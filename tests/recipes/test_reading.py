from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refused

from clora_cli.base.errors import OptionError
from clora_cli.recipes import read_recipe, read_recipe_file, to_yaml
from clora_cli.recipes.planning import train_options
from clora_cli.recipes.recipe import folder_name, resolved_model, unset_variable
from clora_cli.recipes.settings import EachTask
from clora_cli.recipes.steps import units_of


def test_a_recipe_with_values_for_each_task(recipe):
    assert (recipe.name, recipe.tasks, recipe.seeds, recipe.out) == (
        "small",
        ("yes-no", "inference"),
        (1, 2),
        Path("runs/small"),
    )
    first, second = recipe.methods
    assert (first.label, second.label, second.method) == ("seq-lora", "sparse", "n-lora")
    assert first.train == second.train == {"lr": 0.001, "epochs": EachTask((1.0, 2.0))}
    assert [second.option_texts(stage) for stage in (1, 2)] == [{"strength": "0.4"}, {"strength": "0.1"}]


def test_what_is_written_reads_back_as_the_same(recipe, text):
    assert read_recipe(to_yaml(recipe), "again") == recipe
    rich = text.replace("seeds:", "stat-features: {limit: 5}\neval: {unseen: true, similarity: l2, top-k: 2}\nseeds:")
    rich = read_recipe(rich + "about: 'one: line'\nout: some where\nrevision: main\n", "rich")
    assert read_recipe(to_yaml(rich), "again") == rich


def test_a_method_overrides_what_all_share():
    text = (
        "tasks: order1\ntrain: {lr: 0.1, max-length: 64, dtype: bfloat16}\neval: {test-rows: 9, unseen: true}\n"
        "stat-features: {limit: 7}\n"
        "methods:\n  - {method: o-lora, train: {lr: 0.2}, eval: {max-length: 32, unseen: false}, stat-features: false}\n  - pfd\n"
    )
    own, shared = read_recipe(text, "x").methods
    assert own.train == {"lr": 0.2, "max-length": 64, "dtype": "bfloat16"}
    assert own.eval == {"max-length": 32, "dtype": "bfloat16", "test-rows": 9}
    assert (own.unseen, own.features) == (False, None)
    assert shared.eval == {"max-length": 64, "dtype": "bfloat16", "test-rows": 9}
    assert (shared.unseen, shared.features) == (True, {"max-length": 64, "dtype": "bfloat16", "limit": 7})


HEAD = "tasks: [yes-no, inference]\nmethods:\n"


@pytest.mark.parametrize(
    ("text", "code", "names"),
    [
        ("methods: [seq-lora]", "recipe-lacks-key", ["r.yaml:1", "'tasks'"]),
        ("tasks: order1", "recipe-lacks-key", ["r.yaml:1", "'methods'"]),
        ("tasks: order1\nmetods: [seq-lora]", "unknown-name", ["r.yaml:2", "'metods'", "'methods'"]),
        ("tasks: ordr1\nmethods: [seq-lora]", "unknown-name", ["r.yaml:1", "'ordr1'", "'order1'"]),
        ("methods: [seq-lora]\ntasks:\n - mnli\n - yes-noo", "unknown-name", ["r.yaml:4", "'yes-noo'", "'yes-no'"]),
        ("methods: [seq-lora]\ntasks:\n - mnli\n - NLI/MNLI", "task-given-twice", ["r.yaml:4", "'NLI/MNLI'"]),
        ("tasks: []\nmethods: [seq-lora]", "recipe-list-empty", ["r.yaml:1", "tasks"]),
        ("tasks: order1\nmethods: []", "recipe-list-empty", ["r.yaml:2", "methods"]),
        ("tasks: order1\nmethods: [seq-lora, seq-lora]", "method-label-given-twice", ["r.yaml:2", "'seq-lora'"]),
        (HEAD + " - seq-lorra", "unknown-name", ["r.yaml:3", "'seq-lorra'", "'seq-lora'"]),
        (HEAD + " - n-lora+o-lorra", "unknown-name", ["r.yaml:3", "'o-lorra'", "'o-lora'"]),
        (HEAD + " - label: x", "recipe-lacks-key", ["r.yaml:3", "'method'"]),
        (HEAD + " - {method: n-lora, label: a/b}", "name-unfit-for-folder", ["r.yaml:3", "'a/b'"]),
        (HEAD + " - method: n-lora\n   option:\n     strenght: 1", "unknown-name", ["r.yaml:5", "'strenght'"]),
        (HEAD + " - method: n-lora\n   option:\n     strength: much", "option-malformed", ["r.yaml:5", "strength=much"]),
        (HEAD + " - method: n-lora\n   option:\n     strength: [1, 2, 3]", "recipe-value-count-differs", ["r.yaml:5", "3 values"]),
        (HEAD + " - method: n-lora\n   option:\n     strength: [1, -2]", "option-out-of-range", ["r.yaml:5", "strength=-2.0"]),
        (HEAD + " - seq-lora\ntrain:\n  lrr: 1", "unknown-name", ["r.yaml:5", "'lrr'", "'lr'"]),
        (HEAD + " - seq-lora\ntrain:\n  method: x", "unknown-name", ["r.yaml:5", "'method'"]),
        (HEAD + " - seq-lora\ntrain:\n  lr: fast", "recipe-value-malformed", ["r.yaml:5", "lr", "'fast'"]),
        (HEAD + " - seq-lora\ntrain:\n  lr: 0", "option-out-of-range", ["r.yaml:5", "--lr 0.0"]),
        (HEAD + " - seq-lora\ntrain:\n  rank: 2.5", "recipe-value-malformed", ["r.yaml:5", "rank"]),
        (HEAD + " - seq-lora\ntrain:\n  epochs: [1, 0]", "option-out-of-range", ["r.yaml:5", "--epochs 0.0"]),
        (HEAD + " - seq-lora\ntrain:\n  epochs: [1]", "recipe-value-count-differs", ["r.yaml:5", "epochs", "1 values", "2 tasks"]),
        (HEAD + " - seq-lora\ntrain:\n  dtype: float64", "option-choice-unknown", ["r.yaml:5", "--dtype float64"]),
        (HEAD + " - seq-lora\neval:\n  test-rows: [1, 2]", "recipe-value-malformed", ["r.yaml:5", "test-rows"]),
        (HEAD + " - seq-lora\neval:\n  unsen: true", "unknown-name", ["r.yaml:5", "'unsen'", "'unseen'"]),
        (HEAD + " - seq-lora\neval:\n  unseen: 1", "recipe-value-malformed", ["r.yaml:5", "unseen"]),
        (HEAD + " - seq-lora\neval:\n  combine: sums", "option-choice-unknown", ["r.yaml:5", "--combine sums"]),
        (HEAD + " - seq-lora\neval:\n  top-k: x", "recipe-value-malformed", ["r.yaml:5", "top-k"]),
        (HEAD + " - seq-lora\neval:\n  similarity: l3", "unknown-name", ["r.yaml:5", "'l3'"]),
        (HEAD + " - seq-lora\nstat-features:\n  pool: max", "option-choice-unknown", ["r.yaml:5", "--pool max"]),
        (HEAD + " - seq-lora\nseeds: [1, 1]", "option-given-twice", ["r.yaml:4", "seeds"]),
        (HEAD + " - seq-lora\nseeds: x", "recipe-value-malformed", ["r.yaml:4", "seed"]),
        (HEAD + " - seq-lora\nname: a b", "name-unfit-for-folder", ["r.yaml:4", "'a b'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_and_line(text, code, names):
    with refused(code, *names, error=OptionError) as info:
        read_recipe(text, "r.yaml")
    assert str(info.value).startswith(names[0])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (" - seq-lora+o-lora", ["r.yaml:3: ", "--method seq-lora+o-lora"]),
        (" - method: n-lora\n   option: {strength: 1, raw-strength: 1}", ["r.yaml:4: ", "strength", "raw_strength"]),
    ],
)
def test_what_a_method_refuses_is_told_with_file_and_line(text, names):
    with pytest.raises(OptionError) as info:
        read_recipe(HEAD + text, "r.yaml")
    assert all(name in str(info.value) for name in names)


def test_two_settings_that_exclude_each_other():
    with refused("option-has-no-effect", "r.yaml:3", "--combine sum", "--top-k"):
        read_recipe(HEAD + " - {method: inc-lora, eval: {combine: sum, top-k: 2}}", "r.yaml")


def test_a_list_that_is_one_value_and_a_list_of_lists():
    text = HEAD + " - {method: seq-lora, train: {target-modules: %s}}"
    (method,) = read_recipe(text % "[q_proj, v_proj]", "x").methods
    assert method.train["target-modules"] == ("q_proj", "v_proj")
    (method,) = read_recipe(text % "[[q_proj], [q_proj, v_proj]]", "x").methods
    assert method.train["target-modules"] == EachTask((("q_proj",), ("q_proj", "v_proj")))


def test_the_model_may_be_a_variable(monkeypatch):
    recipe = read_recipe(HEAD + " - seq-lora\nmodel: ${CLORA_MODEL}", "x")
    assert resolved_model(recipe) == "${CLORA_MODEL}"
    assert unset_variable(resolved_model(recipe)) == "CLORA_MODEL"
    monkeypatch.setenv("CLORA_MODEL", "some/model")
    assert resolved_model(recipe) == "some/model"
    assert unset_variable("some/model") == ""
    assert read_recipe(HEAD + " - seq-lora", "x").model == "some/model"


def test_a_file_gives_the_recipe_its_name(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text.removeprefix("name: small\n"), encoding="utf-8")
    assert (read_recipe_file(path).name, read_recipe_file(path).out) == ("mine", Path("runs/mine"))
    with refused("path-unreadable", tmp_path / "none.yaml"):
        read_recipe_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("NLI/MNLI", "mnli"),
        ("task1572_samsum_summary", "task1572"),
        ("yes-no", "yes-no"),
        ("data/My Reviews.csv", "my-reviews"),
        ("somewhere/folder.v2", "folder.v2"),
        ("owner/set:part", "set"),
    ],
)
def test_the_folder_of_a_task_has_the_name_that_its_data_give_it(task, name):
    assert folder_name(task) == name


def test_names_of_folders_are_those_of_loaded_tasks(tasks):
    from clora_cli.data import load_task

    for path in [*tasks.values(), tasks["first"] / "train.jsonl"]:
        assert folder_name(str(path)) == load_task(str(path)).name


def test_nproc_auto_stays_a_word_until_a_command_takes_it(text, monkeypatch):
    recipe = read_recipe(text.replace("train: {", "train: {nproc: auto, "), "small.yaml")
    assert read_recipe(to_yaml(recipe), "again.yaml") == recipe
    for step in units_of(recipe)[0].steps[::2]:
        assert step.words[step.words.index("--nproc") + 1] == "auto"
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 3)
    assert train_options(units_of(recipe)[0], 1).nproc == 3
    with refused("option-out-of-range", "small.yaml:", "--nproc all"):
        read_recipe(text.replace("train: {", "train: {nproc: all, "), "small.yaml")
