from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from pretend import pretending
from refusals import refused
from support import contents

from clora_cli.model.half_precision import OF_MACHINE
from clora_cli.recipes import shipped

RECIPE = """\
name: tiny
model: {model}
tasks: [{first}, {second}]
methods:
  - method: o-lora
    option: {{strength: [0.5, 0.25]}}
  - method: per-task
    stat-features: {{limit: 12}}
    eval: {{combine: route}}
train: {{rank: 2, alpha: 4, max-steps: 3, batch-size: 4, lr: 1e-2, device: cpu}}
eval: {{test-rows: 4}}
"""
_TIMES = {"run.log", "cost.jsonl", ".lock", ".busy"}


def made(folder):
    """Return what a run made, save what tells of times."""
    return {path: content for path, content in contents(folder).items() if path.rpartition("/")[2] not in _TIMES}


def command(*arguments):
    return [sys.executable, "-m", "clora_cli", "run", *map(str, arguments)]


@pytest.fixture(scope="module")
def filled(model_folder, tasks):
    """The recipe's text, for the tiny model and tasks."""

    def text(**changes):
        return RECIPE.format(model=model_folder("llama"), first=tasks["first"], second=tasks["second"], **changes)

    return text


@pytest.fixture(scope="module")
def done(tmp_path_factory, filled):
    """A folder in which the recipe was run, in two processes at a time."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.yaml").write_text(filled(), encoding="utf-8")
    result = subprocess.run(command("tiny.yaml", "--jobs", 2), cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_a_run_writes_the_folders_of_the_single_commands(done):
    folder, result = done
    found = set(made(folder / "runs" / "tiny"))
    for method in ("o-lora", "per-task"):
        assert {f"{method}/seed-42/adapters/{task}/clora.json" for task in ("first", "second")} <= found
        assert {f"{method}/seed-42/scores/1-first.json", f"{method}/seed-42/scores/2-second.json"} <= found
    assert not any("/." in path for path in found)
    assert "per-task/seed-42/adapters/first/features.clora" in found
    costs = [json.loads(line) for line in (folder / "runs/tiny/cost.jsonl").read_text().splitlines()]
    assert len(costs) == 10
    assert all(cost["seconds"] > 0 and cost["peak_memory_bytes"] > 50e6 for cost in costs)
    assert [line.split("|")[1].strip() for line in result.stdout.splitlines()] == [
        "method", "-" * 8, "o-lora", "per-task",
    ]  # fmt: skip
    lines = result.stderr.splitlines()
    assert any(line.startswith("o-lora, seed 42, 2/2 second: trained in ") for line in lines)
    assert any(line.startswith("per-task, seed 42, 1/2 first: scored in ") and ", mean " in line for line in lines)


def test_a_second_call_does_nothing(done, clora, monkeypatch):
    folder, first = done
    monkeypatch.chdir(folder)
    before = contents(folder)
    result = clora("run", "tiny.yaml")
    assert (result.code, result.out, result.err) == (0, first.stdout, "everything is up to date\n")
    assert contents(folder).keys() == before.keys()
    assert made(folder) == {path: content for path, content in before.items() if path.rpartition("/")[2] not in _TIMES}
    assert contents(folder)["runs/tiny/cost.jsonl"] == before["runs/tiny/cost.jsonl"]
    assert clora("run", "tiny.yaml", "-q").out == "runs/tiny\n"
    data = json.loads(clora("run", "tiny.yaml", "--json").out)
    assert (data["schema"], [run["state"] for run in data["runs"]]) == ("clora.run/1", ["complete"] * 2)
    assert data["methods"][0]["mean"]["average-performance"] is not None
    plan = json.loads(clora("run", "tiny.yaml", "--dry-run", "--json").out)
    assert {step["state"] for run in plan["runs"] for step in run["steps"]} == {"up to date"}


def test_the_script_makes_the_same_bytes(done, clora, here):
    folder, _ = done
    (here / "tiny.yaml").write_bytes((folder / "tiny.yaml").read_bytes())
    script = clora("run", "tiny.yaml", "--print").out
    (here / "by-hand.sh").write_text(script, encoding="utf-8")
    # What bash makes of the script's quotes is what is then carried out, command by command.
    stub = 'clora() { python3 -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"; }\n'
    words = subprocess.run(
        ["bash", "-c", stub + script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "CLORA_MODEL": "x"},
    ).stdout.splitlines()
    assert len(words) == 10
    for line in words:
        result = clora(*json.loads(line))
        assert result.code == 0, result.err
    expected = {path: content for path, content in made(folder / "runs").items() if path != "tiny/recipe.yaml"}
    assert made(here / "runs") == expected


def test_interrupted_and_killed_it_ends_with_the_same_bytes(done, here, clora):
    folder, _ = done
    (here / "tiny.yaml").write_bytes((folder / "tiny.yaml").read_bytes())
    log = here / "runs" / "tiny" / "o-lora" / "seed-42" / "run.log"
    for number, delay in ((signal.SIGINT, 0.1), (signal.SIGKILL, 0.3), (signal.SIGKILL, 1.0)):
        size = log.stat().st_size if log.exists() else -1
        process = subprocess.Popen(
            command("tiny.yaml", "--only", "o-lora"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and (not log.exists() or log.stat().st_size <= max(size, 0)):
            time.sleep(0.05)
        if process.poll() is not None:  # all steps of this method were done
            break
        if number == signal.SIGINT:
            refused = clora("run", "tiny.yaml")
            assert (refused.code, refused.out) == (1, "")
            assert f"o-lora/seed-42 is being worked on by process {process.pid}; wait" in refused.err
            assert refused.err.count("\n") == 1
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        elif process.returncode:  # it may have come to its end first
            assert process.returncode == 130
            assert err.splitlines()[-1] == "error: interrupted; give the same command again to continue"
    again = command("tiny.yaml", "--only", "o-lora", "-q")
    result = subprocess.run(again, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "runs/tiny\n"), result.stderr
    assert made(here / "runs/tiny/o-lora") == made(folder / "runs/tiny/o-lora")
    costs = [json.loads(line) for line in (here / "runs/tiny/cost.jsonl").read_text().splitlines()]
    steps = [(cost["method"], cost["task"], cost["step"]) for cost in costs]
    assert len(set(steps)) == len(steps)


def test_what_another_recipe_made_is_refused_before_anything_starts(done, clora, monkeypatch, tmp_path, filled):
    import shutil

    shutil.copytree(done[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    before = made(tmp_path / "copy")
    text = filled().replace("lr: 1e-2", "lr: 2e-2")
    (tmp_path / "copy" / "tiny.yaml").write_text(text, encoding="utf-8")
    result = clora("run", "tiny.yaml", "--only", "o-lora")
    assert (result.code, result.error) == (2, "output-made-differently")
    assert "adapters/first" in result.err
    assert "(training.lr 0.01 -> 0.02); remove runs/tiny/o-lora/seed-42" in result.err
    first, second = text.index("first"), text.index("second")
    (tmp_path / "copy" / "tiny.yaml").write_text(filled().replace("/first,", "/third,"), encoding="utf-8")
    result = clora("run", "tiny.yaml", "--only", "o-lora")
    assert (result.code, result.error) == (4, "stage-differs")
    assert "adapters/first is stage 1 of 2" in result.err
    assert first < second
    after = made(tmp_path / "copy")
    assert {path: after[path] for path in before if path != "tiny.yaml"} == {
        path: content for path, content in before.items() if path != "tiny.yaml"
    }


def test_scores_are_made_again_when_they_are_not_what_is_asked_for(done, clora, monkeypatch, tmp_path, filled):
    import shutil

    shutil.copytree(done[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    (tmp_path / "copy" / "tiny.yaml").write_text(filled().replace("test-rows: 4", "test-rows: 5"), encoding="utf-8")
    (tmp_path / "copy/runs/tiny/per-task/seed-42/scores/1-first.json").write_text("{", encoding="utf-8")

    def states(*arguments):
        plan = json.loads(clora("run", "tiny.yaml", "--dry-run", "--json", *arguments).out)
        return [step["state"] for run in plan["runs"] for step in run["steps"]]

    assert states("--only", "o-lora") == ["up to date", "to do"] * 2
    (tmp_path / "copy" / "tiny.yaml").write_text(filled(), encoding="utf-8")
    assert states() == ["up to date"] * 6 + ["to do"] + ["up to date"] * 3


def test_a_failed_unit_is_told_in_one_line_and_the_others_go_on(clora, here, monkeypatch):
    text = "name: two\nmodel: clora-nano\ntasks: [yes-no, inference]\nmethods: [n-lora, seq-lora]\n"
    (here / "two.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("clora_cli.cli._crew.Crew.worker", lambda crew, number: pretending(FAIL="inference"))
    result = clora("run", "two.yaml")
    assert (result.code, result.out.count("\n")) == (3, 4)
    told = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert told == ["error: n-lora, seed 42, train inference: it went wrong; see runs/two/n-lora/seed-42/run.log"]
    assert "warning: seq-lora, seed 42, 2/2 inference: careful" in result.err
    assert "seq-lora, seed 42, 1/2 yes-no: train x: 3/10  loss 1" in result.err
    assert "n-lora, seed 42, 2/2 inference: train ended with status 3 in 0 s" in result.err


def test_what_every_step_says_of_the_machine_is_told_once(clora, here, monkeypatch):
    text = "name: two\nmodel: clora-nano\ntasks: [yes-no, inference]\nmethods: [n-lora, seq-lora]\n"
    (here / "two.yaml").write_text(text, encoding="utf-8")
    says = f"warning: {OF_MACHINE} has no instructions\n"
    monkeypatch.setattr("clora_cli.cli._crew.Crew.worker", lambda crew, number: pretending(SAYS=says))
    result = clora("run", "two.yaml")
    assert (result.code, result.err.count(says)) == (0, 1)
    assert result.err.count("careful") == 8


@pytest.mark.parametrize(
    ("change", "code", "reason", "told"),
    [
        (("tasks:", "tusks:"), 2, "unknown-name", "tiny.yaml:3: unknown key 'tusks'"),
        (("1e-2", "[1, 2, 3]"), 2, "recipe-value-count-differs", "tiny.yaml:10: lr"),
        (("model: ", "model: no-such-folder"), 3, "base-model-not-found", "base model 'no-such-folder/"),
        (("eval: {test", "eval: {score: labels, test"), 0, "", ""),
        (("device: cpu", "columns: {txt: x}"), 2, "unknown-name", "'text'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(clora, here, filled, change, code, reason, told):
    (here / "tiny.yaml").write_text(filled().replace(*change), encoding="utf-8")
    result = clora("run", "tiny.yaml", *(["--dry-run"] if not code else []))
    assert result.error == reason
    assert result.code == code
    assert told in result.err
    assert [path.name for path in here.iterdir()] == ["tiny.yaml"]


def test_a_dry_run_needs_neither_model_nor_data(clora, here):
    result = clora("run", "n-lora-t5-order4", "--dry-run", "--json")
    data = json.loads(result.out)
    assert (result.code, data["schema"], data["model"]) == (0, "clora.plan/1", "google-t5/t5-large")
    assert len(data["runs"][0]["steps"]) == 30
    assert data["missing"][0].startswith("base model 'google-t5/t5-large' is no folder here")
    assert "note: base model" in result.err
    assert list(here.iterdir()) == []


def test_parts_of_a_recipe_and_other_places(clora, here):
    lines = clora(
        "run", "compare-nano", "--only", "o-lora,pfd", "-m", "mine", "-o", "there", "--print"
    ).out.splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("clora ")]
    assert {words[words.index("--method") + 1] for words in commands if "--method" in words} == {"o-lora", "pfd"}
    assert all(words[words.index("--model") + 1] == "mine" for words in commands)
    assert commands[0][commands[0].index("--package") + 1] == "there/o-lora/seed-42/adapters"
    result = clora("run", "compare-nano", "--only", "o-lorra")
    assert (result.code, result.error, "'o-lora'" in result.err) == (2, "unknown-name", True)
    shown = clora("run", "compare-nano", "--only", "o-lora", "--seed", 7, "--seed", 8, "--dry-run").out
    assert [line for line in shown.splitlines() if "seed" in line] == ["o-lora, seed 7:", "o-lora, seed 8:"]
    assert clora("run", "compare-nano", "--seed", 7, "--seed", 7).code == 2
    for jobs in ("0", "-1", "2.5", "all", "9" * 5000):
        assert clora("run", "compare-nano", f"--jobs={jobs}").error == "option-out-of-range"
    assert clora("run").code == 2
    assert "did you mean 'compare-nano'" in clora("run", "compare-nan").err


def test_recipes_are_listed_and_shown(clora, here):
    listed = clora("run", "--list", "n-lora-t5").out.splitlines()
    assert [name for line in listed if (name := line.split()[0]).startswith("n-lora")] == [
        *(f"n-lora-t5-order{number}" for number in range(1, 7)), "n-lora-t5-superni1", "n-lora-t5-superni2",
    ]  # fmt: skip
    data = json.loads(clora("run", "--list", "--json").out)
    assert {"name", "method", "backbone", "order", "about", "published", "status"} == set(data["recipes"][0])
    assert clora("run", "--list", "nothing-like-it").code == 2
    assert len(clora("run", "--list", "-q").out.splitlines()) == len(data["recipes"])
    shown = clora("run", "n-lora-nano", "--show").out
    (here / "mine.yaml").write_text(shown, encoding="utf-8")
    assert clora("run", "mine.yaml", "--print").out == clora("run", "n-lora-nano", "--print").out


def crew_of(monkeypatch, jobs, per_device=None, settings=({},), device_count=0):
    """Return the crew for units with these settings of train-task, and the devices that each of its workers sees."""
    from clora_cli.cli import _crew

    monkeypatch.setattr("torch.cuda.device_count", lambda: device_count)
    monkeypatch.setattr("clora_cli.recipes.workers.Worker", lambda command, environment: environment)
    monkeypatch.setattr(_crew, "_may_fork", lambda units: False)
    units = [SimpleNamespace(entry=SimpleNamespace(train=one, features=None, eval={})) for one in settings]
    crew = _crew.Crew.of(units, jobs, per_device)
    return crew, [crew.worker(number).get("CUDA_VISIBLE_DEVICES") for number in range(crew.jobs)]


def test_the_list_of_all_recipes_is_a_page_that_names_what_runs_anywhere_first_and_every_part_of_a_name(clora):
    page, names = clora("run", "--list").out, clora("run", "--list", "-q").out.split()
    lines = page.splitlines()
    assert len(lines) < 40 and max(map(len, lines)) <= 130
    assert page.startswith(f"{len(names)} recipes")
    assert page.index("compare-nano") < page.index("\nBACKBONE")
    counted = [
        int(re.search(r"  +(\d+)  +(?:\d+|-)  ", line)[1]) for line in lines if re.match(r"\S+ .* (?:\d+|-)  \S", line)
    ]
    assert sum(counted) == len(names)
    words = page.split()
    for recipe in shipped().values():
        assert recipe.method in words and f"\n{recipe.backbone} " in page


def test_workers_share_the_gpus_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, MIG-5d7b,-1,7")
    assert crew_of(monkeypatch, 3)[1] == ["2", "MIG-5d7b", "2"]
    assert crew_of(monkeypatch, 1)[1] == ["2, MIG-5d7b,-1,7"]
    assert crew_of(monkeypatch, 2, settings=({"device": "cpu"},))[1] == ["2, MIG-5d7b,-1,7"] * 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert crew_of(monkeypatch, 2, device_count=3, settings=({"device": "cuda:0"},))[1] == ["0", "1"]
    assert crew_of(monkeypatch, 2, device_count=4, settings=({"nproc": 2},))[1] == ["0,1", "2,3"]
    assert crew_of(monkeypatch, 2, device_count=5, settings=({"nproc": "auto"}, {}))[1] == ["0,1", "2,3,4"]
    assert crew_of(monkeypatch, 2)[1] == [None, None]


def test_jobs_auto_fills_the_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert crew_of(monkeypatch, None, device_count=2, settings=({},) * 9)[1] == ["0", "1"]
    assert crew_of(monkeypatch, None, 2, device_count=2, settings=({},) * 9)[1] == ["0", "1", "0", "1"]
    assert crew_of(monkeypatch, None, 2, device_count=2, settings=({},) * 3)[1] == ["0", "1", "0"]
    assert crew_of(monkeypatch, None, device_count=4, settings=({"nproc": "auto"},) * 9)[0].jobs == 1
    assert crew_of(monkeypatch, None, device_count=8, settings=({"nproc": 2},) * 9)[0].jobs == 4
    assert crew_of(monkeypatch, None, settings=({},) * 9)[0].jobs == 1


def test_more_jobs_than_devices_allow_are_refused(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with refused("devices-too-few", "--jobs 5 with 1 devices each", "--per-device 2", "2 visible"):
        crew_of(monkeypatch, 5, 2, device_count=2)
    with refused("devices-too-few", "--jobs 3 with 2 devices each"):
        crew_of(monkeypatch, 3, 1, device_count=4, settings=({"nproc": 2},))
    assert crew_of(monkeypatch, 5, 2)[0].jobs == 5  # without a GPU there is nothing to share


def test_points_of_a_sweep_that_train_alike_are_trained_once(clora, here, filled):
    recipe = filled().replace("  - method: o-lora\n    option: {strength: [0.5, 0.25]}\n", "")
    recipe = recipe.replace(
        "    eval: {combine: route}", "    eval: {combine: route}\n    sweep: {eval: {top-k: [1, 2]}}"
    )
    (here / "swept.yaml").write_text(recipe, encoding="utf-8")
    result = clora("run", "swept.yaml", "--json")
    assert result.code == 0, result.err
    costs = [json.loads(line) for line in (here / "runs/tiny/cost.jsonl").read_text().splitlines()]
    first, second = "per-task@top-k=1", "per-task@top-k=2"
    assert [cost["step"] for cost in costs if cost["method"] == second] == ["eval", "eval"]
    assert [cost["step"] for cost in costs if cost["method"] == first].count("train") == 2
    assert not (here / "runs/tiny" / second / "seed-42/adapters").exists()
    scores = json.loads((here / "runs/tiny" / second / "seed-42/scores/2-second.json").read_text())
    assert scores["settings"]["route"]["top_k"] == 2
    assert "everything is up to date" in clora("run", "swept.yaml").err
    report = clora("report", "runs/tiny")
    assert report.code == 0 and "## Sweep of per-task" in report.out
