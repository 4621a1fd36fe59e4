"""Sweeps: lists that are crossed become methods of their own, which share adapters where they train alike."""

from __future__ import annotations

import pytest
from refusals import refused

from clora_cli.base.sweep_labels import read_sweep_label, sweep_label
from clora_cli.recipes import read_recipe, to_yaml
from clora_cli.recipes.steps import units_of

TEXT = """\
name: swept
model: clora-nano
tasks: [yes-no, inference]
methods:
  - method: per-task
    stat-features: {{limit: 12}}
    eval: {{combine: route}}
    sweep: {sweep}
seeds: [1]
"""


def swept(sweep):
    return read_recipe(TEXT.format(sweep=sweep), "swept.yaml")


def test_lists_are_crossed_into_labelled_methods():
    recipe = swept("{eval: {top-k: [1, 2], route-layer: [all, '0,last']}, train: {lr: [1e-3]}}")
    assert [entry.label for entry in recipe.methods] == [
        "per-task@top-k=1@route-layer=all@lr=1e-3",
        "per-task@top-k=1@route-layer=0+last@lr=1e-3",
        "per-task@top-k=2@route-layer=all@lr=1e-3",
        "per-task@top-k=2@route-layer=0+last@lr=1e-3",
    ]
    last = recipe.methods[-1]
    assert (last.eval["top-k"], last.eval["route-layer"], last.eval["combine"]) == (2, "0,last", "route")
    assert last.train["lr"] == 0.001
    assert read_recipe(to_yaml(recipe), "again.yaml") == recipe


def test_points_that_train_alike_share_their_adapters():
    recipe = swept("{eval: {top-k: [1, 2]}, train: {lr: [1e-3, 1e-2]}}")
    first, second, third, fourth = units_of(recipe)
    assert [entry.adapters_of for entry in recipe.methods] == [(), (), (first.entry.label,), (second.entry.label,)]
    assert third.package == first.package != second.package == fourth.package
    assert third.scores(1) != first.scores(1) and str(first.package) in " ".join(third.steps[-1].words)


def test_a_sweep_of_the_recipe_is_one_of_each_method():
    text = "model: clora-nano\ntasks: [yes-no]\nmethods: [seq-lora, {method: n-lora, sweep: {option: {strength: [1, 2]}}}]\n"
    recipe = read_recipe(text + "sweep: {train: {rank: [2, 4]}}\n", "r.yaml")
    labels = [entry.label for entry in recipe.methods]
    assert labels[:3] == ["seq-lora@rank=2", "seq-lora@rank=4", "n-lora@rank=2@strength=1"] and len(labels) == 6


@pytest.mark.parametrize(
    ("sweep", "code", "told"),
    [
        ("{evil: {top-k: [1]}}", "unknown-name", "'evil' in sweep; did you mean 'eval'?"),
        ("{eval: {topk: [1]}}", "unknown-name", "did you mean 'top-k'?"),
        ("{eval: {top-k: []}}", "recipe-list-empty", "sweep.eval.top-k is empty"),
        ("{eval: {top-k: [1, one]}}", "recipe-value-malformed", "top-k"),
        ("{eval: {top-k: [[1, 2]]}}", "recipe-value-malformed", "single values"),
        ("{eval: {top-k: [1, 1]}}", "method-label-given-twice", "per-task@top-k=1"),
        ("{option: {strength: [1]}}", "unknown-name", "strength"),
        ("{train: {seed: [1]}}", "unknown-name", "seed"),
        (f"{{train: {{max-steps: {list(range(1, 1002))}}}}}", "document-too-large", "1001 methods"),
        ("{eval: {split: [a/b]}}", "option-choice-unknown", "a/b"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(sweep, code, told):
    with refused(code, "swept.yaml:8", told):
        swept(sweep)


def test_adapters_of_a_method_that_trains_otherwise_are_refused():
    other = "  - {method: per-task, label: b, adapters-of: per-task, train: {rank: 2}}\n"
    text = f"tasks: [yes-no]\nmethods:\n  - per-task\n{other}"
    with refused("recipe-adapters-differ", "r.yaml:4", "'per-task'"):
        read_recipe(text, "r.yaml")


def test_a_label_says_its_settings_and_others_say_none():
    assert read_sweep_label(sweep_label("n-lora", {"lr": "1e-3", "layer": "1,2"})) == (
        "n-lora",
        {"lr": "1e-3", "layer": "1+2"},
    )
    plugin = sweep_label("cast", {"trim": "density,density=0.3"})
    assert read_sweep_label(plugin) == ("cast", {"trim": "density+density=0.3"})
    for label in ("n-lora", "n-lora@x", "@a=b"):
        assert read_sweep_label(label) is None
