"""What a page shows of a run: a function of the run's folder, and of who is at work in it."""

from __future__ import annotations

import json
import os
import shlex
import threading
import urllib.error
import urllib.request

import pytest
from pages import HOSTILE
from refusals import refused
from scored import row, scores

from clora_cli.processes.locks import locked
from clora_cli.processes.spots import inside, place
from clora_cli.recipes.journal import read_advance, read_journal
from clora_cli.recipes.live_page import reserved, shown
from clora_cli.recipes.recipe import RECIPE
from clora_cli.recipes.run_state import RunState
from clora_cli.recipes.steps import units_of
from clora_cli.store.costs import COSTS, Cost, append_cost
from clora_cli.store.scores import write_scores

ORDER = ("yes-no", "inference")


@pytest.fixture
def folder(recipe, text):
    """The folder of a run whose first unit has learned and scored one task and was stopped in the second."""
    recipe.out.mkdir(parents=True)
    (recipe.out / RECIPE).write_text(text, encoding="utf-8")
    unit = units_of(recipe)[0]
    unit.adapter(1).mkdir(parents=True)
    (unit.adapter(1) / "adapter_config.json").write_text("{}", encoding="utf-8")
    write_scores(scores(row(1, [80.0], ORDER), order=ORDER[:1]), unit.scores(1))
    first, _, second, _ = (shlex.join(step.words) for step in unit.steps)
    log = f"$ clora {first}\ntrain yes-no: 5/10  loss 2.5  o-lora 1\ntrain yes-no: 10/10  loss 0.5\n"
    log += f"$ clora {second}\ntrain inference: 4/10  loss 1e-05\nerror: out of memory\n"
    unit.log.write_text(log, encoding="utf-8")
    append_cost(recipe.out / COSTS, Cost(method="seq-lora", seed=1, task="yes-no", stage=1, step="train", seconds=2.0))
    return recipe.out


def test_the_state_is_read_from_the_folder_alone(folder):
    data = RunState(folder).data()
    assert (data["recipe"], data["tasks"], data["trouble"]) == ("small", ["yes-no", "inference"], "")
    first, *others = data["runs"]
    assert (first["method"], first["seed"], first["state"], first["now"]) == ("seq-lora", 1, "stopped", None)
    assert (first["done"], first["steps"], first["error"]) == (2, 4, "out of memory")
    assert first["matrix"] == {"after": ("yes-no",), "tasks": ("yes-no",), "scores": [[80.0]], "means": [80.0]}
    assert first["metrics"]["average-performance"] == 80.0
    assert first["losses"] == {"yes-no": [(5, 2.5), (10, 0.5)], "inference": [(4, 1e-05)]}
    assert [run["state"] for run in others] == ["to do"] * 3
    assert [(cost["method"], cost["train_seconds"]) for cost in data["costs"]] == [("seq-lora", 2.0)]


def test_a_second_look_reads_what_changed(folder, recipe):
    state, unit = RunState(folder), units_of(recipe)[0]
    before = state.data()
    assert state.data() == before == RunState(folder).data()
    write_scores(scores(row(2, [70.0, 90.0], ORDER), order=ORDER), unit.scores(2))
    after = state.data()["runs"][0]
    assert after["matrix"]["scores"] == [[80.0, None], [70.0, 90.0]]
    assert after["matrix"]["means"] == [80.0, 80.0]
    unit.scores(2).write_text("{", encoding="utf-8")
    assert "2-inference.json" in state.data()["runs"][0]["trouble"]


def test_what_runs_now_is_told_by_locks(folder, recipe):
    unit = units_of(recipe)[0]
    with locked([inside(unit.folder)]):
        other = units_of(recipe)[1]
        assert RunState(folder).data()["runs"][1]["state"] == "to do"
        with locked([inside(other.folder)]):
            assert RunState(folder).data()["runs"][1]["state"] == "waiting"
    with locked([place(unit.folder / "train-task")]):
        run = RunState(folder).data()["runs"][0]
    assert (run["state"], run["error"]) == ("running", "")
    now = run["now"]
    assert (now["step"], now["stage"], now["task"]) == ("train", 2, "inference")
    assert (now["done"], now["total"], now["status"]) == (4, 10, "loss 1e-05")
    assert now["since"][:2] == "20"
    assert RunState(folder).data()["runs"][0]["now"] is None


def test_a_training_that_is_resumed_repeats_no_losses(tmp_path):
    log = tmp_path / "run.log"
    lines = ["$ clora train-task --data a --seed 1", "train a: 4/10  loss 4", "train a: 8/10  loss 3"]
    lines += [
        "$ clora train-task --data a --seed 1",
        "train a: 6/10",
        "train a: 7/10  loss 2",
        "train a: 9/10  loss nan",
    ]
    log.write_text("\n".join(lines), encoding="utf-8")
    assert str(read_journal(log).losses) == "{'a': {4: 4.0, 7: 2.0, 9: nan}}"
    log.write_text(
        "$ clora 'train-task\n$ clora eval\n$ clora train-task --data\n$ clora stat-features", encoding="utf-8"
    )
    assert read_journal(log).losses == {}
    assert read_advance("train a: 3/4  loss x").loss is None
    assert read_advance("a: b: 3/4") is None


def test_a_log_that_is_none_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "nothing"):
        assert (read_journal(tmp_path / name).kind, read_journal(tmp_path / name).losses) == ("", {})


def test_no_run_no_page(tmp_path):
    with refused("path-unreadable", "recipe.yaml"):
        RunState(tmp_path)


def test_the_page_answers_this_machine_alone_and_writes_nothing(folder):
    before = sorted(folder.rglob("*"))
    with reserved(0) as listening, shown(RunState(folder), listening) as url:
        with refused("address-unavailable", str(listening.getsockname()[1])):
            reserved(listening.getsockname()[1])
        with urllib.request.urlopen(url) as page:
            text, policy = page.read().decode(), page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        with urllib.request.urlopen(f"{url}/state") as answer:
            assert json.load(answer) == json.loads(json.dumps(RunState(folder).data()))
        for path, host, status in (("/x", "localhost", 404), ("/state", "evil.example", 403), ("/", "[::1", 403)):
            asked = urllib.request.Request(f"{url}{path}", headers={"Host": host})
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(asked)
            assert error.value.code == status
            error.value.close()
        (folder / RECIPE).unlink()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{url}/state")
    assert sorted(folder.rglob("*")) == [path for path in before if path.name != RECIPE]
    assert not any(thread.name == "clora page" for thread in threading.enumerate())


def test_text_of_others_reaches_the_page_as_json_that_reads_back(folder, recipe):
    log = units_of(recipe)[0].log
    with log.open("a", encoding="utf-8", errors="surrogatepass") as file:
        file.write("error: " + " ".join(one.replace("\n", " ") for one in HOSTILE))
    with (
        reserved(0) as listening,
        shown(RunState(folder), listening) as url,
        urllib.request.urlopen(f"{url}/state") as got,
    ):
        body = got.read()
    assert json.loads(body)["runs"][0]["error"].startswith("<script>")
    assert b"\x1b" not in body
