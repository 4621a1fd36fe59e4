"""Tables, packed files and parts of data sets as spreadsheets, pandas, Spark and hubs leave them on disk."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from refusals import refused

from clora_cli.data import load_task

ROWS = [(f"review {i}", "pos" if i % 2 else "neg") for i in range(20)]


def table(separator: str = ",", head: str = "", form: str = "{}") -> str:
    lines = [("text", "label"), *ROWS]
    return head + "".join(separator.join(form.format(cell) for cell in line) + "\n" for line in lines)


def labels_of(folder: Path, text: str, name: str = "rows.csv") -> tuple[str, ...]:
    (folder / name).write_text(text, encoding="utf-8")
    task = load_task(name)
    assert len(task.train) + len(task.dev) + len(task.test) == 20
    assert {example.body for example in task.train} <= {text for text, _ in ROWS}
    return task.labels


@pytest.mark.parametrize("separator", [";", "|", "\t"])
def test_whatever_separates_the_header_separates_the_fields(folder: Path, separator: str) -> None:
    assert labels_of(folder, table(separator)) == ("neg", "pos")
    assert labels_of(folder, table(separator, head=f"sep={separator}\n")) == ("neg", "pos")


def test_decimal_commas_in_a_header_do_not_make_fields_of_it(folder: Path) -> None:
    rows = "".join(f"{text}, then;{label};1,5\n" for text, label in ROWS)
    (folder / "rows.csv").write_text("text;label;cost,eur\n" + rows)
    assert load_task("rows.csv").train[0].body.endswith(", then")


def test_spaces_before_quotes_and_lines_of_spaces_are_nothing(folder: Path) -> None:
    assert labels_of(folder, table(", ", form='"{}"')) == ("neg", "pos")
    assert labels_of(folder, table() + "   \n\n") == ("neg", "pos")


def test_a_file_that_is_packed_under_another_name_is_told(folder: Path) -> None:
    (folder / "rows.csv").write_bytes(gzip.compress(table().encode()))
    with refused("file-not-text", "rows.csv", "gzip (.gz)"):
        load_task("rows.csv")


@pytest.mark.parametrize(
    "names", [("part-0001", "part-0002"), ("0000", "0001"), ("part-00000-1f-c000", "part-00001-1f-c000")]
)
def test_files_that_differ_in_a_number_are_the_training_rows_together(folder: Path, names: tuple[str, str]) -> None:
    for name, rows in zip(names, (ROWS[:9], ROWS[9:]), strict=True):
        lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    task = load_task(".")
    assert len(task.train) + len(task.dev) + len(task.test) == 20
    assert f"train is {names[0]}.jsonl, {names[1]}.jsonl" in task.notes


def test_versions_dates_and_joined_words_are_splits(folder: Path) -> None:
    for place, names in {
        "a": ("train-v1.1", "dev-v1.1"),
        "b": ("trainset", "testset"),
        "c": ("traindata", "validdata"),
    }.items():
        (folder / place).mkdir()
        for name in names:
            (folder / place / f"{name}.csv").write_text(table())
        task = load_task(place)
        assert len(task.test) == 20
    (folder / "d").mkdir()
    for name in ("train-2024-01-01", "train-2024-02-01", "test"):
        (folder / "d" / f"{name}.csv").write_text(table())
    assert "train is train-2024-01-01 (20 rows), train-2024-02-01 (20 rows)" in load_task("d").notes


def test_two_files_of_one_split_are_refused(folder: Path) -> None:
    for name in ("Train", "train"):
        (folder / f"{name}.csv").write_text(table())
    with refused("split-twice", "Train and train"):
        load_task(".")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json", "rows.parquet"])
def test_what_stands_in_the_place_of_data_is_told(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with refused("file-is-stand-in", name, "Git LFS", "`git lfs pull`"):
        load_task(name)


def test_arrow_files_are_read_without_what_saved_them(folder: Path) -> None:
    from datasets import ClassLabel, Dataset

    saved = Dataset.from_list([{"text": text, "label": label == "pos"} for text, label in ROWS])
    saved.cast_column("label", ClassLabel(names=["bad", "good"])).save_to_disk(str(folder / "saved"))
    (folder / "saved" / "state.json").unlink()
    assert load_task("saved").labels == ("bad", "good")


def test_a_data_set_in_the_cache_of_the_hub_is_read_as_its_snapshot(folder: Path) -> None:
    cached = folder / "datasets--owner--films"
    for snapshot, count in (("aa", 20), ("bb", 10)):
        (cached / "snapshots" / snapshot).mkdir(parents=True)
        (cached / "snapshots" / snapshot / "train.csv").write_text(
            "".join(table().splitlines(keepends=True)[: count + 1])
        )
    with refused("several-snapshots", cached.name, "2 snapshots", "aa", "bb"):
        load_task(cached.name)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("bb")
    task = load_task(cached.name)
    assert task.name == "films" and len(task.train) + len(task.dev) + len(task.test) == 10


def test_splits_in_one_json_file_are_named(folder: Path) -> None:
    (folder / "all.json").write_text(json.dumps({"train": [{"text": "a"}], "test": []}))
    with refused("rows-not-a-list", "all.json", "'train', 'test'"):
        load_task("all.json")
