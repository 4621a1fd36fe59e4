"""Beside a private distribution stands no checksum by which a guess of its rows could be tried."""

from __future__ import annotations

import json

import pytest
from support import contents, train

from clora_cli.data import load_task
from clora_cli.store.manifest import MANIFEST
from clora_cli.store.withholding import WITHHELD

PRIVATE = ("--dp-epsilon", "8", "--dp-delta", "1e-5", "--device", "cpu")


@pytest.fixture
def learned(here, model_folder, tasks):
    """A task, and a second one that was trained with rows of the first."""
    for name in ("first", "second"):
        train(model_folder("llama"), tasks[name], here / "adapters", method="replay", max_steps=1)
    return here / "adapters"


def holders(package, checksum):
    return {name for name, content in contents(package).items() if checksum.encode() in content}


def manifest_of(package, name):
    return json.loads((package / name / MANIFEST).read_text(encoding="utf-8"))


def test_the_checksum_of_private_rows_is_nowhere_in_the_package(clora, learned, tasks, model_folder):
    checksum = load_task(str(tasks["first"])).fingerprint
    assert holders(learned, checksum) == {f"first/{MANIFEST}", f"second/{MANIFEST}"}
    call = ("stat-features", learned / "first", "--data", tasks["first"], *PRIVATE)
    result = clora(*call)
    assert result.code == 0, result.err
    assert holders(learned, checksum) == set()
    assert "withheld in" in result.err and "second too, which trained on them" in result.err
    assert manifest_of(learned, "first")["data"]["fingerprint"] == WITHHELD
    assert manifest_of(learned, "second")["data"]["memory"][0]["fingerprint"] == WITHHELD
    assert manifest_of(learned, "second")["data"]["fingerprint"] == load_task(str(tasks["second"])).fingerprint
    # Nothing else is lost by it: the same calls find both trainings and the distribution up to date.
    common = ("--model", model_folder("llama"), "--package", learned, "--method", "replay", "--max-steps", "1")
    how = ("--rank", "2", "--alpha", "4", "-b", "4", "--lr", "1e-2", "--device", "cpu")
    for name in ("first", "second"):
        assert "up to date" in clora("train-task", "--data", tasks[name], *common, *how).out
    assert "up to date" in clora(*call).out
    # And what is trained on these rows from now on does not tell it either.
    assert clora("train-task", "--data", tasks["third"], *common, *how).code == 0
    assert holders(learned, checksum) == set()


def test_an_exact_distribution_changes_nothing_but_itself(clora, learned, tasks):
    before = contents(learned)
    assert clora("stat-features", learned / "first", "--data", tasks["first"], "--device", "cpu").code == 0
    after = contents(learned)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"first/features.clora"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--dp-epsilon", "1e-9", "--dp-delta", "1e-5"), "--dp-epsilon 1e-09"),
        (("--dp-epsilon", "1e-300", "--dp-delta", "1e-5"), "--dp-epsilon 1e-300"),
        (("--dp-epsilon", "1e300", "--dp-delta", "1e-5"), "--dp-epsilon 1e+300"),
        (("--dp-epsilon", "1", "--dp-delta", "1e-310"), "--dp-delta 1e-310"),
        (("--dp-epsilon", "1", "--dp-delta", "1e-5", "--dp-clip", "1e300"), "--dp-clip 1e+300"),
    ],
)
def test_a_guarantee_that_rounding_would_break_is_refused(clora, package, words, told):
    result = clora("stat-features", package, "--device", "cpu", *words)
    assert (result.code, result.error) == (2, "option-out-of-range") and told in result.err
