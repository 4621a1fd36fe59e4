"""Labels of several splits, files and columns are brought together, or what does not fit is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from refusals import refused

from clora_cli.data import load_task


def rows_of(labels: Sequence[object], count: int = 12, text: str = "t") -> str:
    rows = [{"text": f"{text} {i}", "label": labels[i % len(labels)]} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_labels_of_other_splits_are_read_in_the_training_rows_spelling(folder: Path) -> None:
    (folder / "train.jsonl").write_text(rows_of([False, True]))
    (folder / "test.csv").write_text(
        "text,label\n" + "".join(f"s {i},{'false true'.split()[i % 2]}\n" for i in range(6))
    )
    task = load_task(".")
    assert task.labels == ("False", "True") and [row.references for row in task.test] == [("False",), ("True",)] * 3
    assert any("test labels are read as the labels of the training rows are spelled" in note for note in task.notes)


def test_labels_that_differ_in_case_stay_apart_and_are_told(folder: Path) -> None:
    (folder / "train.jsonl").write_text(rows_of(["IT", "it"]))
    (folder / "test.jsonl").write_text(rows_of(["IT", "it"], text="s"))
    task = load_task(".")
    assert {row.references[0] for row in task.test} == {"IT", "it"}
    assert "labels that differ in case or composition alone are labels of their own: 'IT' and 'it'" in task.notes


def test_a_test_whose_labels_are_all_others_is_refused_and_not_replaced_by_training_rows(folder: Path) -> None:
    (folder / "train.jsonl").write_text(rows_of(["neg", "pos"]))
    (folder / "test.jsonl").write_text(rows_of([0, 1], text="s"))
    with refused("labels-disagree", "'0', '1'", "'neg', 'pos'"):
        load_task(".")
    (folder / "test.jsonl").write_text(rows_of([-1], text="s"))  # GLUE's way to keep labels secret
    assert "dropped 12 of 12 test rows: label '-1' is not in the labels of the training rows" in load_task(".").notes


def test_a_test_without_the_column_of_answers_is_left_out_and_told(folder: Path) -> None:
    (folder / "train.jsonl").write_text(rows_of(["neg", "pos"]))
    (folder / "test.csv").write_text("text\n" + "".join(f"s {i}\n" for i in range(6)))
    task = load_task(".")
    assert "6 of 6 test rows: no 'label': without answers they are not used" in task.notes
    assert not {row.body for row in task.test} & {f"s {i}" for i in range(6)}


def test_classes_in_lists_have_their_names_too(folder: Path) -> None:
    import datasets

    rows = [{"text": f"t {i}", "label": [i % 2]} for i in range(12)]
    named = datasets.Sequence(datasets.ClassLabel(names=["neg", "pos"]))
    kept = datasets.Dataset.from_list(rows).cast_column("label", named)
    kept.to_parquet(str(folder / "train.parquet"))
    kept.save_to_disk(str(folder / "saved"))
    assert load_task("train.parquet").labels == ("neg", "pos") == load_task("saved").labels


def test_names_of_classes_are_no_empty_cells_whatever_they_say(folder: Path) -> None:
    import datasets

    rows = [{"text": f"t {i}", "label": i % 3} for i in range(12)]
    names = datasets.ClassLabel(names=["None", "nan", "1.0"])
    kept = datasets.Dataset.from_list(rows).cast_column("label", names)
    kept.to_parquet(str(folder / "train.parquet"))
    kept.save_to_disk(str(folder / "saved"))
    assert load_task("train.parquet").labels == load_task("saved").labels
    assert {*load_task("saved").labels} == {"None", "nan", "1"}


def test_names_of_classes_that_differ_only_in_spaces_are_refused(folder: Path) -> None:
    import datasets

    rows = [{"text": f"t {i}", "label": i % 2} for i in range(12)]
    kept = datasets.Dataset.from_list(rows).cast_column("label", datasets.ClassLabel(names=["pos", "pos "]))
    kept.to_parquet(str(folder / "train.parquet"))
    with refused("classes-alike", "'pos ' and 'pos'", "rename one"):
        load_task("train.parquet")


def test_cells_that_differ_only_in_spaces_are_one_label_and_told(folder: Path) -> None:
    (folder / "train.jsonl").write_text(rows_of(["pos", "neg", " pos"]))
    task = load_task("train.jsonl")
    assert task.labels == ("neg", "pos")
    assert "labels that differ in the spaces around them alone are one: 'pos' and ' pos'" in task.notes
    (folder / "spaced.jsonl").write_text(rows_of([" pos", "neg "]))
    assert not any("spaces" in note for note in load_task("spaced.jsonl").notes)
