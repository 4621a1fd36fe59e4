from __future__ import annotations

import pytest
import typer

from clora_cli.base import registry
from clora_cli.cli import app
from clora_cli.data.known_tasks import KNOWN
from clora_cli.recipes import read_recipe, shipped, shipped_recipe, to_yaml
from clora_cli.recipes.catalogue import _methods
from clora_cli.recipes.compositions import COMPOSED
from clora_cli.recipes.orders import orders
from clora_cli.recipes.papers import reports
from clora_cli.recipes.protocols import protocol_of, settings_of
from clora_cli.recipes.settings import _known
from clora_cli.recipes.shipped_tables import orders_of, table
from clora_cli.recipes.steps import script, units_of
from clora_cli.training.services import affordable_rows

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
    parts = {part for recipe in names.values() for part in recipe.method.split("+")}
    assert parts - {"compare", *COMPOSED} <= set(registry.names("methods"))
    assert {"unseen-nano", "expansion-nano", "unseen-llama2-7b-superni1", "expansion-llama2-13b-superni2"} <= set(names)
    assert {"inc-lora+migu-t5-order1", "inc-lora+migu-nano", "o-lora+ps-lora-t5-order5"} <= set(names)
    assert "inc-lora+migu-qwen3-8b-order1" not in names
    for backbone in ("mistral-7b", "llama2-7b", "gemma-2b"):
        assert {f"ps-lora-{backbone}-trace", f"compare-{backbone}-trace"} <= set(names)
        assert names[f"ps-lora-{backbone}-trace"].status == "result"  # PS-LoRA, table 4
    assert not {"ps-lora-t5-trace", "ps-lora-gemma-2b-order1"} & names.keys()


@pytest.mark.parametrize("backbone", table("settings.yaml")["backbones"])
def test_every_recipe_can_be_read_planned_and_written(backbone, monkeypatch):
    monkeypatch.setenv("CLORA_MODEL", "a-model")
    monkeypatch.delenv("CLORA_DATA", raising=False)
    chosen = [one for one in shipped().values() if one.backbone == backbone and one.method not in COMPOSED]
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


@pytest.mark.parametrize("name", [name for name, one in shipped().items() if one.method == "unseen"])
def test_what_nobody_learns_is_scored_once_after_the_last_task(name, monkeypatch):
    monkeypatch.setenv("CLORA_MODEL", "a-model")
    recipe = shipped_recipe(name)
    for unit in units_of(recipe):
        (scored,) = [step for step in unit.steps if step.kind == "eval"]
        assert scored.stage == len(unit.tasks) < len(unit.scored(scored.stage)) == len(recipe.tasks)
    assert unit.entry.label == "pfd-dot" and unit.entry.option["similarity"] == "dot"
    never = set(recipe.tasks) - set(unit.tasks)
    assert (
        "bundled" in name
        or "nano" in name
        or {KNOWN[task].category for task in never} == {"Dialog", "IE", "QA", "Sum", "SA"}
    )
    assert read_recipe(to_yaml(recipe), "again") == recipe


@pytest.mark.parametrize("name", [name for name, one in shipped().items() if one.method == "expansion"])
def test_two_packages_are_put_together_with_what_each_lacks(name, monkeypatch):
    monkeypatch.setenv("CLORA_MODEL", "a-model")
    recipe = shipped_recipe(name)
    first, first_alone, second, second_alone, *unions = units_of(recipe)
    assert [one.entry.adapters_of for one in unions] == [
        (first.entry.label, second_alone.entry.label),
        (second.entry.label, first_alone.entry.label),
        (first.entry.label, second.entry.label),
    ]
    assert all(set(one.tasks) == set(recipe.tasks) and len(one.steps) == 1 for one in unions)
    assert first.tasks + second.tasks == recipe.tasks and first.entry.train == first_alone.entry.train
    assert read_recipe(to_yaml(recipe), "again") == recipe


def test_every_entry_of_the_tables_is_somebodys():
    tables = table("settings.yaml")
    known = {*tables["methods"], *tables["together"]}
    keys = {"backbones", "model", "orders", "base", "train", "option", "eval", "seeds", "sources", "about"}
    for entry in [*tables["published"], *tables["protocols"]]:
        assert set(entry) <= keys | {"methods"}
        assert set(entry.get("methods", ())) <= known
        assert set(entry["backbones"]) <= set(tables["backbones"])
        assert set(orders_of(entry["orders"])) <= set(orders())
        assert set(entry.get("option", {})) <= set(entry.get("methods", ()))
        assert entry["about"] and entry["base"] in tables["bases"]
    assert set(tables["ours"]) == set(tables["backbones"])
    for row in table("papers.yaml")["reported"]:
        assert set(row) <= {"paper", "where", "backbones", "orders", "methods", "whole", "note"}
        assert {*row.get("methods", ()), *row.get("whole", ())} <= known
        assert set(row["backbones"]) <= set(tables["backbones"])
        assert set(orders_of(row["orders"])) <= set(orders())


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


def test_strengths_found_on_the_bundled_model_are_for_it_alone():
    options = {name: shipped_recipe(name).methods[0].option for name in ("aso-lora-nano", "aso-lora-smollm2-order1")}
    assert options == {"aso-lora-nano": {"strength": 500}, "aso-lora-smollm2-order1": {}}


SIX, PFD = "order1 order2 order3 order4 order5 order6".split(), "order4 order6 superni1 superni2".split()
SUPERNI = PFD[2:]
# By hand from the papers' tables: backbone and method to the orders with settings of its own, and those with a result alone.
BY_HAND = {
    "t5": {
        "n-lora": (SIX, []),
        "o-lora": (SIX, SUPERNI),
        "ps-lora": (SIX, []),
        "aso-lora": (SIX, []),
        "seq-lora": (SIX, SUPERNI),
        "inc-lora": (SIX, []),
        "pfd": (PFD, []),
        "per-task": ([], SIX + SUPERNI),
        "seq-ft": ([], SIX),
        "per-task-ft": ([], SIX),
        "prog-prompt": ([], SIX + SUPERNI),
        "l2p": ([], SIX + SUPERNI),
        "lfpt5": ([], SIX + SUPERNI),
        "moe-lora": ([], SIX),
        "replay": ([], SIX + SUPERNI),
        "mtl": ([], SIX),
        "ewc": ([], SIX),
        "lwf": ([], SIX),
        "migu": (SIX, []),
        "zero-shot": ([], SIX),
        "sd-lora": ([], SIX),
        "mocl": ([], SIX),
        "sapt": ([], PFD),
        "tasl": ([], PFD),
        "inc-lora+migu": ([], SIX),
        "o-lora+migu": ([], SIX),
        "replay+migu": ([], SIX),
        "o-lora+n-lora": ([], SIX),
        "o-lora+ps-lora": (SIX, []),
    },
    "llama2-7b": {
        "n-lora": (SIX[:3], []),
        "o-lora": (SIX, [*SUPERNI, "trace"]),
        "ps-lora": (SIX, ["trace"]),
        "ewc": ([], ["trace"]),
        "aso-lora": (SIX, []),
        "seq-lora": (SIX, [*SUPERNI, "trace"]),
        "inc-lora": (SIX, []),
        "pfd": (PFD, []),
        "replay": ([], PFD),
        "per-task": ([], PFD),
        "sd-lora": ([], SIX),
        "mocl": ([], SIX),
        "sapt": ([], PFD),
        "tasl": ([], PFD),
        "prog-prompt": ([], PFD),
        "lfpt5": ([], PFD),
        "inc-lora+migu": ([], SIX),
        **{method: ([], ["trace"]) for method in ("l2p", "dual-prompt", "tree-lora")},
    },
    **{  # PS-LoRA, table 4
        backbone: {
            method: ([], ["trace"])
            for method in ("seq-lora", "ewc", "l2p", "dual-prompt", "o-lora", "tree-lora", "ps-lora")
        }
        for backbone in ("mistral-7b", "gemma-2b")
    },
    "llama2-13b": {
        "prog-prompt": ([], PFD),
        "lfpt5": ([], PFD),
        "pfd": (PFD, []),
        "sapt": ([], PFD),
        "o-lora": ([], PFD),
        "seq-lora": ([], PFD),
        "replay": ([], PFD),
        "per-task": ([], PFD),
    },
    "llama3.1-8b": {
        "cast": (SIX, []),
        **{
            method: ([], SIX)
            for method in ("zero-shot", "replay", "prog-prompt", "seq-lora", "ewc", "o-lora", "deal", "per-task")
        },
    },
    "qwen3-8b": {
        "cast": (SIX, []),
        **{method: ([], SIX) for method in ("zero-shot", "replay", "prog-prompt", "seq-lora", "ewc", "o-lora", "deal")},
    },
}


@pytest.mark.parametrize("backbone", BY_HAND)
def test_settings_results_and_neither_are_told_apart_as_the_papers_have_them(backbone):
    for one in shipped().values():
        if one.backbone != backbone or one.method in {"compare", "unseen", "expansion"}:
            continue
        own, result = BY_HAND[backbone].get(one.method, ([], []))
        expected = "settings" if one.order in own else "result" if one.order in result else "neither"
        assert one.status == expected, one.name
        assert one.published == (expected == "settings")
        about = shipped_recipe(one.name).methods[0].about
        assert ("no paper reports this combination" in about) == (expected == "neither")
        assert ("its settings not known here" in about) == (expected == "result")


def test_a_result_says_its_table_and_what_was_trained():
    assert "N-LoRA, table 1 (all parameters trained) and" in shipped()["ewc-t5-order1"].about
    assert [str(report) for report in reports("inc-lora+migu", "llama2-7b", "order6")] == [
        "PS-LoRA, table 1 (the chat model)"
    ]
    assert reports("inc-lora", "qwen3-8b", "order1") == ()


PROTOCOL = (
    "lr",
    "epochs",
    "max-steps",
    "batch-size",
    "grad-accum",
    "rank",
    "alpha",
    "train-rows",
    "dropout",
    "schedule",
)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, one in shipped().items()
        if one.method == "compare"
        and one.backbone in BY_HAND
        and one.order in {"order1", "order4", "superni1", "trace"}
    ],
)
def test_baselines_of_a_comparison_share_one_protocol_and_its_model(name):
    recipe = shipped_recipe(name)
    protocol = protocol_of(shipped()[name].backbone, shipped()[name].order)
    assert recipe.model == protocol.model
    for entry in recipe.methods:
        if entry.label in {"zero-shot", "per-task", "replay", "ewc", "lwf", "mtl"}:
            assert {name: entry.train.get(name) for name in PROTOCOL} == {
                name: recipe.methods[0].train.get(name) for name in PROTOCOL
            }


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("compare-")])
def test_every_protocol_of_a_comparison_has_its_training_alone(name, monkeypatch):
    recipe = shipped_recipe(name)
    alone = [entry.train for entry in recipe.methods if entry.method == "per-task"]
    for entry in recipe.methods:
        settings = settings_of(entry.method, shipped()[name].backbone, shipped()[name].order)
        if entry.method != "per-task" and settings.protocol:
            assert entry.train in alone
    assert len({str(train) for train in alone}) == len(alone)
    assert {entry.method for entry in recipe.methods} == set(_methods())


def test_casts_baselines_train_as_cast_does():
    recipe = shipped_recipe("compare-llama3.1-8b-order1")
    trains = {entry.label: entry.train for entry in recipe.methods}
    assert trains["cast"] == trains["per-task"] == trains["ewc"] == trains["o-lora"]
    assert (trains["per-task"]["max-steps"], trains["per-task"]["train-rows"], trains["per-task"]["rank"]) == (
        300,
        1000,
        32,
    )


@pytest.mark.parametrize(
    "name", ["compare-t5-order4", "ps-lora-llama2-7b-order5", "cast-qwen3-8b-order1", "mtl-llama2-13b-order2"]
)
def test_every_number_says_where_it_comes_from(name):
    recipe = shipped_recipe(name)
    for entry in recipe.methods:
        named = [setting for settings in entry.sources.values() for setting in settings]
        assert len(set(named)) == len(named)
        have = {f"{part}.{key}" for part in ("train", "eval", "option") for key in getattr(entry, part)}
        assert have | ({"seeds"} if "ps-lora" in name else set()) == set(named)
    assert read_recipe(to_yaml(recipe), "again") == recipe
    printed = script(recipe, units_of(recipe))
    assert all(f"# {', '.join(names)}: {source}" in printed for source, names in recipe.methods[-1].sources.items())


ROWS = {
    "dbpedia": 14000,
    "amazon": 5000,
    "yahoo": 10000,
    "agnews": 4000,
    "yelp": 5000,
    "mnli": 3000,
    "cb": 250,
    "copa": 400,
}


@pytest.mark.parametrize(("order", "told"), [("order1", 5), ("order2", 5), ("order4", 31), ("order6", 31)])
def test_what_aso_loras_attribution_costs_is_what_its_recipe_says(order, told):
    recipe = shipped_recipe(f"aso-lora-t5-{order}")
    (entry,) = recipe.methods
    options = entry.option
    assert (options["rows"], options["layers"], options["answer"], options["steps"]) == (
        8,
        "together",
        "probability",
        20,
    )
    rows = [ROWS.get(task, 2000) for task in recipe.tasks]
    calls = [1 if stage == 1 else 1 + stage for stage in range(1, len(rows) + 1)]
    parts = [
        0.1 * options["rows"] / affordable_rows(own, options["steps"] * call, 1)
        for own, call in zip(rows, calls, strict=True)
    ]
    share = sum(part * own for part, own in zip(parts, rows, strict=True)) / sum(rows)
    assert round(100 * share) == told
    assert f"{told} % of" in entry.about


@pytest.mark.parametrize("section", ["train", "stat-features", "eval"])
def test_settings_are_options_of_the_commands(section):
    command = {"train": "train-task"}.get(section, section)
    flags = {flag for parameter in COMMANDS[command].params for flag in parameter.opts}
    assert {f"--{name}" for name in _known(section)} <= flags
