"""The scores file: what is written can be read, and what cannot be true is refused with its place."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refused

from clora_cli.store.scores import SCHEMA, AdapterRef, BaseRef, ScoreRow, Scores, TaskScore, read_scores, write_scores

SCORES = Scores(
    base=BaseRef("clora-nano", "abc"),
    package="adapters",
    method="n-lora",
    combine="sum",
    score="generate",
    order=("cb", "rte"),
    rows=(
        ScoreRow(0, "", (), {"cb": TaskScore("exact-match", "normalised", 25.0, 56, 14, 3)}),
        ScoreRow(1, "cb", (AdapterRef("cb", "01"),), {"cb": TaskScore("exact-match", "normalised", 75.0, 56, 42)}),
        ScoreRow(
            2,
            "rte",
            (AdapterRef("cb", "01"), AdapterRef("rte", "02")),
            {
                "cb": TaskScore("exact-match", "normalised", 100 * 41 / 56, 56, 41, 0, 2),
                "rte": TaskScore("rouge-l", "F measure", 61.25, 277),
            },
        ),
    ),
)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "scores.json"
    write_scores(SCORES, path)
    assert read_scores(path) == SCORES
    assert read_scores(path).source == path
    assert read_scores(str(path)).rows[2].scores["cb"].value == 100 * 41 / 56  # to the last bit


def test_the_layout_is_the_documented_one(tmp_path):
    write_scores(SCORES, tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())
    assert set(content) == {"schema", "base", "package", "method", "combine", "score", "order", "rows", "settings"}
    assert content["schema"] == SCHEMA == "clora.scores/1"
    assert content["base"] == {"id": "clora-nano", "fingerprint": "abc"}
    assert content["order"] == ["cb", "rte"]
    assert content["rows"][1] == {
        "stage": 1,
        "after": "cb",
        "adapters": [{"task": "cb", "sha256": "01"}],
        "scores": {
            "cb": {
                "metric": "exact-match",
                "formula": "normalised",
                "value": 75.0,
                "total": 56,
                "correct": 42,
                "empty": 0,
                "dropped": 0,
                "per_row": [],
            }
        },
    }
    assert content["rows"][2]["scores"]["rte"]["correct"] is None


def test_equal_scores_give_equal_bytes_and_no_remains(tmp_path):
    write_scores(SCORES, tmp_path / "a.json")
    write_scores(SCORES, tmp_path / "a.json")
    write_scores(SCORES, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def damaged(change):
    content = copy.deepcopy(json.loads(json.dumps(SCORES.to_dict())))
    change(content)
    return content


CELL = ("rows", 2, "scores", "cb")


def put(*place_and_value):
    *place, key, value = place_and_value

    def change(content):
        for step in place:
            content = content[step]
        content[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (put("base", "clora-nano"), "base"),
        (put("base", "fingerprint", 7), "base.fingerprint"),
        (put("method", None), "method"),
        (put("order", "cb"), "order"),
        (put("order", ["cb", 2]), "order"),
        (put("order", ["cb", "cb"]), "order"),
        (put("rows", {}), "rows"),
        (put("rows", 1, []), "rows[1]"),
        (put("rows", 1, "stage", True), "rows[1].stage"),
        (put("rows", 1, "stage", 0), "rows[1].after 'cb'"),
        (put("rows", 1, "after", "wic"), "rows[1].after 'wic'"),
        (put("rows", 1, "after", ""), "rows[1].after"),
        (put("rows", 1, "adapters", 0, {"task": "cb"}), "rows[1].adapters[0].sha256"),
        (put("rows", 2, "scores", []), "rows[2].scores"),
        (put("rows", 2, "scores", "cb", 73.2), "rows[2].scores.cb"),
        (put(*CELL, "value", "73"), "rows[2].scores.cb.value"),
        (put(*CELL, "value", 100.5), "rows[2].scores.cb.value"),
        (put(*CELL, "value", 0.732), "rows[2].scores.cb.value 0.732"),
        (put(*CELL, "total", 56.0), "rows[2].scores.cb.total"),
        (put(*CELL, "total", 0), "rows[2].scores.cb.total"),
        (put(*CELL, "correct", -1), "rows[2].scores.cb.correct"),
        (put(*CELL, "empty", None), "rows[2].scores.cb.empty"),
        (put(*CELL, "metric", 1), "rows[2].scores.cb.metric"),
    ],
)
def test_damage_is_refused_by_file_and_place(tmp_path, change, place):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(damaged(change)))
    with refused("scores-file-damaged", f"{path}: {place} ", "`clora eval"):
        read_scores(path)


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ("clora.scores/2", "format-not-supported"),
        (None, "not-a-scores-file"),
        ("clora.report/1", "not-a-scores-file"),
    ],
)
def test_other_schemas_are_refused(tmp_path, schema, code):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(damaged(put("schema", schema))))
    with refused(code, path, "clora.scores/", "clora eval"):
        read_scores(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"schema": "clora.scores/1"'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    with refused("file-damaged", path):
        read_scores(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    with refused("file-missing", tmp_path / "none.json"):
        read_scores(tmp_path / "none.json")
    with refused("file-damaged", tmp_path):
        read_scores(tmp_path)


def test_what_could_not_be_read_is_not_written(tmp_path):
    nan = ScoreRow(1, "cb", (), {"cb": TaskScore("exact-match", "normalised", float("nan"), 5)})
    with refused("scores-file-damaged", "rows[0].scores.cb.value"):
        write_scores(replace(SCORES, rows=(nan,)), tmp_path / "scores.json")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_one_line_and_keeps_what_was_there(tmp_path):
    (tmp_path / "file").write_text("kept")
    with refused("cannot-write", tmp_path / "file" / "scores.json"):
        write_scores(SCORES, tmp_path / "file" / "scores.json")
    assert (tmp_path / "file").read_text() == "kept"


def test_reading_scores_loads_no_heavy_library():
    code = "import sys, clora_cli.store.scores; print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


def test_rows_own_scores_are_kept_and_must_make_the_value(tmp_path):
    cell = replace(SCORES.rows[-1].scores["cb"], value=50.0, total=4, correct=2, per_row=(1, 0, 0, 1))
    rows = (*SCORES.rows[:-1], replace(SCORES.rows[-1], scores={"cb": cell}))
    scores = replace(SCORES, rows=rows, settings={"test_rows": 4})
    write_scores(scores, tmp_path / "scores.json")
    again = read_scores(tmp_path / "scores.json")
    assert again.rows[-1].scores["cb"].per_row == (1, 0, 0, 1)
    assert again.settings == {"test_rows": 4}
    for wrong in ((1, 0, 0), (1, 1, 0, 1), (2, 0, 0, 0)):
        broken = replace(scores, rows=(*rows[:-1], replace(rows[-1], scores={"cb": replace(cell, per_row=wrong)})))
        with refused("scores-file-damaged", "per_row"):
            write_scores(broken, tmp_path / "scores.json")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (put("settings", {"route": "x"}), "settings.route"),
        (put("settings", {"route": {"a": []}}), "settings.route"),
        (put("settings", {"test_rows": -1}), "settings.test_rows"),
        (put("method", "\x1b[31m"), "method"),
        (put("order", ["cb\u202e"]), "order"),
        (put("rows", 1, "stage", 1 << 60), "rows[1].stage"),
    ],
)
def test_values_that_would_break_a_report_are_refused(tmp_path, change, place):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(damaged(change)))
    with refused("scores-file-damaged", f"{path}: {place}"):
        read_scores(path)


def test_the_normaliser_and_what_was_cut_off_stand_in_the_file_where_they_say_something(tmp_path):
    cell = TaskScore("exact-match", "f", 50.0, 2, 1, normaliser="unicode/1", cut=1)
    scores = replace(SCORES, rows=(ScoreRow(0, "", (), {"cb": cell}),))
    write_scores(scores, tmp_path / "a.json")
    kept = json.loads((tmp_path / "a.json").read_text())["rows"][0]["scores"]["cb"]
    assert (kept["normaliser"], kept["cut"]) == ("unicode/1", 1)
    assert read_scores(tmp_path / "a.json") == scores


def test_scores_that_do_not_say_were_graded_as_in_their_time():
    old, new = (TaskScore("exact-match", "f", 50.0, 2, 1, normaliser=name) for name in ("", "english/1"))
    assert old.yardstick == new.yardstick
    assert old.yardstick != replace(new, normaliser="unicode/1").yardstick
