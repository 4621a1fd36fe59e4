"""The Python API: each command as a function, with the same results byte for byte; what is public is listed."""

from __future__ import annotations

import inspect
import json
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import typer
from refusals import refused
from reported import write_runs
from routed import write_routable
from support import contents

from clora_cli import api
from clora_cli.base.options import Options, declared
from clora_cli.cli import app

# Commands that are about a process or a machine, not about artifacts.
NOT_IN_THE_API = {"serve", "doctor"}
FUNCTIONS = [name for name in api.__all__ if inspect.isfunction(getattr(api, name))]
COMMANDS = {name.replace("-", "_"): command for name, command in typer.main.get_command(app).commands.items()}
SHORT = {"rank": 2, "alpha": 4, "max_steps": 2, "batch_size": 4, "lr": 1e-2, "device": "cpu"}


def test_every_command_has_a_function_of_its_name():
    assert set(FUNCTIONS) <= COMMANDS.keys()
    assert COMMANDS.keys() - set(FUNCTIONS) <= NOT_IN_THE_API


def test_what_is_public_is_listed_and_nothing_else_is_there():
    listed = set(api.__all__)
    own = {name for name, value in vars(api).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert own - {"annotations"} == listed
    assert sorted(listed) == api.__all__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_typed_and_documented_and_repeats_no_option(name):
    function, parameters = getattr(api, name), inspect.signature(getattr(api, name)).parameters
    text = inspect.getdoc(function)
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters.values())
    assert inspect.signature(function).return_annotation is not inspect.Parameter.empty
    assert [each for each in parameters if f"    {each}: " not in text] == []
    assert "Raises:" in text
    classes = [kind for kind in vars(api).values() if isinstance(kind, type) and issubclass(kind, Options)]
    (own,) = [kind for kind in classes if any(kind.__name__ in str(p.annotation) for p in parameters.values())] or [
        Options
    ]
    assert not parameters.keys() & declared(own).keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_whatever_a_command_can_be_told_a_function_can_be_told(name):
    """But for what is about a terminal: dry runs, forms of output, lists, files of options."""
    parameters = inspect.signature(getattr(api, name)).parameters
    classes = [kind for kind in vars(api).values() if isinstance(kind, type) and issubclass(kind, Options)]
    options = [kind for kind in classes if any(kind.__name__ in str(p.annotation) for p in parameters.values())]
    known = {each.key for kind in options for each in declared(kind).values()} | set(parameters)
    terminal = {
        "config",
        "dry_run",
        "json",
        "quiet",
        "annotations",
        "listed",
        "show",
        "script",
        "measure",
        "lm_eval",
        "live",
        "port",
    }
    assert {parameter.name for parameter in COMMANDS[name].params} - known <= terminal


@pytest.fixture
def twice(here, clora, monkeypatch):
    """Carry out a call in one folder and a command line in another, which has copies of the same adapters."""

    def compare(package, call, *line):
        for place in ("called", "typed"):
            (here / place).mkdir()
            if package is not None:
                shutil.copytree(package, here / place / "adapters")
        monkeypatch.chdir(here / "called")
        result = call()
        monkeypatch.chdir(here / "typed")
        typed = clora(*line)
        assert typed.code == 0, typed.err
        called, by_hand = contents(here / "called"), contents(here / "typed")
        assert called.keys() == by_hand.keys()
        assert [name for name in called if called[name] != by_hand[name]] == []
        return result, typed

    return compare


@pytest.fixture
def routable(here, backbone, tasks):
    """Two adapters whose inputs can choose between them."""
    return write_routable(here / "routable", backbone("llama"), [str(tasks["first"]), str(tasks["second"])], rows=24)


def test_training_is_the_command_byte_for_byte(twice, model_folder, tasks):
    model, data = str(model_folder("llama")), str(tasks["first"])
    options = api.TrainOptions(data=data, model=model, method="o-lora", method_options={"strength": 0.25}, **SHORT)
    line = ["--model", model, "--device", "cpu", "--data", data, "--method", "o-lora", "--option", "strength=0.25"]
    line += ["--rank", 2, "--alpha", 4, "--max-steps", 2, "--lr", "0.01", "--batch-size", 4]
    trained, _ = twice(None, lambda: api.train_task(options), "train-task", *line)
    assert (trained.made, trained.folder.stage, trained.path) == (True, 1, Path("adapters/first"))
    assert trained.folder.manifest.raw["argv"] == ["clora", "train-task", *map(str, line)]
    assert trained.scores["last_step"]["loss"] > 0
    assert not api.train_task(options).made


def test_scores_are_the_command_s_byte_for_byte(twice, package):
    options = api.EvalOptions(matrix=True, test_rows=4, device="cpu")
    line = ["--matrix", "--test-rows", 4, "--device", "cpu", "--out", "scores.json"]
    scores, typed = twice(
        package, lambda: api.eval("adapters", options, out="scores.json"), "eval", "adapters", *line, "--json"
    )
    assert json.loads(typed.out) == json.loads(json.dumps(scores.to_dict()))
    with refused("limit-broken", "--fail-under 101", error=api.LimitError):
        api.eval("adapters", options, fail_under=101)


def test_a_merge_is_the_command_s_byte_for_byte(twice, package):
    options = api.MergeOptions(strategy="linear", weights=[1, -0.5], rank=2, out="small")
    line = ["--strategy", "linear", "--weights", "1,-0.5", "--out", "small", "--rank", 2]
    merged, _ = twice(package, lambda: api.merge("adapters", options), "merge", "adapters", *line)
    assert (merged.path, merged.made, 0 < merged.scores["energy"]["kept"] <= 1) == (Path("small"), True, True)


def test_a_trim_is_the_command_s_byte_for_byte_with_its_figure(twice, package):
    options = api.TrimOptions(by="density", density=0.5, out="thin")
    call = lambda: api.trim("adapters/first", options, plot="thin.svg")  # noqa: E731
    cut, _ = twice(
        package, call, "trim", "adapters/first", "--by", "density", "--density", 0.5, "-o", "thin", "--plot", "thin.svg"
    )
    assert (cut.path, cut.made, cut.density) == (Path("thin"), True, {"B": 0.5})


def test_routes_are_the_command_s_byte_for_byte(twice, routable, tasks):
    settings = api.RouteSettings(data=str(tasks["first"]), limit=5, device="cpu", similarity="l2")
    call = lambda: api.route("adapters", settings, confusion="routes.json", heatmap="map.svg")  # noqa: E731
    line = ["--data", tasks["first"], "--limit", 5, "--device", "cpu", "--similarity", "l2", "--heatmap", "map.svg"]
    routed, typed = twice(routable, call, "route", "adapters", *line, "--confusion", "routes.json")
    assert list(routed.rows) == [json.loads(line) for line in typed.out.splitlines()]
    rows = api.route("adapters", api.RouteSettings(device="cpu"), rows=[{"prompt": "the boat was", "id": 7}]).rows
    assert (rows[0]["id"], rows[0]["adapter"] in {"first", "second"}) == (7, True)
    with refused("nothing-to-route", error=api.OptionError):
        api.route("adapters")


def test_a_union_and_an_export_are_the_commands_byte_for_byte(twice, routable):
    def call():
        return api.expand(["adapters/first", "adapters/second"], api.ExpandOptions(rename={"second": "other"}))

    united, _ = twice(routable, call, "expand", "adapters/first", "adapters/second", "--rename", "second=other")
    assert (united.path, api.show("expanded.pkg")["package"][1]["task"]) == (Path("expanded.pkg"), "other")
    exported = api.export("expanded.pkg", api.ExportOptions(loader="vllm", out="served", combine="each"))
    assert exported.made and {path.name for path in exported.path.iterdir()} >= {"first", "other"}


def test_a_report_is_the_command_s_byte_for_byte(twice, here):
    runs = write_runs(here / "runs")
    call = lambda: api.report("adapters", out=["report.html", "scores.csv"])  # noqa: E731
    line = ["adapters", "--out", "report.html", "--out", "scores.csv"]
    reported, _ = twice(runs, call, "report", *line)
    assert (
        reported.data["schema"] == "clora.report/1"
        and "n-lora" in str(reported)
        and reported.averages[::2] == [60.0, 50.0]
    )


def test_features_are_the_command_s_byte_for_byte(twice, package):
    options = api.FeatureOptions(second_moment="diag", limit=12, device="cpu")
    line = ["adapters", "--second-moment", "diag", "--limit", 12, "--device", "cpu"]
    results, _ = twice(package, lambda: api.stat_features("adapters", options), "stat-features", *line)
    assert [(result.member.task, result.state) for result in results] == [("first", "made"), ("second", "made")]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"paths": "adapters/first"}, ["adapters/first"]),
        ({"paths": "adapters"}, ["adapters"]),
        ({"paths": "o-lora"}, ["o-lora"]),
        ({"paths": ["adapters"], "diff": True}, ["adapters", "--diff"]),
    ],
)
def test_what_is_shown_is_what_the_command_prints_as_json(clora, here, package, arguments, line):
    assert json.loads(json.dumps(api.show(**arguments), default=str)) == json.loads(clora("show", *line, "--json").out)


def test_adapters_of_others_are_scanned_pushed_and_pulled(here, package):
    assert api.scan("adapters") == {"adapters/first": [], "adapters/second": []}
    assert api.push("adapters", "sent", api.PushOptions(license="mit", base_name="a/b")).sent
    pulled = api.pull("sent", "back")
    assert (pulled.fetched, [member.task for member in pulled.adapters]) == (True, ["first", "second"])


def test_tasks_are_listed_and_loaded():
    assert "yes-no" in {info.name for info in api.tasks()}
    assert api.tasks("yes-no").metric == "exact-match"
    with refused("data-not-found", "no-such-task", error=api.DataError):
        api.tasks("no-such-task")


def test_a_recipe_runs_and_says_what_it_does(here, filled_recipe):
    events = []
    result = api.run("tiny.yaml", progress=events.append)
    assert [(run["method"], run["state"]) for run in result["runs"]] == [("inc-lora", "complete")]
    assert any(event.kind == "note" and "trained in" in event.text for event in events)
    with refused("run-failed", "no-such-recipe", error=api.OptionError):
        api.run("no-such-recipe")


@pytest.fixture
def filled_recipe(here, model_folder, tasks):
    text = f"name: tiny\nmodel: {model_folder('llama')}\ntasks: [{tasks['first']}]\nmethods: [inc-lora]\n"
    text += "train: {rank: 2, max-steps: 1, device: cpu}\neval: {test-rows: 2, device: cpu}\n"
    (here / "tiny.yaml").write_text(text, encoding="utf-8")


def test_a_callback_hears_what_the_command_prints(here, package):
    events = []
    api.eval("adapters", api.EvalOptions(test_rows=2, device="cpu"), progress=events.append)
    steps = [event for event in events if event.kind == "progress"]
    assert steps[-1].done == steps[-1].total > 0
    assert str(api.Event("progress", "train", 3, 10, "loss 1")) == "train: 3/10  loss 1"
    assert str(api.Event("warning", "careful")) == "warning: careful"


def test_values_may_be_written_as_on_the_command_line(here, package):
    with refused("unknown-name", "'magmax'", error=api.UnknownNameError):
        api.merge("adapters", api.MergeOptions(strategy="magmx"))
    with refused("call-is-one-process", "nproc=2", error=api.OptionError):
        api.eval("adapters", api.EvalOptions(nproc=2))
    with refused("option-out-of-range", "--wait -1", error=api.OptionError):
        api.merge("adapters", wait=-1)
    assert api.merge(here / "adapters", wait=math.inf).path == Path("merged")


@pytest.mark.parametrize(
    ("code", "named", "call"),
    [
        ("option-missing", "adapters to merge", lambda: api.merge([])),
        ("option-missing", "what to show", lambda: api.show([], diff=True)),
        ("option-missing", "adapters to scan", lambda: api.scan(())),
        ("option-missing", "what to report on", lambda: api.report([])),
        ("option-missing", "('n-lora',)", lambda: api.report("adapters", compare=("n-lora",))),
        ("option-wrong-type", "--lr 'abc'", lambda: api.TrainOptions(data="x", lr="abc")),
        ("option-wrong-type", "--rank 8.5", lambda: api.TrainOptions(data="x", rank=8.5)),
        ("option-wrong-type", "--rank True", lambda: api.TrainOptions(data="x", rank=True)),
        ("option-wrong-type", "--shard 'no'", lambda: api.TrainOptions(data="x", shard="no")),
        ("option-wrong-type", "--epochs None", lambda: api.TrainOptions(data="x", epochs=None)),
        ("json-malformed", "rows", lambda: api.route("adapters", rows=[{"prompt": object()}])),
    ],
)
def test_a_mistake_in_a_call_is_told_in_a_line(here, package, code, named, call):
    with refused(code, named):
        call()


def test_loading_a_model_draws_no_bar(here, package, capfd):
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    load_backbone(find_model("clora-nano"), device=torch.device("cpu"))
    assert capfd.readouterr() == ("", "")


def test_an_error_of_a_plug_in_file_names_it(here, package):
    code = 'from clora_cli.merges import *\n\n\nclass Odd(Merge):\n    """Odd."""\n'
    (here / "odd.py").write_text(code, encoding="utf-8")
    with pytest.raises(api.CloraError) as info:
        api.merge("adapters", api.MergeOptions(strategy="./odd.py"))
    assert "odd.py" in str(info.value)


def test_a_call_tells_what_the_command_tells(here, clora, routable, model_folder):
    rows = [{"text": f"words {number}", "label": ("good", "bad")[number % 2]} for number in range(40)]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    package, model, on, data = str(routable), str(model_folder("llama")), {"device": "cpu"}, ["rows.jsonl"]
    training = api.TrainOptions(data=data[0], model=model, package="called", **SHORT)
    short = ["--rank", 2, "--alpha", 4, "--max-steps", 2, "--batch-size", 4, "--lr", "0.01", "--model", model]
    scoring = api.EvalOptions(data=data, test_rows=2, **on)
    features = api.FeatureOptions(data=["first=rows.jsonl", "second=rows.jsonl"], second_moment="diag", **on)
    of_both = ["--data", "first=rows.jsonl", "--data", "second=rows.jsonl", "--second-moment", "diag", "--force"]
    routing = api.RouteSettings(data=data, abstain=0.1, calibrate=data, **on)
    calls = {
        ("train-task", "--data", *data, "--package", "typed", *short): partial(api.train_task, training),
        ("eval", package, "--data", *data, "--test-rows", 2): partial(api.eval, package, scoring),
        ("route", package, "--data", *data, "--abstain", "0.1", "--calibrate", *data): partial(
            api.route, package, routing
        ),
        ("stat-features", package, *of_both): partial(api.stat_features, package, features, force=True),
    }
    for line, call in calls.items():
        events = []
        call(progress=events.append)
        told = [str(event) for event in events if event.kind != "progress"]
        typed = clora(*line, "--device", "cpu")
        assert typed.code == 0, typed.err
        assert told and [text for text in told if text not in typed.err] == [], line[0]
