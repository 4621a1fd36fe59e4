from __future__ import annotations

import pytest
import typer

from clora_cli import registry
from clora_cli.cli import app
from clora_cli.data.known import KNOWN
from clora_cli.recipes import read_recipe, shipped, shipped_recipe, to_yaml
from clora_cli.recipes.catalogue import _tables
from clora_cli.recipes.orders import orders
from clora_cli.recipes.settings import _known
from clora_cli.recipes.steps import units_of

COMMANDS = typer.main.get_command(app).commands


def test_orders_are_of_known_tasks():
    known = orders()
    assert {len(known[f"order{number}"]) for number in (1, 2, 3)} == {4}
    assert {len(known[f"order{number}"]) for number in (4, 5, 6)} == {15}
    long = set(known["order4"])
    assert all(set(known[f"order{number}"]) == long for number in (5, 6))
    assert set(known["superni1"]) == set(known["superni2"])
    for name, order in known.items():
        assert len(set(order)) == len(order)
        assert name == "bundled" or set(order) <= set(KNOWN)


def test_what_a_researcher_would_type_is_there():
    names = shipped()
    assert {"n-lora-t5-order4", "pfd-llama2-7b-superni1", "cast-qwen3-8b-order1"} & names.keys() <= set(names)
    assert {"compare-nano", "compare-small-order1", "seq-lora-small-order6", "n-lora-nano"} <= set(names)
    assert {recipe.method for recipe in names.values()} - {"compare"} <= set(registry.names("methods"))


@pytest.mark.parametrize("backbone", _tables()["backbones"])
def test_every_recipe_can_be_read_planned_and_written(backbone, monkeypatch):
    monkeypatch.setenv("CLORA_MODEL", "a-model")
    monkeypatch.delenv("CLORA_DATA", raising=False)
    chosen = [recipe for recipe in shipped().values() if recipe.backbone == backbone]
    assert chosen
    for one in chosen:
        recipe = shipped_recipe(one.name)
        assert (recipe.name, recipe.tasks) == (one.name, orders()[one.order])
        assert recipe.about.count("\n") == 0
        for unit in units_of(recipe):
            assert len(unit.steps) == 2 * len(recipe.tasks)
            known = COMMANDS["train-task"].params
            flags = {flag for parameter in known for flag in parameter.opts}
            assert {word for word in unit.steps[0].words if word.startswith("-")} <= flags
    assert read_recipe(to_yaml(recipe), "again") == recipe


def test_every_entry_of_the_table_is_somebodys():
    tables = _tables()
    methods = set(tables["methods"])
    for entry in tables["published"]:
        assert set(entry) <= {
            "methods",
            "backbones",
            "model",
            "orders",
            "base",
            "train",
            "option",
            "eval",
            "seeds",
            "about",
        }
        assert set(entry["methods"]) <= methods
        assert set(entry["backbones"]) <= set(tables["backbones"])
        assert set(entry.get("option", {})) <= set(entry["methods"])
        assert entry["about"]
    assert set(tables["ours"]) == set(tables["backbones"])


def test_published_numbers_are_the_papers():
    recipe = shipped_recipe("n-lora-t5-order4")
    (method,) = recipe.methods
    strengths = [method.option_texts(stage)["raw_strength"] for stage in range(1, 16)]
    assert strengths == "0.4 0.4 1.2 0.4 0.4 0.4 1.2 1.2 1.2 0.4 1.2 1.2 0.4 0.4 1.2".split()
    assert (method.train["lr"], method.train["epochs"], method.train["batch-size"]) == (0.0005, 10, 32)
    assert "N-LoRA, section 4.1" in recipe.about
    assert shipped_recipe("ps-lora-t5-order5").seeds == (42, 1121, 3407)
    pfd = dict(
        zip(
            orders()["order6"], shipped_recipe("pfd-llama2-7b-order6").methods[0].train["max-steps"].values, strict=True
        )
    )
    assert {task: steps for task, steps in pfd.items() if steps} == {
        "cb": 100, "copa": 200, "boolq": 500, "imdb": 250, "dbpedia": 200, "multirc": 500,
    }  # fmt: skip


def test_what_no_paper_reports_says_so():
    known = shipped()
    assert known["n-lora-t5-order4"].published
    assert not known["n-lora-qwen3-8b-order4"].published
    assert "no paper reports" in known["n-lora-qwen3-8b-order4"].about
    assert "no paper reports" in shipped_recipe("n-lora-qwen3-8b-order4").methods[0].about


@pytest.mark.parametrize("section", ["train", "stat-features", "eval"])
def test_settings_are_options_of_the_commands(section):
    command = {"train": "train-task"}.get(section, section)
    flags = {flag for parameter in COMMANDS[command].params for flag in parameter.opts}
    assert {f"--{name}" for name in _known(section)} <= flags
