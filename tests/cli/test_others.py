from __future__ import annotations

import json
from importlib.metadata import version

import pytest
from support import contents, one_line

from clora_cli import __version__
from clora_cli.base import registry


def test_a_version_in_the_environment_is_not_the_option(clora, monkeypatch):
    monkeypatch.setenv("CLORA_VERSION", "0.2.0")
    assert "topics-news" in clora("tasks").out


def test_a_working_folder_that_is_gone_is_told(clora, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    told = clora("tasks")
    assert (told.code, "no longer there" in told.err) == (1, True)
    assert "clora" in clora("--version").out


def test_version_and_help(clora):
    told = clora("--version").out
    assert told.startswith(f"clora {__version__} (python ") and told.count("\n") == 1
    for library in ("torch", "transformers", "peft"):
        assert f" {library} {version(library)}" in told
    result = clora("--help")
    assert result.code == 0
    for command in ("train-task", "eval", "report", "show", "tasks"):
        assert command in result.out
        own = clora(command, "-h")
        assert own.code == 0
        assert "Example: clora" in " ".join(own.out.split())
    for name in registry.names("methods"):
        assert name in "".join(clora("train-task", "-h").out.split())  # lines break at hyphens too


def test_an_unknown_command(clora):
    result = clora("trian-task")
    assert result.code == 2
    assert "trian-task" in one_line(result)


def test_eval_report_show_chain(clora, package, here):
    before = contents(package)
    result = clora("eval", "adapters", "--matrix", "--score", "labels", "--out", "scores.json", "--device", "cpu")
    assert result.code == 0
    assert "first" in result.out
    scores = json.loads((here / "scores.json").read_text(encoding="utf-8"))
    assert [row["stage"] for row in scores["rows"]] == [0, 1, 2]
    printed = clora("eval", "adapters", "--matrix", "--score", "labels", "--json", "--device", "cpu")
    assert json.loads(printed.out) == scores
    report = clora("report", "scores.json", "--out", "report.md", "--out", "report.json")
    assert report.code == 0
    assert (here / "report.md").read_text(encoding="utf-8").startswith(report.out)  # a file has more tables
    quiet = clora("report", "scores.json", "-q").out
    last = scores["rows"][-1]["scores"].values()
    assert float(quiet) == pytest.approx(sum(entry["value"] for entry in last) / 2, abs=0.01)
    assert clora("show", "scores.json", "-q").out == "first\nsecond\n"
    assert contents(package) == before


def test_eval_prints_the_mean_and_holds_limits_on_it(clora, package, tasks):
    arguments = ("eval", "adapters", "--score", "labels", "-L", 4, "--device", "cpu")
    quiet = clora(*arguments, "-q")
    mean = float(quiet.out)
    assert (quiet.code, quiet.err) == (0, "")
    assert clora(*arguments, "-q", "--fail-under", mean).code == 0
    failed = clora(*arguments, "-q", "--fail-under", mean + 1)
    assert failed.code == 5
    assert float(failed.out) == mean
    assert failed.err.startswith(f"error: the mean score {mean:.2f} is below --fail-under {mean + 1:g}; worst: ")
    assert failed.err.count("\n") == 1


def test_eval_of_one_adapter_and_of_a_list(clora, package, here, tasks):
    plan = clora("eval", "adapters/second", "adapters/first", "--dry-run", "--json")
    assert json.loads(plan.out)["tasks"] == ["first", "second"]
    assert not list(here.glob("*.json"))
    one = clora("eval", "adapters/second", "--data", tasks["third"], "-L", 2, "--json", "--device", "cpu")
    row = json.loads(one.out)["rows"][0]
    assert [adapter["task"] for adapter in row["adapters"]] == ["second"]
    assert list(row["scores"]) == ["third"]


def test_eval_of_the_base_model_alone(clora, here, tasks, model_folder):
    arguments = ("eval", "--data", tasks["first"], "--score", "labels", "-L", 2, "--json", "--device", "cpu")
    data = json.loads(clora(*arguments, "--model", model_folder("llama")).out)
    assert (data["combine"], data["order"], data["base"]["id"]) == ("none", [], str(model_folder("llama")))


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "told"),
    [
        (["adapters", "--combine", "routed"], 2, "option-choice-unknown", "--combine routed: choose one of"),
        (["adapters", "--score", "best"], 2, "option-choice-unknown", "--score best"),
        (["adapters", "-L", "-1"], 2, "option-out-of-range", "--test-rows -1"),
        (["nowhere"], 3, "package-missing", "nowhere"),
        (["adapters", "--data", "mnil"], 3, "data-not-found", "'mnli'"),
        (["adapters", "--model", "no/such"], 3, "hub-unreachable", "base model 'no/such'"),
        (["adapters", "--out", "/proc/clora/x.json", "-L", "1"], 1, "cannot-write", "/proc/clora"),
        (["adapters", "--fail-under", "nan"], 2, "option-out-of-range", "--fail-under nan"),
        (["adapters", "--out", "adapters"], 2, "target-not-regular-file", "--out adapters"),
        (["adapters", "--data", ""], 3, "data-name-empty", "--data"),
        (["adapters", "--data", "x" * 300], 3, "path-unreadable", "File name too long"),
        ([], 2, "option-missing", "--data"),
        (["--dry-run"], 2, "option-missing", "--data"),
    ],
)
def test_eval_refuses_in_one_line(clora, package, here, arguments, code, reason, told):
    before = contents(here)
    result = clora("eval", *arguments, "--device", "cpu")
    assert result.error == reason
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ") and told in last
    assert (result.code, result.out) == (code, "")
    assert contents(here) == before


def test_eval_on_another_base_model_does_not_fit(clora, package, model_folder):
    result = clora("eval", "adapters", "--model", model_folder("llama", 1), "--device", "cpu")
    assert result.code == 4
    assert "was trained on base model" in one_line(result)


def test_show_tells_what_an_adapter_is(clora, package):
    text = clora("show", "adapters/first").out
    assert text.startswith("adapters/first: task first, stage 1\n")
    assert clora("show", "adapters/first", "-q").out == "first\n"
    data = json.loads(clora("show", "adapters/first", "--json").out)
    assert (data["schema"], data["adapter"]["sites"], data["adapter"]["shapes"]) == (
        "clora.show/1",
        4,
        ["16 x 32", "32 x 32"],
    )
    assert clora("show", "adapters", "-q").out == "first\nsecond\n"
    assert [entry["stage"] for entry in json.loads(clora("show", "adapters", "--json").out)["package"]] == [1, 2]


@pytest.mark.parametrize("kind", registry.KINDS)
def test_show_tells_what_every_plug_in_is(clora, kind):
    for name in registry.names(kind):
        result = clora("show", name)
        assert (result.code, registry.load(kind, name).__doc__.splitlines()[0] in result.out) == (0, True)
        told = next(one for one in json.loads(clora("show", name, "--json").out)["plugins"] if one["kind"] == kind)
        known = {} if kind == "metrics" else registry.options(registry.load(kind, name))
        assert set(told["options"]) == set(known) == set(clora("show", name, "-q").out.split()) & set(known)


def test_show_refuses_damage(clora, package):
    weights = package / "first" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    for path in ("adapters/first", "adapters"):
        result = clora("show", path)
        assert result.code == 3
        assert "adapters/first is damaged" in one_line(result)
    (package / "first" / "clora.json").unlink()
    assert clora("show", "adapters/first").code == 3
    assert clora("show", "nowhere").code == 3


def test_show_of_a_file_that_is_no_scores_file(clora, here):
    (here / "x.json").write_text("{}", encoding="utf-8")
    result = clora("show", "x.json")
    assert result.code == 3
    one_line(result)


def test_report_refuses_other_endings_before_it_writes(clora, package, here):
    clora("eval", "adapters", "--score", "labels", "-L", 1, "--out", "scores.json", "--device", "cpu")
    result = clora("report", "scores.json", "--out", "a.md", "--out", "a.docx")
    assert result.code == 2
    assert "must be .html, .md, .tex, .csv, .json, .png, .svg or .pdf" in one_line(result)
    assert not (here / "a.md").exists()
    assert clora("report", "none.json").code == 3


def test_tasks_are_listed_and_loaded(clora, tasks):
    listed = clora("tasks", "-q").out.split()
    assert "mnli" in listed
    data = json.loads(clora("tasks", "--json").out)
    assert data["schema"] == "clora.tasks/1"
    assert [entry["name"] for entry in data["tasks"]] == listed
    one = json.loads(clora("tasks", tasks["first"], "--json").out)
    assert (one["schema"], one["rows"]) == ("clora.task/1", {"train": 24, "dev": 4, "test": 9})
    assert clora("tasks", tasks["first"], "-q").out == "first\n"
    result = clora("tasks", "mnil")
    assert result.code == 3
    assert "'mnli'" in one_line(result)


def test_a_task_is_written_for_the_harness(clora, here):
    result = clora("tasks", "yes-no", "--lm-eval", "out", "--json")
    assert json.loads(result.out)["lm_eval"] == "lm_eval run --include_path out --tasks clora_yes_no"
    assert {path.suffix for path in (here / "out").iterdir()} == {".yaml", ".py", ".json", ".jsonl"}
    assert clora("tasks", "--lm-eval", "out").error == "option-missing"
