"""EasyCL's benchmarks: a data set for each split, labels beside them, orders of tasks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from refusals import refused

from clora_cli.data import load_task
from clora_cli.data.registry_names import entry_of, order_of
from clora_cli.recipes import read_recipe
from clora_cli.recipes.planning import missing_inputs
from clora_cli.recipes.steps import units_of

LABELS = {"SST-2": ["Good", "Bad"], "yahoo": ["Health", "Sports"]}


@pytest.fixture
def benchmark(tmp_path):
    """A folder as EasyCL lays its benchmarks out."""
    folder, registry = tmp_path / "benchmark" / "LNT", {}
    for task, labels in LABELS.items():
        (folder / task).mkdir(parents=True)
        for split, count in (("train", 6), ("dev", 2), ("test", 4)):
            rows = [
                {"instruction": "Choose.", "input": f"{task} {split} {number}", "output": labels[number % 2]}
                for number in range(count)
            ]
            (folder / task / f"{task}_{split}.json").write_text(json.dumps(rows), encoding="utf-8")
            name = task if split == "train" else f"{task}_{split}"
            registry[name] = {"file_name": f"{task}/{task}_{split}.json", "formatting": "alpaca", "split": split}
    orders = {"order1": ["SST-2", "yahoo"], "order2": ["yahoo", "SST-2"]}
    files = {
        folder / "dataset_info.json": registry,
        folder / "benchmark_info.json": {"LNT": {"description": "many tasks", "orders": orders}},
        folder.parent / "dataset_options.json": {task: {"options": labels} for task, labels in LABELS.items()},
    }
    for path, content in files.items():
        path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_training_set_goes_by_its_tasks_name_too(tmp_path):
    rows = [{"instruction": f"is {i} even?", "output": str(i % 2 == 0)} for i in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"even_train": {"file_name": "rows.json"}, "other": {"file_name": "rows.json"}})
    )
    assert entry_of(tmp_path / "even") == entry_of(tmp_path / "even_train") != entry_of(tmp_path / "other")
    assert entry_of(tmp_path / "eve") is None


def test_a_data_set_has_its_splits_and_labels(benchmark):
    task = load_task(str(benchmark / "SST-2"))
    assert (task.name, len(task.train), len(task.dev), len(task.test)) == ("sst2", 6, 2, 4)
    assert (task.labels, task.metric) == (("Good", "Bad"), "exact-match")
    assert "SST-2 test 0" in task.test[0].prompt and "SST-2 train 0" in task.train[0].prompt
    assert not any("split" in note and "not read" in note for note in task.notes)
    assert "test is 'SST-2_test' of dataset_info.json" in task.notes


def test_an_order_is_named_below_its_folder(benchmark):
    assert order_of(benchmark / "order2") == (str(benchmark / "yahoo"), str(benchmark / "SST-2"))
    recipe = read_recipe(f"tasks: {benchmark}/order1\nmethods: [seq-lora]\n", "r.yaml")
    assert recipe.tasks == (str(benchmark / "SST-2"), str(benchmark / "yahoo"))
    with refused("unknown-name", "order3", f"give one of {benchmark}/order1, {benchmark}/order2 or a list"):
        read_recipe(f"tasks: {benchmark}/order3\nmethods: [seq-lora]\n", "r.yaml")
    assert order_of(benchmark / "SST-2" / "order1") is None
    with refused("unknown-name"):
        read_recipe(f"tasks: {'x' * 300}/order1\nmethods: [seq-lora]\n", "r.yaml")


def test_one_data_set_with_its_splits_is_the_folder_s_only_one(benchmark):
    registry = json.loads((benchmark / "dataset_info.json").read_text())
    kept = {name: entry for name, entry in registry.items() if name.startswith("SST-2")}
    (benchmark / "dataset_info.json").write_text(json.dumps(kept), encoding="utf-8")
    assert load_task(str(benchmark)).name == "sst2"


def test_files_of_a_folder_without_registry_are_splits_by_their_endings(benchmark):
    (benchmark / "dataset_info.json").unlink()
    task = load_task(str(benchmark / "yahoo"))
    assert (len(task.train), len(task.dev), len(task.test)) == (6, 2, 4)


def test_a_dry_run_of_an_order_misses_no_task_that_its_registry_has(benchmark):
    recipe = read_recipe(f"model: clora-nano\ntasks: {benchmark}/order1\nmethods: [seq-lora]\n", "r.yaml")
    assert missing_inputs(units_of(recipe)) == []
    (missing,) = missing_inputs(units_of(replace(recipe, tasks=(f"{benchmark}/gone",))))
    assert "dataset_info.json has no data set of that name" in missing


def test_orders_in_two_benchmarks_are_refused(benchmark):
    path = benchmark / "benchmark_info.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"other": content["LNT"]}), encoding="utf-8")
    with refused("order-ambiguous", "order1"):
        order_of(benchmark / "order1")


def described(folder, **entry):
    """A folder whose registry has one data set, and rows to go with it."""
    rows = [{"instruction": "Choose.", "input": f"row {number}", "output": "ab"[number % 2]} for number in range(9)]
    (folder / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    registry = {"a": {"file_name": "a.json", **entry}}
    (folder / "dataset_info.json").write_text(json.dumps(registry), encoding="utf-8")
    return str(folder / "a")


@pytest.mark.parametrize("name", ["../rows.json", "/ABSOLUTE/rows.json", "sub/../../rows.json", "", "."])
def test_a_registry_names_no_files_but_those_below_its_folder(name, tmp_path):
    folder = tmp_path / "registry"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "rows.json").write_text('[{"prompt": "p", "answer": "a"}]', encoding="utf-8")
    with refused("registry-file-elsewhere", "'a'", "below the registry's folder"):
        load_task(described(folder, file_name=name.replace("/ABSOLUTE", str(tmp_path))))


@pytest.mark.parametrize("tags", [["x"], "x", {"role_tag": 3}, {"role_tag": ["x"]}])
def test_tags_that_are_no_names_are_refused(tags, tmp_path):
    with refused("registry-columns-malformed", "tags"):
        load_task(described(tmp_path, formatting="sharegpt", columns={"messages": "instruction"}, tags=tags))


@pytest.mark.parametrize("tag", ["role_tag", "content_tag"])
def test_tags_that_no_turn_has_are_refused_with_those_that_there_are(tag, tmp_path):
    tags = {"role_tag": "role", "content_tag": "content"} | {tag: "nosuch"}
    place = described(tmp_path, formatting="sharegpt", columns={"messages": "messages"}, tags=tags)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]
    (tmp_path / "a.json").write_text(json.dumps([{"messages": turns}]), encoding="utf-8")
    with refused("column-missing", tag, "'nosuch'", "content, role"):
        load_task(place)


def test_a_format_that_is_not_known_is_refused_and_openai_is_read_as_conversations(tmp_path):
    with refused("registry-malformed", "'banana'"):
        load_task(described(tmp_path, formatting="banana"))
    place = described(
        tmp_path,
        formatting="openai",
        columns={"messages": "messages"},
        tags={"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    )
    turns = [[{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "yes"}] for n in range(9)]
    (tmp_path / "a.json").write_text(json.dumps([{"messages": each} for each in turns]), encoding="utf-8")
    assert load_task(place).test[0].references == ("yes",)


def test_a_registry_that_cannot_be_read_says_so_where_a_data_set_is_named(tmp_path):
    place = described(tmp_path)
    (tmp_path / "dataset_info.json").write_text('{"a": ', encoding="utf-8")
    with refused("json-malformed", "dataset_info.json"):
        load_task(place)


@pytest.mark.parametrize("order", [[], "SST-2", [1], ["SST-2", ""], ["../SST-2"], ["/etc"], ["."]])
def test_an_order_that_is_no_list_of_names_is_refused(order, benchmark):
    content = {"LNT": {"orders": {"order1": order}}}
    (benchmark / "benchmark_info.json").write_text(json.dumps(content), encoding="utf-8")
    with refused("order-malformed", "order1"):
        order_of(benchmark / "order1")


def test_an_order_names_data_sets_that_are_here_each_once_and_stands_alone(benchmark):
    orders = {"gone": ["SST-2", "yaho"], "twice": ["SST-2", "yahoo", "SST-2"], "order1": ["yahoo"]}
    (benchmark / "benchmark_info.json").write_text(json.dumps({"LNT": {"orders": orders}}), encoding="utf-8")
    with refused("order-malformed", "'gone'", "'yaho'", "did you mean 'yahoo'"):
        read_recipe(f"tasks: {benchmark}/gone\nmethods: [seq-lora]\n", "r.yaml")
    with refused("task-given-twice", f"{benchmark}/SST-2"):
        read_recipe(f"tasks: {benchmark}/twice\nmethods: [seq-lora]\n", "r.yaml")
    with refused("unknown-name", f"tasks: {benchmark}/order1"):
        read_recipe(f"tasks: [{benchmark}/order1]\nmethods: [seq-lora]\n", "r.yaml")


def test_a_split_that_is_listed_and_not_here_is_told(benchmark):
    (benchmark / "yahoo" / "yahoo_test.json").unlink()
    task = load_task(str(benchmark / "yahoo"))
    assert "'yahoo_test' of dataset_info.json is not used: its rows are not in this folder" in task.notes


def other_split(folder, rows, **entry):
    """The folder of :func:`described` with a test set of its own."""
    (folder / "t.json").write_text(json.dumps(rows), encoding="utf-8")
    registry = json.loads((folder / "dataset_info.json").read_text())
    registry["a_test"] = {"file_name": "t.json", **entry}
    (folder / "dataset_info.json").write_text(json.dumps(registry), encoding="utf-8")


def test_another_split_is_read_by_its_own_columns(tmp_path):
    place = described(tmp_path)
    rows = [{"asked": f"test {number}", "output": "not this", "said": "b"} for number in range(4)]
    other_split(tmp_path, rows, columns={"prompt": "asked", "response": "said"})
    task = load_task(place)
    assert [(row.references, "test 0" in row.prompt) for row in task.test[:1]] == [(("b",), True)]
    assert len(task.test) == 4


def test_splits_of_two_formattings_are_refused(tmp_path):
    place = described(tmp_path)
    other_split(tmp_path, [{"conversations": []}], formatting="sharegpt")
    with refused("registry-malformed", "'a'", "'a_test'", "formatting"):
        load_task(place)


def test_of_two_data_sets_for_a_split_the_unused_one_is_told(benchmark):
    registry = json.loads((benchmark / "dataset_info.json").read_text())
    registry["yahoo_val"] = registry["yahoo_dev"]
    (benchmark / "dataset_info.json").write_text(json.dumps(registry), encoding="utf-8")
    assert (
        "'yahoo_val' of dataset_info.json is not used: dev is 'yahoo_dev'" in load_task(str(benchmark / "yahoo")).notes
    )


@pytest.mark.parametrize("columns", [{"query": None, "history": ""}, {"prompt": "instruction", "system": None}])
def test_a_column_without_a_name_is_none(columns, tmp_path):
    assert "row" in load_task(described(tmp_path, columns=columns)).train[0].prompt


@pytest.mark.parametrize("columns", [{"system": "nosuch"}, {"promt": "instruction"}])
def test_named_columns_that_are_not_used_are_told(columns, tmp_path):
    ((role, column),) = columns.items()
    notes = load_task(described(tmp_path, columns=columns)).notes
    assert any(f"{role} {column}" in note for note in notes)


def test_a_ranking_without_chosen_answers_is_refused(tmp_path):
    with refused("column-missing", "'a'", "chosen"):
        load_task(described(tmp_path, ranking=True))


@pytest.mark.parametrize("options", ["a,b", [["a"], "b"], {"a": 1}, None])
def test_options_that_are_no_list_of_labels_are_refused(options, tmp_path):
    place = described(tmp_path)
    (tmp_path / "dataset_options.json").write_text(json.dumps({"a": {"options": options}}), encoding="utf-8")
    with refused("registry-malformed", "dataset_options.json", "'a'"):
        load_task(place)


def test_a_folder_as_file_name_is_one_data_set_and_has_rows(tmp_path):
    place = described(tmp_path, file_name="rows")
    (tmp_path / "rows" / "deeper").mkdir(parents=True)
    with refused("folder-without-splits", "'a'", "rows"):
        load_task(place)
    for name in ("train", "test"):
        (tmp_path / "rows" / f"{name}.json").write_bytes((tmp_path / "a.json").read_bytes())
    task = load_task(place)
    assert len(task.train) + len(task.dev) + len(task.test) == 18
    assert "'rows' is one data set: test.json, train.json" in task.notes


def test_a_name_that_a_registry_lacks_is_refused_with_those_that_it_has(tmp_path):
    with refused("data-not-found", "aa", "dataset_info.json names a; did you mean 'a'"):
        load_task(f"{described(tmp_path)}a")
