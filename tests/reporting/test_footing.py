"""Rows of a comparison that were not trained under one protocol: what is told, and what FWT is measured from."""

from __future__ import annotations

import pytest
from reported import ORDER, stage_scores

from clora_cli.presenting.export import report_json
from clora_cli.presenting.report_text import report_text
from clora_cli.reporting import assemble, bring_together, summarise
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import Material
from clora_cli.reporting.footing import footing_notes, unequal
from clora_cli.reporting.training_protocol import protocol_of
from clora_cli.store.manifest import Manifest

TRAINING = {
    "epochs": 2, "max_steps": 0, "lr": 0.001, "schedule": "linear", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0,
    "batch_size": 8, "grad_accum": 2, "max_length": 128, "max_answer_length": 8, "train_rows": 0, "dtype": "float32", "quantize": "none",
    "base_dropout": False,
}  # fmt: skip


def manifest(
    task,
    stage,
    method,
    *,
    rank=8,
    alpha=32,
    rows=100,
    template="options",
    fingerprint="d",
    base="f0",
    seed=42,
    **training,
):
    return Manifest(
        {
            "task": task,
            "stage": stage,
            "seed": seed,
            "method": {"name": method, "options": {}},
            "base_model": {"id": "nano", "fingerprint": base},
            "lora": {"rank": rank, "alpha": alpha, "dropout": 0.0, "target_modules": []},
            "data": {"fingerprint": fingerprint + task, "template": template, "train_rows": rows},
            "training": TRAINING | training,
        }
    )


def runs(*given):
    """Return the results of methods with what their manifests say: (method, package, last row, changes)."""
    files, manifests = [], {}
    for method, package, last, changes in given:
        combine = "task-id" if method == "per-task" else "sum"
        for stage, rights in enumerate(([8], last), start=1):
            files.append(stage_scores(stage, dict(zip(ORDER, rights, strict=False)), package, method, combine=combine))
        for stage, task in enumerate(ORDER, start=1):
            manifests[method, package + task] = manifest(task, stage, method, **changes)
    return bring_together(assemble(files, manifests))


def test_one_protocol_says_nothing():
    found = runs(("o-lora", "a", [5, 7], {}), ("n-lora", "b", [6, 7], {}), ("per-task", "c", [8, 9], {}))
    assert footing_notes(found) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rank": 128, "alpha": 512}, "rank: 8 (o-lora, per-task), 128 (n-lora)"),
        ({"alpha": 8}, "scaling: 4 (o-lora, per-task), 1 (n-lora)"),
        ({"lr": 0.0003}, "lr: 0.001 (o-lora, per-task), 0.0003 (n-lora)"),
        ({"epochs": 10}, "steps: 14 (o-lora, per-task), 70 (n-lora)"),
        ({"max_steps": 300}, "steps: 14 (o-lora, per-task), 300 (n-lora)"),
        ({"batch_size": 16}, "batch: 16 (o-lora, per-task), 32 (n-lora)"),
        ({"rows": 50}, "rows: 100 (o-lora, per-task), 50 (n-lora)"),
        ({"template": "options-named"}, "prompts: options (o-lora, per-task), options-named (n-lora)"),
        ({"fingerprint": "e"}, "data: dfirst/dsecond (o-lora, per-task), efirst/esecond (n-lora)"),
        ({"base": "f1"}, "base model: f0 (o-lora, per-task), f1 (n-lora)"),
        ({"dtype": "bfloat16"}, "dtype: float32 (o-lora, per-task), bfloat16 (n-lora)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_differs_between_the_rows_of_a_comparison_is_named(changes, told):
    found = runs(("o-lora", "a", [5, 7], {}), ("n-lora", "b", [6, 7], changes), ("per-task", "c", [8, 9], {}))
    notes = footing_notes(found)
    assert f"unequal protocols: {told}" in notes
    (alone,) = [note for note in notes if note.startswith("FWT")]
    assert "FWT of n-lora is measured from training alone under another protocol" in alone


def test_gradients_accumulated_are_the_batch_that_they_make():
    split = {"batch_size": 2, "grad_accum": 8}
    assert footing_notes(runs(("o-lora", "a", [5, 7], {}), ("n-lora", "b", [6, 7], split))) == []


def test_fwt_is_measured_from_training_alone_under_the_same_protocol():
    found = runs(
        ("n-lora", "a", [5, 7], {"epochs": 10}),
        ("o-lora", "b", [6, 7], {}),
        ("per-task", "c", [8, 4], {}),
        ("per-task", "d", [8, 9], {"epochs": 10}),
    )
    single = {run.method: run.single for run in found.runs if run.method != "per-task"}
    assert single == {"n-lora": {"first": 80, "second": 90}, "o-lora": {"first": 80, "second": 40}}
    assert summarise(found.runs[0])["forward-transfer"] == pytest.approx(-20)
    assert not [note for note in footing_notes(found) if note.startswith("FWT")]


def test_a_deviation_over_runs_that_are_no_repetitions_says_so():
    protocols = {
        "seed 1": protocol_of([manifest("first", 1, "n-lora")]),
        "seed 2": protocol_of([manifest("first", 1, "n-lora", lr=0.01)]),
    }
    assert unequal(protocols) == ["lr: 0.001 (seed 1), 0.01 (seed 2)"]
    assert unequal({"one": protocols["seed 1"], "unknown": {}}) == []


def test_values_of_single_tasks_stand_side_by_side():
    steady = [manifest(task, stage, "o-lora") for stage, task in enumerate("abcdef", start=1)]
    varied = [manifest(task, stage, "n-lora", lr=0.001 / stage) for stage, task in enumerate("abcdef", start=1)]
    (told,) = unequal({"o-lora": protocol_of(steady), "n-lora": protocol_of(varied)})
    assert told == "lr of b, c, d, e and 1 more: 0.001 (o-lora), 0.0005/0.000333333/0.00025/0.0002/… (n-lora)"


def test_what_differs_in_later_tasks_alone_is_not_lost():
    tasks = "abcdefg"
    plain = protocol_of([manifest(task, stage, "o-lora") for stage, task in enumerate(tasks, start=1)])
    cut = protocol_of(
        [
            manifest(task, stage, "pfd", max_steps=100 if task in "fg" else 0)
            for stage, task in enumerate(tasks, start=1)
        ]
    )
    assert unequal({"o-lora": plain, "pfd": cut}) == ["steps of f, g: 14 (o-lora), 100 (pfd)"]


def test_a_report_shows_it_in_every_form(monkeypatch):
    found = runs(("o-lora", "a", [5, 7], {}), ("n-lora", "b", [6, 7], {"lr": 0.01}))
    report = make_report(Material())
    object.__setattr__(report, "results", found)
    told = "unequal protocols: lr: 0.001 (o-lora), 0.01 (n-lora)"
    assert f"## Unequal footing\n\n- {told}\n" in report_text(report)
    assert report_json(report)["footing"] == [told]


def test_a_manifest_may_leave_things_open():
    bare = {"task": "a", "base_model": {}, "data": {"name": "a"}, "lora": {}, "training": {}}
    assert protocol_of([Manifest(bare)]) == {"a": {}}
    assert protocol_of([Manifest(bare | {"training": {"max_steps": 3, "lr": 0.1}})]) == {"a": {"steps": 3, "lr": 0.1}}
    assert protocol_of([Manifest({"task": "a", "data": {"merged": ["a"]}})]) == {}
    assert unequal({"one": protocol_of([Manifest(bare)]), "two": protocol_of([manifest("a", 1, "o-lora")])}) == []
