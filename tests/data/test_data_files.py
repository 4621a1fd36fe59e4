"""Files of each format give the same task; hostile ones give one line with the file, the place and the mend."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from refusals import refused

from clora_cli.data import Task, load_task

ROWS = [{"text": f"review number {i}, with a comma", "label": ["good", "bad"][i % 2]} for i in range(40)]


def put(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def jsonl(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def save(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in {".csv", ".tsv"}:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        put(path, jsonl(rows) if path.suffix == ".jsonl" else json.dumps(rows))
    return path


def fails(path: Path, code: str, *names: str) -> None:
    with refused(code, *names):
        load_task(str(path))


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_reads_the_same_task(folder: Path, ending: str) -> None:
    task = load_task(str(save(folder / f"My reviews.{ending}", ROWS)))
    expected = load_task(str(save(folder / "expected.jsonl", ROWS)))
    assert task.fingerprint == expected.fingerprint
    assert (task.name, task.labels, task.metric) == ("my-reviews", ("bad", "good"), "exact-match")
    assert (len(task.train), len(task.dev), len(task.test)) == (32, 4, 4)


def test_a_numbered_file_of_ones_own_is_no_known_task(folder: Path) -> None:
    assert load_task(str(save(folder / "task-2.jsonl", ROWS))).name == "task-2"
    assert load_task(str(save(folder / "task_02.jsonl", ROWS))).name == "task_02"
    assert load_task(str(save(folder / "Task002.jsonl", ROWS))).name == "task002"


def test_json_may_keep_its_rows_under_data_or_be_lines(folder: Path) -> None:
    expected = load_task(str(save(folder / "a.jsonl", ROWS))).fingerprint
    assert load_task(str(put(folder / "b.json", json.dumps({"data": ROWS})))).fingerprint == expected
    assert load_task(str(put(folder / "c.json", jsonl(ROWS)))).fingerprint == expected
    assert load_task(str(put(folder / "d.json", json.dumps(ROWS, indent=1)))).fingerprint == expected
    assert load_task(str(put(folder / "e.json", json.dumps({"data": ROWS}, indent=1)))).fingerprint == expected


def test_carved_splits_do_not_depend_on_the_order_of_rows(folder: Path) -> None:
    def texts(task: Task) -> list[set[str]]:
        return [{e.body for e in split} for split in (task.train, task.dev, task.test)]

    forth = load_task(str(save(folder / "a.jsonl", ROWS)))
    back = load_task(str(save(folder / "b.jsonl", ROWS[::-1])))
    assert texts(forth) == texts(back)
    assert not set.intersection(*texts(forth)) and sum(map(len, texts(forth))) == 40


@pytest.mark.parametrize("names", [
    ("train.jsonl", "dev.jsonl", "test.jsonl"),
    ("train.csv", "validation.csv", "test.csv"),
    ("train.json", "valid.json", "test.json"),
    ("data/train-00000-of-00001.parquet", "data/eval-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
])  # fmt: skip
def test_a_folder_of_splits(folder: Path, names: tuple[str, str, str]) -> None:
    for name, part in zip(names, (ROWS[:20], ROWS[20:30], ROWS[30:]), strict=True):
        save(folder / "reviews" / name, part)
    task = load_task("reviews")
    assert task.name == "reviews" and task.notes == ()
    assert [e.body for e in task.dev] == [row["text"] for row in ROWS[20:30]]
    assert [e.body for e in task.test] == [row["text"] for row in ROWS[30:]]


def test_shards_of_a_split_are_joined_in_order(folder: Path) -> None:
    save(folder / "s" / "train-00000-of-00002.jsonl", ROWS[:15])
    save(folder / "s" / "train-00001-of-00002.jsonl", ROWS[15:30])
    save(folder / "s" / "test.jsonl", ROWS[30:])
    task = load_task("s")
    assert len(task.train) + len(task.dev) == 30


def test_a_folder_with_one_file_is_that_file(folder: Path) -> None:
    save(folder / "reviews" / "all.csv", ROWS)
    assert load_task("reviews").fingerprint == load_task("reviews/all.csv").fingerprint


def test_two_files_of_one_split_are_refused(folder: Path) -> None:
    save(folder / "s" / "train.csv", ROWS)
    save(folder / "s" / "train.jsonl", ROWS)
    fails(folder / "s", "split-twice", "train.csv and train.jsonl")


def test_a_folder_that_datasets_saved_keeps_label_names(folder: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = {"text": [f"text {i}" for i in range(30)], "label": [i % 2 for i in range(30)]}
    saved = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": saved.select(range(20)), "validation": saved.select(range(20, 30))}).save_to_disk(
        str(folder / "both")
    )
    saved.save_to_disk(str(folder / "one"))
    both, one = load_task("both"), load_task("one")
    assert both.labels == one.labels == ("bad", "good")
    assert len(both.test) == 10 and "no test split: the 10 dev rows are the test" in both.notes
    assert len(one.train) + len(one.dev) + len(one.test) == 30
    saved.to_parquet(str(folder / "named.parquet"))
    assert load_task("named.parquet").labels == ("bad", "good")


def test_a_line_that_is_no_json_is_named(folder: Path) -> None:
    fails(put(folder / "a.jsonl", jsonl(ROWS[:3]) + '{"text": "trunc'), "json-malformed", "a.jsonl, line 4")


def test_truncated_json_is_named(folder: Path) -> None:
    fails(put(folder / "a.json", json.dumps(ROWS)[:-20]), "json-malformed", "a.json, line 1")


@pytest.mark.parametrize(("content", "code", "named"), [
    ("", "file-empty", "a.json"),
    ("  \n\n", "file-empty", "a.json"),
    ("[]", "no-rows", "a.json"),
    ('{"rows": []}', "rows-not-a-list", '"data"'),
    ('"text"', "rows-not-a-list", "a.json"),
    ("[1, 2]", "row-not-an-object", "a.json, row 1"),
    ("[" * 100_000, "json-malformed", "a.json"),
])  # fmt: skip
def test_json_of_another_shape(folder: Path, content: str, code: str, named: str) -> None:
    fails(put(folder / "a.json", content), code, named)


def test_text_that_is_not_utf8_is_named_by_its_line(folder: Path) -> None:
    fails(put(folder / "a.csv", b"text,label\ngood,a\ncaf\xe9,b\n"), "text-wrong-encoding", "a.csv, line 3", "UTF-8")


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(folder: Path) -> None:
    content = "\ufefftext,label\r\n" + "".join(f"text {i},{'ab'[i % 2]}\r\n" for i in range(10))
    assert load_task(str(put(folder / "a.csv", content))).labels == ("a", "b")


def test_unicode_line_separators_stay_inside_a_row(folder: Path) -> None:
    rows = [{"text": f"one\u2028two\x85{i}", "label": "a"} for i in range(10)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert all("\u2028" in e.body for e in load_task(str(put(folder / "a.jsonl", text))).train)


def test_half_a_surrogate_pair_is_replaced(folder: Path) -> None:
    text = "".join(f'{{"text": "bad \\ud800 half {i}", "label": "a"}}\n' for i in range(5))
    task = load_task(str(put(folder / "a.jsonl", text)))
    assert all("\N{REPLACEMENT CHARACTER}" in e.body for e in task.train) and len(task.fingerprint) == 64


@pytest.mark.parametrize(("content", "code", "named"), [
    ("text,label\na,b,c\n", "csv-fields-misaligned", "line 2: 3 fields where the header has 2"),
    ("text,label\na\n", "csv-fields-misaligned", "line 2: 1 fields where the header has 2"),
    ("text,label,text\na,b,c\n", "column-twice", "'text'"),
    ('text,label\n"a\nb\n', "csv-malformed", "line 2 opens a quote"),
    ("text,label\n", "no-rows", "a.csv"),
])  # fmt: skip
def test_csv_that_is_torn(folder: Path, content: str, code: str, named: str) -> None:
    fails(put(folder / "a.csv", content), code, named)


def test_long_fields_are_read_whole(folder: Path) -> None:
    rows = [{"text": "long " * 40_000 + str(i), "label": "a"} for i in range(4)]
    assert len(load_task(str(save(folder / "a.csv", rows))).train[0].body) > 131_072


def test_a_file_that_is_no_parquet(folder: Path) -> None:
    fails(put(folder / "a.parquet", b"PAR1 nonsense"), "data-not-readable", "a.parquet", "Parquet")


def test_unknown_endings_and_empty_folders(folder: Path) -> None:
    fails(put(folder / "sub" / "a.xlsx", b"x"), "file-type-not-supported", "'.xlsx'")
    (folder / "empty").mkdir()
    fails(folder / "empty", "folder-without-splits", "nothing")
    put(folder / "odd" / "notes.txt", "x")
    fails(folder / "odd", "folder-without-splits", "notes.txt")


@pytest.mark.parametrize(("name", "content", "code", "named"), [
    ("train.json", {"a": 1}, "task-file-malformed", "'Instances'"),
    ("train.json", [{"sentence": "a"}], "row-malformed", "row 1: expected an object with 'sentence' and 'label'"),
    ("train.json", [{"sentence": ["a"], "label": "x"}], "value-not-text", "'sentence' is a list"),
    ("train.json", "text", "rows-not-a-list", "train.json"),
    ("labels.json", {"x": 1}, "labels-malformed", "labels.json"),
    ("labels.json", [1, 2], "labels-malformed", "labels.json"),
    ("labels.json", ["x", " "], "labels-malformed", "none of them empty"),
    ("labels.json", ["x", "x "], "classes-alike", "'x ' and 'x'"),
])  # fmt: skip
def test_benchmark_folders_that_are_damaged(folder: Path, name: str, content: object, code: str, named: str) -> None:
    rows = [{"sentence": f"text {i}", "label": "x"} for i in range(5)]
    for file, value in (("train.json", rows), ("test.json", rows), ("labels.json", ["x"]), (name, content)):
        put(folder / "T" / "d" / file, json.dumps(value))
    fails(folder / "T" / "d", code, named)
