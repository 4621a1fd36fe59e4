"""Units and workers, with a worker that only pretends: no model is loaded here."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest
from pretend import pretending

from clora_cli.model.base_model import ModelReference
from clora_cli.recipes import read_recipe
from clora_cli.recipes.planning import UnitPlan, clean
from clora_cli.recipes.running import carry_out
from clora_cli.recipes.steps import script, units_of
from clora_cli.store.costs import COSTS, Cost, append_cost, read_costs

REFERENCE = ModelReference("clora-nano", None, "causal", "f" * 64)


class Heard:
    def __init__(self):
        self.begun, self.said, self.ended = [], [], []

    def begins(self, unit, step):
        self.begun.append((unit.name, step.kind, step.task))

    def says(self, unit, line):
        self.said.append(line)

    def ends(self, unit, step, outcome):
        self.ended.append(outcome)


class Interrupting(Heard):
    """Interrupts this process when the evaluations of two units run."""

    def __init__(self):
        super().__init__()
        self._both_run = threading.Barrier(2, lambda: os.kill(os.getpid(), signal.SIGINT))

    def says(self, unit, line):
        super().says(unit, line)
        kind = next(kind for name, kind, _ in reversed(self.begun) if name == unit.name)
        if kind == "eval" and line == "warning: careful":
            self._both_run.wait(timeout=60)


@pytest.fixture
def go(recipe, tmp_path):
    """Carry out the small recipe with the pretending worker."""

    def run(jobs=1, only=(), heard=None, **environment):
        units = units_of(recipe, only)
        plans = [UnitPlan(unit, ("to do",) * len(unit.steps)) for unit in units]
        for unit in units:
            unit.folder.mkdir(parents=True, exist_ok=True)
        heard = heard or Heard()
        numbers = []

        def start(number):
            numbers.append(number)
            return pretending(**environment)

        results = carry_out(plans, REFERENCE, start, jobs=jobs, listener=heard)
        assert set(numbers) <= set(range(jobs))
        return *results, heard

    return run


def test_steps_of_a_unit_come_in_order_and_cost_a_line_each(go, recipe):
    results, interrupted, heard = go(only=["sparse"])
    assert not interrupted
    assert [(one.done, one.failure, one.complete) for one in results] == [(4, None, True)] * 2
    one = [("train", "yes-no"), ("eval", "yes-no"), ("train", "inference"), ("eval", "inference")]
    assert [(kind, task) for _, kind, task in heard.begun] == one * 2
    costs = read_costs(recipe.out / COSTS)
    assert len(costs) == 8
    first = costs[0]
    assert (first.method, first.seed, first.stage, first.step) == ("sparse", 1, 1, "train")
    assert (first.peak_memory_bytes, first.trainable_parameters, first.adapter_bytes) == (123, 6, 97)
    assert costs[1].trainable_parameters is None
    log = (recipe.out / "sparse" / "seed-1" / "run.log").read_text().splitlines()
    assert log[0].startswith("$ clora train-task --method n-lora --data yes-no")
    assert log[1:4] == ["train x: 3/10  loss 1", "warning: careful", "no end of line"]


def test_a_union_begins_when_the_adapters_that_it_evaluates_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = "{method: seq-lora, label: a, learns: [yes-no]}, {method: seq-lora, label: b, learns: [inference]}"
    text = f"model: clora-nano\ntasks: [yes-no, inference]\nmethods: [{parts}, {{label: both, adapters-of: [a, b]}}]\n"
    units, heard = units_of(read_recipe(text, "r.yaml")), Heard()
    for unit in units:
        unit.folder.mkdir(parents=True)
    plans = [UnitPlan(unit, ("to do",) * len(unit.steps)) for unit in units]
    carry_out(plans, REFERENCE, lambda number: pretending(), jobs=3, listener=heard)
    assert len(heard.begun) == 5 and heard.begun[-1] == ("both, seed 42", "eval", "inference")


def test_a_failure_stops_its_unit_and_no_other(go):
    results, _, _ = go(jobs=3, FAIL="inference")
    told = {one.unit.name: one.failure and (one.failure.code, one.failure.message, one.done) for one in results}
    failed = (3, "it went wrong", 2)
    assert told == {
        "seq-lora, seed 1": None,
        "seq-lora, seed 2": None,
        "sparse, seed 1": failed,
        "sparse, seed 2": failed,
    }


def test_a_worker_that_is_gone_is_a_failure_with_its_signal(go):
    results, _, _ = go(only=["sparse"], DIE="eval")
    assert [one.failure.code for one in results] == [137, 137]  # the second unit has a worker of its own
    assert "SIGKILL: out of memory, perhaps" in results[0].failure.message


def test_a_signal_reaches_the_running_commands_and_nothing_more_begins(go):
    results, interrupted, heard = go(jobs=2, WAIT="eval", heard=Interrupting())
    assert interrupted
    assert [one.failure for one in results] == [None] * 4
    assert {kind for _, kind, _ in heard.begun} == {"train", "eval"}
    assert not any(one.complete for one in results)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_costs_survive_a_broken_line(tmp_path):
    cost = Cost(method="m", seed=1, task="t", stage=1, step="train", seconds=1.5, peak_memory_bytes=7)
    path = tmp_path / COSTS
    append_cost(path, cost)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert read_costs(path) == [cost]
    append_cost(path, Cost(**{**cost.__dict__, "step": "eval"}))
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == ["train", "eval"]
    assert [one.step for one in read_costs(path)] == ["train", "eval"]


def test_leftovers_of_a_killed_command_go(recipe):
    (unit, *_) = units_of(recipe)
    package, scores = unit.package, unit.folder / "scores"
    for path in (
        package / ".clora-yes-no-abc",
        package / ".yes-no.unfinished",
        package / ".inference.unfinished",
        scores,
    ):
        path.mkdir(parents=True)
    (package / "yes-no").mkdir()
    (scores / ".clora-1-yes-no.json-x").write_text("half")
    clean(unit)
    assert sorted(path.name for path in package.iterdir()) == [".inference.unfinished", "yes-no"]
    assert list(scores.iterdir()) == []


def test_the_script_has_every_step_once(recipe):
    units = units_of(recipe)
    lines = [line for line in script(recipe, units).splitlines() if line.startswith("clora ")]
    assert len(lines) == sum(len(unit.steps) for unit in units) == 16
    assert "-o strength=0.1" in lines[10]
    assert lines[9].split()[:3] == ["clora", "eval", "runs/small/sparse/seed-1/adapters/yes-no"]
