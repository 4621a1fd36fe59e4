from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refused

from clora_cli.base.errors import CloraError
from clora_cli.base.folder_names import check_path, folder_problem, same_on_some_disk, twin


@pytest.mark.parametrize(
    "name", ["mnli", "task1572", "情感", "a b", "n-lora+o-lora", "console", "com10", "x.y", "a" * 200]
)
def test_names_that_every_disk_takes(name):
    assert folder_problem(name) is None


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("", "leave out slashes"),
        ("..", "leading dot"),
        ("a/b", "slashes"),
        ("a\\b", "slashes"),
        ("a\x1b[1m", "cannot be shown"),
        ("a" * 201, "below 200 bytes"),
        ("é" * 101, "below 200 bytes"),
        ("CON", "Windows"),
        ("nul.txt", "Windows"),
        ("Com1", "Windows"),
        ("lpt9.tar.gz", "Windows"),
        ("a.", "Windows"),
        ("a ", "Windows"),
        ("a:b", "Windows"),
        ("what?", "Windows"),
    ],
)
def test_names_that_some_disk_does_not_take(name, mend):
    assert mend in str(folder_problem(name))


@pytest.mark.parametrize(
    ("one", "other"), [("MNLI", "mnli"), ("caf\u00e9", "cafe\u0301"), ("Straße", "STRASSE"), ("ﬁlm", "film")]
)
def test_names_that_some_disk_takes_for_one(one, other):
    assert same_on_some_disk(one) == same_on_some_disk(other)
    assert twin(one, ["x", one, other]) == other
    assert twin(one, ["x", one]) is None


def test_places_that_cannot_be_written_are_refused():
    check_path(Path("runs/a/b"), "--out")
    for long in (Path("a" * 300), Path("a" * 300, "b"), Path(*["a" * 100] * 50)):
        with refused("path-too-long", "--out", "a" * 40):
            check_path(long, "--out")
    with pytest.raises(CloraError) as info:
        check_path(Path("a\nb"), "--out")
    assert info.value.code == "name-not-legible" and str(info.value).startswith("--out a")


def test_a_path_through_a_link_to_itself_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "loop", tmp_path / "loop" / "new"):
        with refused("path-loops", f"--out {path}", "link to itself"):
            check_path(path, "--out")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    check_path(tmp_path / "dangling", "--out")
