"""Hub ids: known tasks in the benchmark's form, any other by its columns, and one quick line without a network."""

from __future__ import annotations

import time
from typing import Any

import datasets
import pytest
from refusals import refused

from clora_cli.data import hub, load_task
from clora_cli.data.known_tasks import KNOWN

CALLS: list[tuple[Any, ...]] = []


def serve(monkeypatch: pytest.MonkeyPatch, splits: dict[str, datasets.Dataset]) -> None:
    def load(repo: str, config: str | None = None, **options: Any) -> datasets.DatasetDict:
        CALLS.append((repo, config, options))
        return datasets.DatasetDict(splits)

    CALLS.clear()
    monkeypatch.setattr(datasets, "load_dataset", load)


def pairs(count: int, names: list[str]) -> datasets.Dataset:
    features = {key: datasets.Value("string") for key in ("premise", "hypothesis")}
    rows = {
        "premise": [f"premise {i}" for i in range(count)],
        "hypothesis": ["so"] * count,
        "label": [i % 4 - 1 for i in range(count)],
    }
    return datasets.Dataset.from_dict(
        rows, features=datasets.Features({**features, "label": datasets.ClassLabel(names=names)})
    )


def test_a_known_task_has_the_sentences_and_labels_of_the_benchmark(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pairs(80, ["entailment", "neutral", "contradiction"])
    serve(monkeypatch, {"train": rows, "validation_matched": rows.select(range(40)), "test": rows})
    task = load_task("mnli")
    assert CALLS == [("nyu-mll/glue", "mnli", {})]
    assert task.labels == KNOWN["mnli"].labels and task.source == "Hub nyu-mll/glue mnli"
    assert len(task.train) + len(task.dev) == 60 and len(task.test) == 30  # a quarter of the rows carries no label
    example = next(e for e in task.test if "premise 2\n" in e.body)
    assert example.body == "sentence 1: premise 2\nsentence 2: so" and example.references == ("neutral",)
    assert example.head.startswith("What is the logical relationship") and example.cue == "\nAnswer:"


def test_exports_are_read_where_the_repository_needs_a_script(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pairs(40, ["entailment", "contradiction", "neutral"])
    serve(monkeypatch, {"train": rows, "validation": rows})
    load_task("cb")
    files = {"train": "cb/train/*.parquet", "validation": "cb/validation/*.parquet"}
    assert CALLS == [("aps/super_glue", None, {"revision": "refs/convert/parquet", "data_files": files})]


def test_large_sources_are_cut_to_the_benchmark_size(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TRAIN_ROWS_A_LABEL", 5)
    monkeypatch.setattr(hub, "TEST_ROWS", 7)
    rows = datasets.Dataset.from_dict({"text": [f"t {i}" for i in range(60)], "label": [i % 2 for i in range(60)]})
    serve(monkeypatch, {"train": rows.select(range(30)), "test": rows.select(range(30, 60))})
    task = load_task("imdb")
    assert len(task.train) + len(task.dev) == 10 and len(task.test) == 7
    assert "kept 10 of 30 train rows, the benchmark's size" in task.notes
    assert load_task("imdb").fingerprint == task.fingerprint


def test_boolean_labels_are_indices(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict(
        {"question": [f"is {i}" for i in range(20)], "passage": ["p"] * 20, "answer": [i % 2 == 0 for i in range(20)]}
    )
    serve(monkeypatch, {"train": rows, "validation": rows.select(range(4))})
    assert [e.references[0] for e in load_task("boolqa").test] == ["True", "False", "True", "False"]


@pytest.mark.parametrize("task", [task for task in KNOWN.values() if task.hub], ids=lambda task: task.name)
def test_every_known_source_maps_onto_the_label_set(task: Any) -> None:
    assert set(task.hub.values) == set(task.labels)
    assert task.name == "imdb" or task.hub.form.count("{") >= 1


def test_any_data_set_by_its_id(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict({"prompt": [f"q {i}" for i in range(30)], "completion": ["a"] * 30})
    serve(monkeypatch, {"train": rows, "validation": rows.select(range(5)), "extra": rows})
    task = load_task("some-owner/My_Data:small")
    assert CALLS == [("some-owner/My_Data", "small", {})]
    assert task.name == "my_data" and task.source == "Hub some-owner/My_Data:small" and len(task.test) == 5


def test_no_usable_split(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict({"prompt": ["q"]})
    serve(monkeypatch, {"extra": rows, "more": rows})
    with refused("no-usable-split", "owner/name", "extra, more"):
        load_task("owner/name")


@pytest.mark.parametrize("name", ["mnli", "owner/name"])
def test_told_offline_fails_at_once_in_one_line(folder: Any, name: str) -> None:
    before = datasets.config.HF_HUB_OFFLINE
    start = time.perf_counter()
    with refused("hub-unreachable", f"'{name}'", "HF_HUB_OFFLINE"):
        load_task(name)
    assert time.perf_counter() - start < 2
    assert before == datasets.config.HF_HUB_OFFLINE


def test_no_network_fails_quickly_in_one_line(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://127.0.0.1:9"})
    start = time.perf_counter()
    with refused("hub-unreachable", "Hub owner/name") as caught:
        load_task("owner/name")
    assert time.perf_counter() - start < 4 and "HF_HUB_OFFLINE is set" not in str(caught.value)


def test_a_loader_that_fails_is_one_line(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ValueError("Config name is missing.\nPlease pick one among: a, b" + ", c" * 100)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with refused("hub-load-failed", "Hub owner/name", "Config name is missing. Please pick one among: a, b, c"):
        load_task("owner/name")
