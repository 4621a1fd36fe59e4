"""The public benchmark files themselves, where CLORA_DATA names them: every task, by name and by folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clora_cli.data import encode_prompt, list_tasks, load_task

ROOT = Path(os.environ.get("CLORA_DATA", ""))
pytestmark = pytest.mark.skipif(
    not (ROOT.name and (ROOT / "CL_Benchmark").is_dir()), reason="CLORA_DATA does not name the public files"
)
LONG = {
    "yelp": "SC/yelp", "amazon": "SC/amazon", "dbpedia": "TC/dbpedia", "yahoo": "TC/yahoo", "agnews": "TC/agnews",
    "mnli": "NLI/MNLI", "cb": "NLI/CB", "wic": "WiC/WiC", "copa": "COPA/COPA", "qqp": "QQP/QQP",
    "boolq": "BoolQA/BoolQA", "rte": "NLI/RTE", "imdb": "SC/IMDB", "sst2": "SC/SST-2", "multirc": "MultiRC/MultiRC",
}  # fmt: skip
SUPERNI = [info.name for info in list_tasks() if info.family == "SuperNI"]


def folder_of(name: str) -> Path:
    if name in LONG:
        return ROOT / "CL_Benchmark" / LONG[name]
    return next((ROOT / "SuperNI").glob(f"{name}_*"))


def rows_in(path: Path) -> list[dict[str, Any]]:
    value = json.loads(path.read_text(encoding="utf-8"))
    return value["Instances"] if isinstance(value, dict) else value


def test_there_are_fifteen_of_each() -> None:
    assert len(LONG) == len(SUPERNI) == 15


@pytest.mark.parametrize("name", [*LONG, *SUPERNI])
def test_loads_by_name_and_by_folder_alike(name: str) -> None:
    folder = folder_of(name)
    by_name, by_folder = load_task(name), load_task(str(folder))
    assert by_name == by_folder and by_name.fingerprint == by_folder.fingerprint
    assert by_name.name == name and by_name.train and by_name.dev
    assert not {e.prompt for e in by_name.dev} & {e.prompt for e in by_name.test}
    assert not {e.prompt for e in by_name.dev} & {e.prompt for e in by_name.train}
    assert all(e.cue and e.references and "\n\nAnswer:" not in e.prompt for e in by_name.test)


@pytest.mark.parametrize("name", LONG)
def test_every_row_of_a_known_label_is_kept(name: str) -> None:
    folder, task = folder_of(name), load_task(name)
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    for split, rows in (("train", task.train), ("dev", task.dev), ("test", task.test)):
        assert len(rows) == sum(row["label"] in labels for row in rows_in(folder / f"{split}.json"))
    assert task.labels == tuple(labels) and task.metric == "exact-match" and task.template == "options"
    info = next(info for info in list_tasks() if info.name == name)
    assert set(info.labels) == set(labels) and Path(info.where) == folder


def test_mnli_rows_without_a_gold_label_are_reported() -> None:
    task = load_task("NLI/MNLI")
    bad = sum(row["label"] == "-" for row in rows_in(folder_of("mnli") / "test.json"))
    total = len(rows_in(folder_of("mnli") / "test.json"))
    assert f"dropped {bad} of {total} test rows: label '-' is not in labels.json" in task.notes
    kept = load_task("mnli", keep_bad_labels=True)
    assert len(kept.test) == total and any(note.startswith(f"kept {bad} of {total}") for note in kept.notes)


@pytest.mark.parametrize("name", SUPERNI)
def test_test_rows_are_all_there_and_dev_comes_from_train(name: str) -> None:
    folder, task = folder_of(name), load_task(name)
    train, test = rows_in(folder / "train.json"), rows_in(folder / "test.json")
    answered = sum(bool("".join(row["output"]).strip()) for row in train)
    assert (folder / "dev.json").read_bytes() == (folder / "test.json").read_bytes()
    assert len(task.test) == len(test) and len(task.train) + len(task.dev) == answered
    assert len(task.dev) == pytest.approx(answered / 10, abs=1)
    assert any("repeats the test" in note for note in task.notes)
    assert task.metric == ("exact-match" if "classification" in folder.name else "rouge-l")
    most = max(len(row["output"]) if isinstance(row["output"], list) else 1 for row in test)
    assert max(len(e.references) for e in task.test) <= most
    assert most == 1 or any(len(e.references) > 1 for e in task.test)


def test_the_longest_rows_keep_their_cue(llama: Any) -> None:
    for name in ("imdb", "task511"):
        for example in sorted(load_task(name).train, key=lambda e: -len(e.body))[:3]:
            ids = encode_prompt(example, llama, kind="causal", max_length=512)
            assert len(ids) <= 512 and llama.decode(ids).endswith(example.cue)


@pytest.mark.parametrize("spelling", ["SST-2", "sst2", "Sst_2", "SC/SST-2", "CL_Benchmark/SC/SST-2"])
def test_spellings_of_a_name(spelling: str) -> None:
    assert load_task(spelling).name == "sst2"
