"""``clora show --diff``: two adapters, a list, a package; what it prints, draws and refuses."""

from __future__ import annotations

import json

import pytest
from support import contents, write_random_adapter

from clora_cli.algebra.comparison import EPSILON
from clora_cli.cli.show import Measure
from clora_cli.reporting.differences import MEASURES

TASKS = ("first", "second", "third")


@pytest.fixture
def package(here, backbone):
    base = backbone("llama")
    for stage, task in enumerate(TASKS, start=1):
        write_random_adapter(here / "adapters" / task, base, stage=stage)
    return here / "adapters"


def test_two_adapters_however_the_option_is_placed(clora, package):
    before = contents(package)
    result = clora("show", "adapters/first", "--diff", "adapters/second")
    assert result.code == 0
    assert "## second against first" in result.out
    assert "exceeds 0.03 of" in result.out
    for arguments in (("--diff", "adapters/first", "adapters/second"), ("adapters/second", "adapters/first", "--diff")):
        assert clora("show", *arguments).out == result.out
    assert contents(package) == before


def test_a_package_and_the_list_of_its_members_are_one(clora, package):
    text = clora("show", "adapters", "--diff").out
    assert "## Each against all earlier ones" in text
    assert "## opposite-signs of pairs" in text
    data = json.loads(clora("show", "adapters", "--diff", "--json").out)
    assert data["schema"] == "clora.diff/1"
    assert [entry["task"] for entry in data["adapters"]] == list(TASKS)
    listed = clora("show", "adapters/third", "adapters/first", "adapters/second", "--diff", "--json")
    assert json.loads(listed.out) == data


def test_quiet_prints_one_number(clora, package):
    pair = ("show", "adapters/first", "adapters/second", "--diff")
    data = json.loads(clora(*pair, "--json").out)
    result = clora(*pair, "-q")
    assert (result.code, result.err) == (0, "")
    assert float(result.out) == pytest.approx(data["pairs"]["opposite-signs"][0][1], rel=1e-5)
    assert float(clora(*pair, "-q", "--measure", "cosine").out) == pytest.approx(data["mean"]["cosine"], rel=1e-5)
    whole = json.loads(clora("show", "adapters", "--diff", "--json").out)
    mean = clora("show", "adapters", "--diff", "-q", "--measure", "collision-rate").out
    assert float(mean) == pytest.approx(whole["mean"]["collision-rate"], rel=1e-5)


def test_epsilon_decides_what_counts(clora, package):
    arguments = ("show", "adapters", "--diff", "-q", "--measure", "collision-rate", "--epsilon")
    rates = [float(clora(*arguments, epsilon).out) for epsilon in (0, 0.03, 0.3)]
    assert rates[0] == 1 > rates[1] > rates[2]
    assert clora(*arguments[:-1]).out == clora(*arguments, EPSILON).out


def test_the_heat_maps_are_written(clora, package, here):
    result = clora("show", "adapters", "--diff", "-o", "figures/diff.svg", "--measure", "awom", "-q")
    assert (result.code, result.err) == (0, "")
    assert (here / "figures" / "diff.svg").read_bytes().startswith(b"<?xml")


def test_the_measures_of_the_option_are_those_of_the_engine():
    assert [measure.value for measure in Measure] == list(MEASURES)


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "told"),
    [
        (["adapters/first", "adapters/second"], 2, "option-missing", "--diff"),
        (["adapters", "--out", "diff.png"], 2, "nothing-to-draw", "--out diff.png"),
        (["adapters/first", "--diff"], 2, "difference-needs-two-adapters", "adapters/first"),
        (["adapters", "--diff", "--out", "diff.gif"], 2, "output-ending-unknown", ".png, .svg, .pdf"),
        (["adapters", "--diff", "--epsilon", "1"], 2, "option-out-of-range", "epsilon 1"),
        (["adapters", "--diff", "--measure", "angle"], 2, "", "angle"),
        (["adapters", "--diff", "--json", "-q"], 2, "", "--quiet"),
        (["adapters", "nowhere", "--diff"], 3, "package-missing", "nowhere"),
        (["adapters", "notes.txt", "--diff"], 3, "not-a-package", "notes.txt"),
        (["adapters", "--diff", "--out", "notes.txt/diff.png"], 1, "cannot-write", "notes.txt/diff.png"),
        (["adapters", "other", "--diff"], 4, "base-models-differ", "llama-1"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(clora, package, here, backbone, arguments, code, reason, told):
    (here / "notes.txt").write_text("no adapter", encoding="utf-8")
    write_random_adapter(here / "other", backbone("llama", 1), stage=4)
    before = contents(here)
    result = clora("show", *arguments)
    assert result.error == reason
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ") and told in last
    assert (result.code, result.out) == (code, "")
    assert contents(here) == before
