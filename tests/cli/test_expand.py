from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable

import pytest
import torch
import typer
from parts import write_parts
from support import contents, data_of, write_random_adapter

from clora_cli import cli
from clora_cli.algebra.statistics import Moments
from clora_cli.cli.expand import expand
from clora_cli.cli.stat_features import stat_features
from clora_cli.store.distribution import Distribution
from clora_cli.store.feature_record import FeatureRecord
from clora_cli.store.side_files import FEATURES


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    for name, command in (("expand", expand), ("stat-features", stat_features)):
        if name not in typer.main.get_command(cli.app).commands:
            cli.app.command(name)(command)


@pytest.fixture
def write(here, backbone) -> Callable[..., None]:
    """Write an adapter of random numbers, with a distribution."""
    base = backbone("llama")

    def member(path, stage, seed=0):
        folder = here / path
        write_random_adapter(folder, base, stage=stage + seed, manifest={"stage": stage})
        model = {"id": base.reference.id, "fingerprint": base.reference.fingerprint, "kind": "causal"}
        record = {"base_model": model, "source": "base", "pool": "prompt-mean", "text": "prompt", "max_length": 64}
        moments = {"model.layers.0.self_attn.q_proj": Moments.of(torch.randn(6, 4))}
        Distribution(moments, FeatureRecord({**record, "second_moment": "none", "data": []})).write(folder / FEATURES)

    return member


@pytest.fixture
def packages(write):
    for package, task, stage, seed in (("a.pkg", "first", 1, 0), ("a.pkg", "second", 2, 0), ("b.pkg", "third", 1, 9)):
        write(f"{package}/{task}", stage, seed)


def test_the_call_as_it_was_asked_for(clora, here, packages):
    before = contents(here)
    result = clora("expand", "a.pkg", "b.pkg")
    assert (result.code, result.out.splitlines()[0]) == (0, "expanded.pkg")
    rows = [line.split() for line in result.out.splitlines()[2:]]
    assert rows == [
        ["1", "first", "a.pkg", "inc-lora", "6", "none"],
        ["2", "second", "a.pkg", "inc-lora", "6", "none"],
        ["3", "third", "b.pkg", "inc-lora", "6", "none"],
    ]
    assert {name: content for name, content in contents(here).items() if not name.startswith("expanded.pkg/")} == before
    assert clora("expand", "a.pkg", "b.pkg").out.startswith("expanded.pkg  (up to date)\n")
    assert clora("expand", "a.pkg", "b.pkg", "-q").out == "expanded.pkg\n"
    shown = clora("show", "expanded.pkg", "-q")
    assert shown.out.split() == ["first", "second", "third"]


def test_json_tells_where_each_member_came_from(clora, packages):
    data = json.loads(clora("expand", "a.pkg", "b.pkg", "-o", "c.pkg", "--rename", "b.pkg/third=last", "--json").out)
    assert (data["schema"], data["path"], data["made"]) == ("clora.expand/1", "c.pkg", True)
    assert data["members"][2] == {
        "task": "last",
        "stage": 3,
        "path": "c.pkg/last",
        "source": "b.pkg/third",
        "origin": {"package": "b.pkg", "stage": 1, "task": "third"},
        "method": "inc-lora",
        "rows": 6,
        "second_moment": "none",
    }


def test_dry_run_writes_nothing(clora, here, packages):
    result = clora("expand", "a.pkg", "b.pkg", "--dry-run")
    assert (result.code, result.out.splitlines()[0]) == (0, "would write expanded.pkg")
    assert not (here / "expanded.pkg").exists()


def test_a_configuration_file_renames_and_settles_conflicts(clora, here, packages, write):
    write("b.pkg/first", 2, seed=5)
    (here / "expand.yaml").write_text("rename:\n  a.pkg/second: next\non-conflict: rename\nout: c.pkg\n")
    result = clora("expand", "a.pkg", "b.pkg", "-c", "expand.yaml")
    assert (result.code, sorted(path.name for path in (here / "c.pkg").iterdir())) == (
        0,
        ["first", "first-2", "next", "third"],
    )
    assert "b.pkg/first becomes task 'first-2'" in result.err


def test_the_commands_that_refusals_name_mend_them(clora, here, backbone, tasks):
    base = backbone("llama")
    shutil.copytree(tasks["third"], here / "third")
    for package, task in (("a.pkg", "first"), ("a.pkg", "second"), ("b.pkg", "third")):
        data = data_of(str(tasks[task]))
        write_random_adapter(here / package / task, base, stage=1 + len(task), manifest={"data": data})
    (here / "b.pkg" / "third" / "clora.json").unlink()  # as PEFT leaves it
    clora("stat-features", "a.pkg/second", "--pool", "last", "--layer", "0", "--second-moment", "diag")

    def mend(message, code, reason):
        result = clora("expand", "a.pkg", "b.pkg")
        assert (result.code, result.error, message in result.err) == (code, reason, True), result.err
        command = re.search(r"`clora (.*?)`", result.err)[1].replace("<its task>", "third")
        assert clora(*shlex.split(command)).code == 0

    mend("b.pkg/third", 3, "feature-distribution-missing")
    clora("stat-features", "a.pkg/first", "--pool", "prompt-mean", "--second-moment", "full", "--force")
    mend("(pool prompt-mean)", 4, "feature-distributions-incomparable")
    clora("stat-features", "a.pkg/first", "--pool", "last", "--second-moment", "diag", "--layer", "1", "--force")
    mend("--layer", 4, "feature-layers-differ")
    clora("stat-features", "b.pkg/third", "--data", "third", "--pool", "last", "--force")
    mend("without the second moments (diag)", 0, "")
    result = clora("expand", "a.pkg", "b.pkg", "--force")
    assert (result.code, "warning" in result.err) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "message"),
    [
        (["a.pkg", "nowhere"], 3, "package-missing", "nowhere"),
        (["a.pkg", "b.pkg", "--rename", "third"], 2, "option-malformed", "--rename third"),
        (["a.pkg", "b.pkg", "--rename", "third=x", "--rename", "third=y"], 2, "option-given-twice", "x and y"),
        (["a.pkg", "b.pkg", "--rename", "thrd=x"], 2, "rename-matches-nothing", "'third'"),
        (["a.pkg", "b.pkg", "--rename", "third=first"], 4, "task-name-conflict", "a.pkg/first and b.pkg/third"),
        (["a.pkg", "b.pkg", "--on-conflict", "both"], 2, "option-choice-unknown", "error, keep, rename"),
        (["a.pkg", "b.pkg", "-o", "a.pkg"], 2, "output-would-change-input", "--out a.pkg"),
        (["a.pkg", "bare"], 3, "feature-distribution-missing", "`clora stat-features bare --data second`"),
    ],
)
def test_mistakes_end_in_one_line(clora, here, packages, arguments, code, reason, message):
    (here / "a.pkg" / "second").rename(here / "bare") if "bare" in arguments else None
    (here / "bare" / FEATURES).unlink(missing_ok=True)
    before = contents(here)
    result = clora("expand", *arguments)
    assert result.error == reason
    assert (result.code, result.out) == (code, "")
    (error,) = result.err.splitlines()
    assert error.startswith("error: ") and message in error
    assert contents(here) == before


def test_members_known_by_task_vectors_are_told_apart(clora, here, backbone):
    write_parts(here / "a.pkg", backbone("llama"), ["first", "second"])
    result = clora("expand", "a.pkg", "--out", "both.pkg")
    rows = [line.split() for line in result.out.splitlines()[2:]]
    assert rows == [
        ["1", "first", "a.pkg", "cast", "-", "task", "vector"],
        ["2", "second", "a.pkg", "cast", "-", "task", "vector"],
    ]
    facts = json.loads(clora("expand", "a.pkg", "--out", "again.pkg", "--json").out)["members"]
    assert [(fact["rows"], fact["second_moment"]) for fact in facts] == [(None, None)] * 2
    assert "warning" not in result.err
