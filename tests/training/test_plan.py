from __future__ import annotations

import json

import pytest
from refusals import refused
from support import contents, options_for, write_random_adapter

from clora_cli.base.errors import DataError, MismatchError
from clora_cli.base.files import differences
from clora_cli.training import describe, make_plan


@pytest.fixture
def plan_for(tmp_path, model_folder, tasks):
    def plan(task="first", **chosen):
        chosen.setdefault("model", model_folder("llama"))
        chosen.setdefault("package", tmp_path / "adapters")
        return make_plan(options_for(chosen.pop("model"), tasks[task], chosen.pop("package"), **chosen))

    return plan


@pytest.fixture
def package(tmp_path, backbone):
    """A package with stages 1 (second) and 4 (third), and a bare PEFT folder."""
    base = backbone("llama")
    for stage, task in ((1, "second"), (4, "third")):
        write_random_adapter(tmp_path / "adapters" / task, base, stage=stage)
    bare = write_random_adapter(tmp_path / "adapters" / "alien", base, stage=9)
    (bare.path / "clora.json").unlink()
    return tmp_path / "adapters"


def test_an_empty_package_gives_stage_1(plan_for, tmp_path):
    plan = plan_for()
    assert (plan.stage, plan.past, list(plan.parents)) == (1, [], [])
    assert plan.out == tmp_path / "adapters" / "first"
    assert plan.steps == 3
    assert not (tmp_path / "adapters").exists()


def test_the_next_stage_follows_the_last_whatever_is_missing(plan_for, package):
    plan = plan_for()
    assert plan.stage == 5
    assert [member.task for member in plan.past] == ["second", "third", "alien"]
    assert [parent["task"] for parent in plan.recipe()["parents"]] == ["second", "third", "alien"]
    assert plan.recipe()["parents"][0]["sha256"] == plan.past[0].digest


@pytest.mark.parametrize(
    ("method", "parents"),
    [("inc-lora", 3), ("o-lora+n-lora", 3), ("per-task", 0), ("seq-lora", 1)],
)
def test_parents_are_what_the_method_builds_on(plan_for, package, method, parents):
    plan = plan_for(method=method)
    assert [parent["task"] for parent in plan.recipe()["parents"]] == ["second", "third", "alien"][3 - parents :]


def test_a_task_that_is_there_keeps_its_place(plan_for, package):
    plan = plan_for("third")
    assert (plan.stage, [member.task for member in plan.past]) == (4, ["second"])


def test_a_task_that_is_there_under_another_name_is_told(plan_for, package, tmp_path):
    with refused("task-already-learned", "third", package):
        plan_for("third", out=tmp_path / "elsewhere")


def test_a_folder_outside_of_the_package_still_builds_on_it(plan_for, package, tmp_path):
    plan = plan_for(out=tmp_path / "elsewhere")
    assert (plan.out, plan.stage) == (tmp_path / "elsewhere", 5)


@pytest.mark.parametrize("chosen", [{"rank": 4}, {"alpha": 8}])
def test_seq_lora_goes_on_with_the_same_rank_and_alpha(plan_for, package, chosen):
    with refused("rank-or-alpha-differs", "--rank 2 --alpha 4"):
        plan_for(method="seq-lora", **chosen)
    assert plan_for(method="inc-lora", **chosen).stage == 5


def test_another_base_model_does_not_fit(plan_for, package, model_folder):
    with refused("trained-on-other-base-model", model_folder("llama", 1), "--model", error=MismatchError) as info:
        plan_for(model=model_folder("llama", 1))
    assert info.value.exit_code == 4


def test_what_is_missing_is_told_before_anything_is_made(plan_for, tmp_path):
    with refused("base-model-not-found", tmp_path / "no" / "such" / "model"):
        plan_for(model=tmp_path / "no" / "such" / "model")
    with pytest.raises(DataError):
        make_plan(options_for("clora-nano", tmp_path / "none.jsonl", tmp_path / "adapters"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_adapter_is_never_replaced(plan_for, tmp_path, force):
    from clora_cli.training import train_task

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x", encoding="utf-8")
    with refused("output-not-an-adapter", tmp_path / "mine"):
        train_task(plan_for(out=tmp_path / "mine"), force=force)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"x"}


def test_rows_are_drawn_by_the_seed(plan_for):
    all_rows, some, others = plan_for(), plan_for(train_rows=7), plan_for(train_rows=7, seed=1)
    assert len(all_rows.rows) == 24
    assert len(some.rows) == 7
    assert some.rows != others.rows
    assert set(some.rows) <= set(all_rows.rows)
    assert plan_for(train_rows=99).rows == all_rows.rows


def test_differences_are_named_with_both_values():
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}) == ""
    assert differences({"training": {"lr": 0.2}}, {"training": {"lr": 0.1}}) == "training.lr 0.1 -> 0.2"
    assert differences({"parents": [1]}, {"parents": []}) == "parents"
    assert differences({"seed": 1}, {}) == "seed"
    assert differences({key: 1 for key in "abcde"}, {key: 2 for key in "abcde"}) == "a 2 -> 1, b 2 -> 1, c 2 -> 1"


def test_the_recipe_survives_json(plan_for, package):
    recipe = plan_for(method="o-lora+n-lora").recipe()
    assert differences(recipe, json.loads(json.dumps(recipe))) == ""


def test_the_manifest_forgets_resume(plan_for):
    manifest = plan_for().manifest(["clora", "train-task", "--resume", "--data", "x"], {})
    assert manifest["argv"] == ["clora", "train-task", "--data", "x"]


@pytest.mark.parametrize(
    ("family", "sites", "shapes"), [("llama", 4, ["16 x 32", "32 x 32"]), ("gpt2", 2, ["96 x 32"])]
)
def test_a_description_counts_what_training_would_make(plan_for, model_folder, family, sites, shapes, backbone):
    plan = plan_for(model=model_folder(family))
    data = describe(plan).data()
    assert (data["sites"], data["shapes"], data["steps"], data["rows"]) == (sites, shapes, 3, 24)
    assert data["trainable_parameters"] == {"llama": 2 * 2 * (32 + 32 + 16 + 32), "gpt2": 2 * 2 * (96 + 32)}[family]
    assert data["base_parameters"] == sum(p.numel() for p in backbone(family).model.parameters())
    assert str(plan.out) in describe(plan).text()


def test_a_window_sorts_rows_by_the_length_of_their_own_texts(plan_for):
    plan = plan_for(batch_size=4, max_steps=6, length_window=6)
    sizes = [plan.rows[row].size for row in plan.order]
    assert len(sizes) == 24
    batches = sorted(sorted(sizes[start : start + 4]) for start in range(0, 24, 4))
    assert [size for batch in batches for size in batch] == sorted(sizes)
    assert len(set(sizes)) > 6
    assert plan.recipe()["training"]["length_window"] == 6
