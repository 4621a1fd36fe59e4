"""Nothing that a folder, a split, a column or a cell holds is ignored without a note that names it and its rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from clora_cli.data import Example, Task, load_task
from clora_cli.data.layouts import task_name
from clora_cli.data.split_names import split_of

ROWS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]


def save(path: Path, rows: list[dict[str, Any]] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Task:
    return load_task(str(save(folder / "rows.jsonl", rows)), **options)


def examples(task: Task) -> list[Example]:
    return sorted((*task.train, *task.dev, *task.test), key=lambda example: example.prompt)


def told(task: Task) -> list[str]:
    return [note for note in task.notes if "carved" not in note]


@pytest.mark.parametrize(("name", "kind"), [
    ("val", "dev"), ("valid", "dev"), ("Validation", "dev"), ("development", "dev"), ("eval", "dev"),
    ("heldout", "test"), ("held-out", "test"), ("TEST", "test"), ("training", "train"),
])  # fmt: skip
def test_names_of_splits_that_other_tools_write(name: str, kind: str) -> None:
    split = split_of(name)
    assert split is not None and (split.kind, split.variant, split.part) == (kind, "", False)


@pytest.mark.parametrize("name", [
    "train-00000-of-00002", "train_0", "train.part1", "train-part-2", "train_chunk_3", "train01", "train (1)",
    "train-00000-of-00001-a09b74b3ef9c3b56",
])  # fmt: skip
def test_numbered_parts_are_parts_of_a_split(name: str) -> None:
    split = split_of(name)
    assert split is not None and (split.kind, split.variant, split.part) == ("train", "", True)


@pytest.mark.parametrize("name", ["trainer", "contest", "latest", "part-00000", "0000", "data", "validated"])
def test_names_that_say_nothing_of_a_split(name: str) -> None:
    assert split_of(name) is None


@pytest.mark.parametrize("parts", [
    ("train_0.jsonl", "train_1.jsonl", "test.jsonl"),
    ("train.part1.jsonl", "train.part2.jsonl", "heldout.jsonl"),
    ("train/a.jsonl", "train/b.jsonl", "test/c.jsonl"),
    ("data/train/0.jsonl", "data/train/1.jsonl", "data/test/0.jsonl"),
    ("default/train/0.jsonl", "default/train/1.jsonl", "default/test/0.jsonl"),
])  # fmt: skip
def test_parts_and_folders_of_a_split_are_one_split(folder: Path, parts: tuple[str, ...]) -> None:
    for name, part in zip(parts, (ROWS[:15], ROWS[15:30], ROWS[30:]), strict=True):
        save(folder / "set" / name, part)
    task = load_task("set")
    assert len(task.train) + len(task.dev) == 30 and [e.body for e in task.test] == [row["text"] for row in ROWS[30:]]
    assert not [note for note in task.notes if "not used" in note]


def test_a_part_that_is_missing_is_told(folder: Path) -> None:
    save(folder / "set" / "train-00000-of-00003.jsonl", ROWS)
    assert "train-00000-of-00003: only 1 of its 3 parts are here" in load_task("set").notes


def test_several_test_files_are_one_test_and_each_named(folder: Path) -> None:
    for name, part in (("train", ROWS[:20]), ("test_matched", ROWS[20:27]), ("test_mismatched", ROWS[27:])):
        save(folder / "set" / f"{name}.jsonl", part)
    task = load_task("set")
    assert len(task.test) == 20 and "test is test_matched (7 rows), test_mismatched (13 rows)" in task.notes


def test_a_lone_test_file_of_another_name_is_the_test(folder: Path) -> None:
    save(folder / "set" / "train.jsonl", ROWS[:20])
    save(folder / "set" / "test_hard.jsonl", ROWS[20:])
    task = load_task("set")
    assert len(task.test) == 20 and "test is test_hard (20 rows)" in task.notes


def test_files_beside_the_plain_splits_are_named_with_their_rows(folder: Path) -> None:
    for name, part in (("train", ROWS[:20]), ("test", ROWS[20:30]), ("test_hard", ROWS[30:]), ("extra", ROWS[:7])):
        save(folder / "set" / f"{name}.jsonl", part)
    save(folder / "set" / "train.xlsx", "x")
    save(folder / "set" / "more" / "a.jsonl", ROWS)
    note = (
        "not used in set: extra.jsonl (7 rows), more/ (1 files), test_hard.jsonl (10 rows), train.xlsx (cannot be read)"
    )
    assert told(load_task("set")) == [note]


def test_a_whole_split_beside_parts_of_it_is_refused(folder: Path) -> None:
    save(folder / "set" / "train.jsonl", ROWS)
    save(folder / "set" / "train_1.jsonl", ROWS)
    with refused("split-twice", folder / "set", "train and train_1"):
        load_task(str(folder / "set"))


def test_splits_of_two_data_sets_are_refused(folder: Path) -> None:
    save(folder / "set" / "a_train.jsonl", ROWS)
    save(folder / "set" / "b_train.jsonl", ROWS)
    with refused("split-twice", folder / "set", "a_train and b_train"):
        load_task(str(folder / "set"))
    save(folder / "sets" / "de" / "train.jsonl", ROWS)
    save(folder / "sets" / "en" / "train.jsonl", ROWS)
    with refused("several-data-sets", folder / "sets", "de, en"):
        load_task(str(folder / "sets"))


def test_the_benchmark_layout_reads_other_names_of_splits_and_names_the_rest(folder: Path) -> None:
    rows = [{"sentence": f"text {i}", "label": "ab"[i % 2], "source": "x"} for i in range(30)]
    for name, part in (("train", rows[:20]), ("val", rows[20:25]), ("test", rows[25:]), ("test_hard", rows[:3])):
        save(folder / "NLI" / "mine" / f"{name}.json", json.dumps(part))
    save(folder / "NLI" / "mine" / "labels.json", json.dumps(["a", "b"]))
    task = load_task(str(folder / "NLI" / "mine"))
    assert (len(task.train), len(task.dev), len(task.test)) == (20, 5, 5)
    assert task.notes == ("columns not used: source (30 rows)", "not used in mine: test_hard.json (3 rows)")


def test_a_natural_instructions_file_may_be_compressed_and_names_what_it_does_not_use(folder: Path) -> None:
    rows = [{"id": str(i), "input": f"text {i}", "output": ["a"], "level": 3} for i in range(20)]
    task = {"Definition": ["Do it."], "Instances": rows}
    (folder / "task999_x.json.gz").write_bytes(gzip.compress(json.dumps(task).encode()))
    read_back = load_task("task999_x.json.gz")
    assert read_back.name == "task999" and told(read_back) == ["columns not used: level (20 rows)"]


def test_splits_that_datasets_saved_under_other_names(folder: Path) -> None:
    import datasets

    part = datasets.Dataset.from_list(ROWS[:10])
    names = ("train", "validation_matched", "validation_mismatched", "unsupervised")
    datasets.DatasetDict(dict.fromkeys(names, part)).save_to_disk(str(folder / "saved"))
    task = load_task("saved")
    assert len(task.test) == 20
    assert "dev is validation_matched (10 rows), validation_mismatched (10 rows)" in task.notes
    assert "splits not used: unsupervised (10 rows)" in task.notes


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
def test_compressed_files_are_read_and_damaged_ones_are_one_line(folder: Path, ending: str) -> None:
    import bz2
    import lzma

    import pyarrow as pa

    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    zstd = pa.BufferOutputStream()
    with pa.CompressedOutputStream(zstd, "zstd") as stream:
        stream.write(data)
    packed = {"gz": gzip.compress(data), "bz2": bz2.compress(data), "xz": lzma.compress(data)}
    packed["zst"] = zstd.getvalue().to_pybytes()
    (folder / f"rows.jsonl.{ending}").write_bytes(packed[ending])
    task = load_task(f"rows.jsonl.{ending}")
    assert task.name == "rows" and task.fingerprint == read(folder, ROWS).fingerprint
    (folder / f"bad.jsonl.{ending}").write_bytes(packed[ending][: len(packed[ending]) // 2])
    with refused("archive-damaged", f"bad.jsonl.{ending}"):
        load_task(f"bad.jsonl.{ending}")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32", "utf-16-le"])
def test_every_unicode_encoding_is_read(folder: Path, encoding: str) -> None:
    text = "text,label\n" + "".join(f"tä {i},{'ab'[i % 2]}\n" for i in range(20))
    (folder / "rows.csv").write_bytes(text.encode(encoding))
    assert sum("tä" in example.body for example in examples(load_task("rows.csv"))) == 20


def test_one_key_twice_in_a_row_is_refused(folder: Path) -> None:
    save(folder / "rows.jsonl", '{"text": "a", "text": "b", "label": "x"}\n')
    with refused("json-malformed", "rows.jsonl, line 1", "'text'"):
        load_task("rows.jsonl")


def test_columns_that_are_not_used_are_named_with_their_rows(folder: Path) -> None:
    rows = [{**row, "id": i, "note": "" if i else "first"} for i, row in enumerate(ROWS)]
    assert told(read(folder, rows)) == ["columns not used: id (40 rows), note (1 rows)"]


def test_columns_that_hold_nothing_do_not_say_what_rows_are(folder: Path) -> None:
    empty = {"text": None, "label": "", "chosen": None, "messages": None}
    rows = [{**empty, "prompt": f"q {i}", "completion": "a"} for i in range(20)]
    assert examples(read(folder, rows))[0] == Example("", "q 0", "", ("a",))


@pytest.mark.parametrize("missing", [None, float("nan"), "nan", "NaN", "None", "null", "", " "])
def test_a_label_that_is_missing_is_no_class(folder: Path, missing: object) -> None:
    task = read(folder, [*ROWS, {"text": "unlabelled", "label": missing}, {"text": missing, "label": "a"}])
    assert task.labels == ("a", "b") and len(examples(task)) == 40
    assert any(note.startswith("dropped 2 of 42 train rows: empty prompt or answer") for note in task.notes)


def test_an_answer_in_ones_own_words_may_be_none(folder: Path) -> None:
    rows = [{"prompt": f"q {i}", "completion": ("None", "null", "nan", "yes")[i % 4]} for i in range(20)]
    assert {example.references[0] for example in examples(read(folder, rows))} == {"None", "null", "yes"}


def test_labels_that_became_decimals_are_whole_numbers_again(folder: Path) -> None:
    rows = [{"text": f"t {i}", "label": float(i % 2) if i % 5 else None} for i in range(40)]
    task = read(folder, rows)
    assert task.labels == ("0", "1") and "labels are written as whole numbers: 0.0 as 0, 1.0 as 1" in task.notes
    lines = "".join(f"t {i},{row['label'] if row['label'] is not None else ''}\n" for i, row in enumerate(rows))
    save(folder / "rows.csv", f"text,label\n{lines}")
    assert load_task("rows.csv").fingerprint == task.fingerprint
    halves = [{"text": f"t {i}", "label": i % 4 / 2} for i in range(40)]
    assert read(folder, halves).labels == ("0.0", "0.5", "1.0", "1.5")


PLAIN = "".join(f"plain {i}\t{i % 2}\n" for i in range(10))


@pytest.mark.parametrize(("lines", "body"), [
    ('"It was great\t1\nnot so good\t0\nI loved it"\t1\n', '"It was great'),
    ('"No," he said\t1\n', '"No," he said'),
    ('a 5" pipe\t1\n"never closed\t0\n', '"never closed'),
])  # fmt: skip
def test_quotation_marks_of_a_tsv_are_text_where_they_quote_nothing(folder: Path, lines: str, body: str) -> None:
    save(folder / "rows.tsv", f"sentence\tlabel\n{PLAIN}{lines}")
    task = load_task("rows.tsv")
    assert len(examples(task)) == 10 + lines.count("\n") and task.labels == ("0", "1")
    assert body in [example.body for example in examples(task)]
    assert any(note.startswith("rows.tsv: quotation marks are read as text: line") for note in task.notes)


def test_an_open_quote_of_a_csv_glues_no_rows(folder: Path) -> None:
    plain = PLAIN.replace("\t", ",")
    save(folder / "rows.csv", f'text,label\n{plain}"open,1\nmore,0\nclosed",1\n')
    assert len(examples(load_task("rows.csv"))) == 13
    quoted = "".join(f'"a, {i}",{i % 2}\n' for i in range(10))
    save(folder / "rows.csv", f'text,label\n{quoted}"open,1\nmore,0\nclosed",1\n')
    with refused("csv-malformed", "rows.csv", "lines 12 to 14"):
        load_task("rows.csv")


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_lines_inside_quoted_fields_stay_there(folder: Path, delimiter: str) -> None:
    import csv

    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["text", "label"], *([f'"Dear{delimiter} all" {i},\n1, bye', i % 2] for i in range(20))])
    (folder / "rows.csv").rename(folder / "rows.tsv" if delimiter == "\t" else folder / "same.csv")
    task = load_task("rows.tsv" if delimiter == "\t" else "same.csv")
    assert len(examples(task)) == 20 and examples(task)[0].body == f'"Dear{delimiter} all" 0,\n1, bye'


def test_a_quote_that_is_not_closed_in_a_file_that_quotes_is_refused_with_its_line(folder: Path) -> None:
    quoted = "".join(f'"a {i}","{i % 2}"\n' for i in range(10))
    save(folder / "rows.csv", f'"text","label"\n{quoted}"open,1\n"x","0"\n')
    with refused("csv-malformed", "rows.csv", "line 12 opens a quote"):
        load_task("rows.csv")


def test_tables_of_spreadsheets_and_databases(folder: Path) -> None:
    save(folder / "rows.csv", "text;label\n" + "".join(f"one, two {i};{i % 2}\n" for i in range(10)))
    assert examples(load_task("rows.csv"))[0].body == "one, two 0"
    save(folder / "rows.csv", "text,label\n" + "".join(f'"said \\"hi\\", {i}",{i % 2}\n' for i in range(10)))
    assert examples(load_task("rows.csv"))[0].body == 'said "hi", 0'
    save(folder / "rows.csv", ",text,label,,\n" + "".join(f"{i},t {i},{i % 2},,\n" for i in range(10)))
    assert told(load_task("rows.csv")) == ["columns not used: column 1 (10 rows)"]


def test_rows_that_share_one_prompt_can_be_trained_on_and_not_scored(folder: Path) -> None:
    task = read(folder, [{"text": "same", "label": "ab"[i % 2]} for i in range(20)])
    assert len(task.train) == 20 and task.test == ()
    assert any("all 20 rows share one prompt" in note for note in task.notes)


@pytest.mark.parametrize(("name", "expected"), [
    ("情感", "情感"), ("Ünïcode Näme", "ünïcode-näme"), ("हिन्दी", "हिन्दी"), ("a\u0308", "ä"), ("🎉", "🎉"),
    ("a/b\\c:d", "a-b-c-d"), ("../x", "x"), ("\u202eabc\x00", "abc"), ("\uff1f\uff01", "data"), ("plain_1.x", "plain_1.x"),
])  # fmt: skip
def test_names_in_every_script_become_names_of_files(name: str, expected: str) -> None:
    assert task_name(name) == expected


def test_long_names_are_cut_and_stay_apart() -> None:
    names = {task_name("名" * 80 + end) for end in "ab"}
    assert len(names) == 2 and all(len(name.encode()) < 140 for name in names)


def test_libraries_complaints_are_one_line(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array(["a", "b", "c"])] * 3
    pq.write_table(pa.table(columns, names=["text", "label", "label"]), folder / "twice.parquet")
    with refused("column-twice", "twice.parquet", "'label'"):
        load_task("twice.parquet")
    (folder / "saved").mkdir()
    for name, text in (("dataset_info.json", "{}"), ("state.json", '{"_data_files": 3}')):
        save(folder / "saved" / name, text)
    with refused("data-not-readable", "saved"):
        load_task("./saved")
