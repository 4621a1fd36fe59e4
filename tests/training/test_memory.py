"""Rows of earlier tasks that are trained on again: which, that they are, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from support import Signals, contents, continued, run_of, trainer_for, write_random_adapter, write_task

from clora_cli.data import load_task
from clora_cli.data.made_rows import MadeRow, to_lines
from clora_cli.methods import Memory
from clora_cli.training import describe, make_plan, train_task
from clora_cli.training.build import build
from clora_cli.training.fit import encoded_rows
from clora_cli.training.memory import read_memory

FEW = {"method": "replay", "method_options": {"rows": "5"}, "max_steps": 1}


@pytest.fixture
def learn(plan_for):
    """Train tasks with a memory, one after another, and return the last one's folder."""

    def run(*names, **chosen):
        for name in names:
            folder, _ = train_task(plan_for(name, **{**FEW, **chosen}), progress=Signals())
        return folder

    return run


def remembered(plan):
    return {rows.task.name: list(rows.examples) for rows in plan.memory}


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_rows_of_earlier_tasks_are_in_the_batches(learn, plan_for, tasks, family):
    learn("first", "second", family=family)
    plan = plan_for("third", family=family, method="replay", epochs=1, max_steps=0)
    built = build(plan)
    items = encoded_rows(plan, built)
    old = [row for name in ("first", "second") for row in load_task(str(tasks[name])).train]
    assert [len(items), plan.remembered, plan.steps] == [72, 48, 18]
    for item, row in zip(items, [*plan.rows, *old], strict=True):
        text = built.backbone.tokenizer.decode(item["input_ids"], skip_special_tokens=True)
        assert " ".join(row.body.split()) in " ".join(text.split())
    seen = [int(row) for batch in trainer_for(plan, built).get_train_dataloader() for row in batch["row"]]
    assert sorted(seen) == list(range(72))
    assert any(row >= 24 for row in seen[:8]) and any(row < 24 for row in seen[-8:])  # mixed, not one after the other


def test_the_memory_of_a_task_stays_the_same(learn, plan_for, tasks):
    learn("first")
    early = remembered(plan_for("second", **FEW))
    learn("second")
    late = remembered(plan_for("third", **FEW, seed=7))  # drawn by what the task itself was trained with
    assert early["first"] == late["first"]
    assert [len(rows) for rows in late.values()] == [5, 5]
    known = load_task(str(tasks["first"])).train
    assert set(late["first"]) < set(known)
    assert remembered(plan_for("second", method="replay", package="none")) == {}


@pytest.mark.parametrize(("options", "rows"), [({"share": "0.1"}, 3), ({"rows": "0"}, 24), ({"rows": "99"}, 24)])
def test_how_many(learn, plan_for, options, rows):
    learn("first")
    assert len(remembered(plan_for("second", method="replay", method_options=options))["first"]) == rows


def test_only_rows_that_were_trained_on_are_remembered(learn, plan_for):
    learn("first", train_rows=7)
    trained = plan_for("first", **FEW, train_rows=7).rows
    assert remembered(plan_for("second", method="mtl"))["first"] == list(trained)
    assert set(remembered(plan_for("second", **FEW))["first"]) < set(trained)


def test_mtl_starts_afresh_on_everything(learn, plan_for):
    for name in ("first", "second"):
        learn(name, method="mtl", method_options={}, lr=1e-12)
    plan = plan_for("third", method="mtl", lr=1e-12, max_steps=1)
    assert plan.parents == ()
    assert {name: len(rows) for name, rows in remembered(plan).items()} == {"first": 24, "second": 24}
    folder, _ = train_task(plan)
    assert all(float(factor.b.abs().max()) < 1e-9 for factor in folder.factors().values())


def test_the_first_task_is_seq_lora_s(plan_for):
    digests = {train_task(plan_for(method=method, package=method))[0].digest for method in ("replay", "seq-lora")}
    assert len(digests) == 1


def test_the_recipe_says_what_was_remembered(learn, plan_for):
    learn("first", train_rows=7)
    folder = learn("second")
    (entry,) = folder.manifest.raw["data"]["memory"]
    fingerprint = plan_for("first", **FEW, train_rows=7).task.fingerprint
    expected = {
        "name": "first",
        "split": "train",
        "rows": 5,
        "limit": 5,
        "seed": 42,
        "of": 7,
        "fingerprint": fingerprint,
    }
    assert entry == expected
    assert folder.manifest.raw["data"]["train_rows"] == 24
    assert plan_for("second", **FEW).finished() is not None
    assert describe(plan_for("third", **FEW)).data()["remembered_rows"] == 10
    assert "replay  5 rows of first, 5 rows of second" in describe(plan_for("third", **FEW)).text()


def test_a_run_tells_the_task_s_own_rows_from_the_memory_s(learn, plan_for):
    learn("first")
    plan = plan_for("second", method="replay", max_steps=0, epochs=1)
    built = build(plan)
    run = run_of(plan, built)
    assert sorted(row for step in run.batches for row in step) == list(range(24))
    assert len(run.batches) == plan.steps == 12
    assert list(run.memory) == list(range(24, 24 + plan.remembered))


def test_rows_that_changed_are_refused(plan_for, model_folder, tmp_path):
    from support import options_for

    def plan(data, **chosen):
        return make_plan(options_for(model_folder("llama"), data, tmp_path / "adapters", **FEW, **chosen))

    old, new = write_task(tmp_path / "old", 5), write_task(tmp_path / "new", 6)
    train_task(plan(old))
    with (old / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "one more", "label": "great"}) + "\n")
    with refused("recorded-data-changed", "--method replay", "'old'"):
        plan(new)
    (old / "train.jsonl").unlink()
    (old / "test.jsonl").unlink()
    (old / "dev.jsonl").unlink()
    with refused("recorded-data-missing", "--method replay", "'old'"):
        plan(new)


def test_an_adapter_that_does_not_name_its_rows_is_refused(plan_for, backbone, tmp_path):
    merged = {"data": {"name": "second", "merged": ["a", "b"]}}
    write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1, manifest=merged)
    with refused("earlier-rows-unknown", tmp_path / "adapters" / "second"):
        plan_for(**FEW)


def test_rows_of_a_conversation_keep_their_template(learn, plan_for, tmp_path, model_folder):
    from support import options_for

    learn("first")
    path = tmp_path / "talk.jsonl"
    turns = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": str(n)}]}
        for n in range(9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in turns), encoding="utf-8")
    plan = make_plan(options_for(model_folder("llama"), path, tmp_path / "adapters", **FEW))
    built = build(plan)
    built.backbone.tokenizer.chat_template = (
        "{% for m in messages %}<<{{ m['role'] }}>> {{ m['content'] }}\n{% endfor %}"
    )
    texts = [built.backbone.tokenizer.decode(item["input_ids"]) for item in encoded_rows(plan, built)]
    assert [("<<user>>" in text) for text in texts] == [True] * len(plan.rows) + [False] * 5


def test_an_interrupted_run_continues_to_the_same_bytes(learn, plan_for):
    chosen = {**FEW, "max_steps": 6, "dropout": 0.1}
    learn("first")
    learn("first", package="undisturbed")
    expected = contents(train_task(plan_for("second", package="undisturbed", **chosen))[0].path)
    plan = plan_for("second", **chosen)
    assert contents(continued(plan).path) == expected


def test_the_most_surprising_rows_are_remembered(learn, plan_for):
    chosen = {"method_options": {"rows": "5", "select": "surprise"}}
    first = train_task(plan_for("first", method="replay", **chosen))[0]
    losses = first.state()["surprise"]
    assert losses.shape == (24,) and float(losses.min()) > 0
    plan = plan_for("second", method="replay", **chosen)
    rows = plan_for("first", method="replay", package="other").rows
    expected = {rows[index].body for index in losses.topk(5).indices.tolist()}
    assert {example.body for example in plan.memory[0].examples} == expected
    # Before training the adapter does nothing: the losses are the base model's.
    plan = plan_for("first", method="replay", package="other")
    run = run_of(plan, build(plan))
    assert torch.allclose(run.losses(), losses)


def test_rows_whose_surprise_was_not_measured_are_refused(learn, plan_for):
    learn("first")
    with refused("method-state-missing", "surprise", 24):
        plan_for("second", method="replay", method_options={"rows": "5", "select": "surprise"})


def test_a_file_of_made_rows_takes_the_place_of_earlier_data(learn, plan_for, tmp_path):
    learn("first")
    file = tmp_path / "pseudo.jsonl"
    file.write_text(
        to_lines("first", [MadeRow(f"row {n}", "great") for n in range(9)], "options")
        + to_lines("more", [MadeRow("only", "so so")], "options"),
        encoding="utf-8",
    )
    chosen = {**FEW, "method_options": {"rows": "5", "pseudo": str(file)}}
    plan = plan_for("second", **chosen)
    assert {name: len(rows) for name, rows in remembered(plan).items()} == {"first": 5, "more": 1}
    assert {row.prompt for row in remembered(plan)["first"]} < {f"row {n}" for n in range(9)}
    assert not plan.method.lead.reuses_data and plan_for("second", **FEW).method.lead.reuses_data
    folder, _ = train_task(plan)
    assert [entry["rows"] for entry in folder.manifest.raw["data"]["memory"]] == [5, 1]
    assert plan_for("second", **chosen).finished() is not None
    file.write_text(to_lines("first", [MadeRow("another", "great")], "options"), encoding="utf-8")
    with refused("output-made-differently", "data.memory"):
        plan_for("second", **chosen).finished()
    with refused("option-has-no-effect", "surprise"):
        plan_for("second", method="replay", method_options={"pseudo": str(file), "select": "surprise"})
    file.unlink()
    with refused("path-unreadable", file):
        plan_for("second", **chosen)


def test_made_rows_of_all_tasks_add_up_to_the_share_of_the_new_one_s():
    members = [SimpleNamespace(task=f"t{number}", path=f"t{number}", manifest=None) for number in range(3)]
    for new, counts in ((24, [1, 2, 2]), (10, [0, 1, 1]), (1, [0, 0, 1])):
        drawn = read_memory(Memory(share=0.2, made=True), members, "lamol", None, 0, new)
        assert [(rows.task.name, rows.limit) for rows in drawn] == list(zip(("t0", "t1", "t2"), counts, strict=True))
    assert [rows.limit for rows in read_memory(Memory(rows=7, made=True), members, "ssr", None, 0, 24)] == [7, 7, 7]
