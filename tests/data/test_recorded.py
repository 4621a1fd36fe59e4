"""An adapter's data are found again as they were given, and known by their rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from refusals import refused

from clora_cli.data import load_task, named_task, origins_of, own_tasks, recorded_columns
from clora_cli.store.manifest import Manifest


@dataclass(frozen=True)
class Member:
    path: Path
    manifest: Manifest


def write(path: Path, word: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"review": f"{word} {i}", "label": "ab"[i % 2]} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def member(given: str, name: str) -> Member:
    columns = {"text": "review"}
    task = load_task(given, columns=columns)
    data = {"name": name, "given": given, "columns": columns, "fingerprint": task.fingerprint}
    return Member(Path("adapters") / name, Manifest({"data": data}))


@pytest.fixture
def inference(folder: Path) -> Member:
    """An adapter whose data are a file that is named like a bundled task."""
    write(folder / "w" / "inference.jsonl")
    return member("w/inference.jsonl", "inference")


def test_a_file_named_like_a_bundled_task_is_found_again(inference: Member) -> None:
    (task,) = own_tasks([inference], "pass --data")
    assert task.source == "file inference.jsonl" and task.train[0].body.startswith("text")
    assert named_task("inference", [inference], "pass --data").fingerprint == task.fingerprint
    assert named_task("inference", [], "pass --data").source == "bundled"


def test_a_name_that_was_given_as_a_name_is_loaded_as_any(inference: Member) -> None:
    bundled = Member(
        Path("p"), Manifest({"data": {"name": "yes-no", "given": "Yes_No", "columns": {}, "fingerprint": "0"}})
    )
    assert named_task("yes-no", [bundled], "pass --data").source == "bundled"


def test_adapters_of_the_same_rows_give_one_task(inference: Member) -> None:
    assert len(own_tasks([inference, inference], "pass --data")) == 1


def test_other_rows_are_refused(inference: Member, folder: Path) -> None:
    write(folder / "w" / "inference.jsonl", "other")
    with refused("recorded-data-changed", "adapters/inference", "pass --data"):
        own_tasks([inference], "pass --data")


def test_a_relative_path_from_another_folder_is_said_so(
    inference: Member, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "w")
    with refused("recorded-data-missing", "'w/inference.jsonl'", "adapters/inference", "this folder", "pass --data"):
        own_tasks([inference], "pass --data")


def test_a_folder_that_is_gone_is_one_line(folder: Path) -> None:
    write(folder / "reviews" / "train.jsonl")
    gone = member("reviews", "reviews")
    (folder / "reviews" / "train.jsonl").unlink()
    with refused("recorded-data-missing", "'reviews'", "pass --data"):
        own_tasks([gone], "pass --data")


def test_merges_keep_what_was_given_for_each(inference: Member) -> None:
    (origin,) = origins_of(inference.manifest)
    merge = {"data": {"name": "m", "source": "merged adapters", "merged": ["inference", "yes-no"],
                      "origins": [origin.recorded()]}}  # fmt: skip
    assert [one.source for one in own_tasks([Member(Path("m"), Manifest(merge))], "pass --data")] == [
        "file inference.jsonl", "bundled"
    ]  # fmt: skip
    del merge["data"]["origins"]
    assert [one.source for one in own_tasks([Member(Path("m"), Manifest(merge))], "pass --data")] == [
        "bundled",
        "bundled",
    ]


def test_a_folder_of_peft_says_nothing_of_its_data() -> None:
    assert origins_of(None) == []


def test_a_file_that_an_adapter_was_trained_on_is_read_by_the_same_columns(folder: Path) -> None:
    rows = [{"text": f"body {i}", "title": f"title {i}", "label": "ab"[i % 2]} for i in range(30)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = load_task("rows.jsonl", columns={"text": "title"})
    data = {"name": "rows", "given": "rows.jsonl", "columns": {"text": "title"}, "fingerprint": task.fingerprint}
    one = Member(Path("p"), Manifest({"data": data}))
    for spelled in ("rows.jsonl", "./rows.jsonl", str(folder / "rows.jsonl")):
        assert recorded_columns(spelled, [one]) == {"text": "title"}
        assert named_task(spelled, [one], "pass --data").fingerprint == task.fingerprint
    assert named_task("rows.jsonl", [one], "", columns={"text": "text"}).train[0].body.startswith("body")
    other = Member(Path("q"), Manifest({"data": {**data, "columns": {}}}))
    with refused("recorded-columns-differ", "rows.jsonl", "--columns"):
        recorded_columns("rows.jsonl", [one, other])
