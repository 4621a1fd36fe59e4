"""Limits of continuous integration, from the command line."""

from __future__ import annotations

import shutil
from xml.etree import ElementTree

import pytest
from support import contents


@pytest.fixture
def train(clora, here, model_folder, tasks):
    """Run a short training with these options."""
    short = ["--rank", 2, "--max-steps", 2, "--batch-size", 4, "--device", "cpu"]

    def run(task, *more):
        return clora("train-task", "--model", model_folder("llama"), "--data", tasks[task], *short, *more)

    return run


def test_a_broken_limit_names_the_slice_and_is_written_for_ci(clora, package, model_folder, monkeypatch):
    call = ["eval", package, "--model", model_folder("llama"), "--junit", "out/junit.xml", "--device", "cpu"]
    result = clora(*call, "--fail-under", 101)
    assert (result.code, result.error) == (5, "limit-broken")
    assert "::" not in result.err
    assert "worst: " in result.err
    assert "; rows 0, 1, 2" in result.err
    root = ElementTree.parse(package.parent / "out" / "junit.xml").getroot()
    assert int(root.get("failures")) == int(root.get("tests"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = clora(*call, "--fail-under", 101)
    assert "::error title=clora eval::the mean score" in result.err
    result = clora(*call, "--fail-under", 0)
    assert (result.code, "::" in result.err) == (0, False)
    assert ElementTree.parse(package.parent / "out" / "junit.xml").getroot().get("failures") == "0"


def test_an_adapter_that_does_not_meet_its_gate_leaves_the_package_as_it_was(train, here):
    assert train("first").code == 0
    before = contents(here / "adapters")
    result = train("second", "--keep-if", "fail-under=101", "--keep-if", "rows=4")
    assert (result.code, result.error) == (5, "gate-not-met")
    assert contents(here / "adapters") == before
    result = train("second", "--keep-if", "fail-under=0", "--keep-if", "max-forgetting=100", "--keep-if", "rows=4")
    assert (result.code, result.out.splitlines()[-1]) == (0, "adapters/second  (trained, stage 2)")
    kept = contents(here / "adapters")
    assert kept.items() > before.items()
    assert not (here / ".adapters.not-kept").exists()
    other = train("third", "--method", "per-task", "--keep-if", "fail-under=0")
    assert (other.code, other.error) == (2, "ways-to-combine-differ")
    assert not (here / ".adapters.not-kept").exists()
    shutil.copytree(here / "adapters" / "second", here / ".adapters.not-kept" / "second")  # as a kill leaves it
    again = train("second", "--keep-if", "fail-under=101")
    assert (again.code, "up to date" in again.out) == (0, True)
    assert contents(here / "adapters") == kept
    assert not (here / ".adapters.not-kept").exists()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (["--keep-if", "mean=3"], "option-malformed"),
        (["--keep-if", "fail-under=high"], "option-malformed"),
        (["--keep-if", "rows=3"], "option-missing"),
        (["--keep-if", "fail-under=3", "--out", "elsewhere"], "option-has-no-effect"),
    ],
)
def test_a_gate_that_says_nothing_is_refused(train, here, given, error):
    result = train("first", *given)
    assert (result.code, result.error) == (2, error)
    assert not (here / "adapters").exists()


def test_a_limit_of_general_loss_decides_the_exit_code(clora, package, model_folder, tasks):
    base = ["--model", model_folder("llama"), "--data", tasks["first"], "--device", "cpu"]
    probe, call = ["--retention", tasks["third"]], ["eval", package, *base]
    for given, error in {
        ("--max-general-loss", 1): "option-missing",
        (*probe, "--max-general-loss", "nan"): "option-out-of-range",
    }.items():
        result = clora(*call, *given)
        assert (result.code, result.error) == (2, error)
    alone = clora("eval", *base, *probe, "--max-general-loss", 1)
    assert (alone.code, alone.error) == (2, "option-has-no-effect")
    broken = clora(*call, *probe, "--max-general-loss", -200)
    assert (broken.code, broken.error) == (5, "limit-broken") and "general ability by" in broken.err
    assert clora(*call, *probe, "--max-general-loss", 100).code == 0
    assert clora("merge", package, "--out", "merged").code == 0
    merged = clora("eval", "merged", *base, *probe, "--max-general-loss", -200)
    assert (merged.code, merged.error) == (5, "limit-broken") and "general ability by" in merged.err
