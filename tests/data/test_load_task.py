"""Where a name is looked for, in which order, and what is said when it is nowhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import refused

from clora_cli.base.errors import DataError
from clora_cli.data import list_tasks, load_task
from clora_cli.data.known_tasks import KNOWN

NI = {
    "Definition": ["Write the colour of the thing."],
    "Positive Examples": [],
    "Instances": [{"id": str(i), "input": f"thing {i} ", "output": [f"colour {i}", "grey"]} for i in range(30)],
}


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def benchmark(folder: Path, labels: list[str], rows: int = 20, prefix: str = "") -> Path:
    for split, count in (("train", rows), ("dev", 4), ("test", 6)):
        write(folder / f"{split}.json", [
            {"sentence": f"{prefix}{split} text {i}", "label": labels[i % len(labels)]} for i in range(count)
        ])  # fmt: skip
    write(folder / "labels.json", labels)
    return folder


def test_bundled_tasks_need_nothing(folder: Path) -> None:
    task = load_task("Topics_News")
    assert (task.name, task.source, task.template, task.metric) == ("topics-news", "bundled", "options", "exact-match")
    assert len(task.train) == 600 and len(task.dev) == 100 and len(task.test) == 200
    first = task.train[0]
    assert first.cue == "\nAnswer:" and first.head.endswith(f"\nOption: {', '.join(task.labels)}\n")
    assert {e.references[0] for e in task.train} == set(task.labels)


def test_every_bundled_task_is_listed_and_loads(folder: Path) -> None:
    bundled = [info for info in list_tasks() if info.where == "bundled"]
    assert len(bundled) == 8
    assert all(load_task(info.name).labels == info.labels for info in bundled)


def test_known_tasks_are_listed_with_where_they_would_come_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {info.name: info.where for info in list_tasks()}
    assert where["mnli"] == "Hub nyu-mll/glue" and where["task1572"] == "not found: set CLORA_DATA"
    expected = benchmark(folder / "root" / "NLI" / "MNLI", ["neutral", "entailment", "contradiction"])
    monkeypatch.setenv("CLORA_DATA", str(folder / "root"))
    assert {info.name: info.where for info in list_tasks()}["mnli"] == str(expected)


def test_root_is_searched_at_any_depth_and_by_task_type(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["neutral", "entailment", "contradiction"]
    benchmark(folder / "a" / "b" / "CL_Benchmark" / "Other" / "mnli", labels, prefix="wrong ")
    benchmark(folder / "a" / "b" / "CL_Benchmark" / "NLI" / "MNLI", labels)
    monkeypatch.setenv("CLORA_DATA", str(folder / "a"))
    task = load_task("mnli")
    assert task.source == "CL_Benchmark NLI/MNLI" and task.train[0].body == "train text 0"
    assert any("2 of this name under CLORA_DATA" in note for note in task.notes)
    assert load_task("nli/mnli").fingerprint == task.fingerprint


def test_a_new_task_under_the_root_is_found_by_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark(folder / "root" / "NLI" / "My Own", ["yes", "no"])
    monkeypatch.setenv("CLORA_DATA", str(folder / "root"))
    task = load_task("my_own")
    assert task.name == "my-own" and task.labels == ("yes", "no")
    assert task.train[0].head.startswith("What is the logical relationship")


def test_natural_instructions_by_folder_file_and_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLORA_DATA", str(folder / "root"))
    write(folder / "root" / "tasks" / "task007_colour_naming.json", NI)
    for name in ("task007", "task7", "task007_colour_naming", "root/tasks/task007_colour_naming.json"):
        task = load_task(name)
        assert task.name == "task007" and task.metric == "rouge-l" and task.labels == ()
        assert (len(task.train), len(task.dev), len(task.test)) == (24, 3, 3)
    example = task.test[0]
    assert example.head == (
        "Definition: Write the colour of the thing.\n\nNow complete the following example -\nInput: "
    )
    assert example.cue == "\nOutput:" and example.body == example.body.strip() and example.references[1] == "grey"


def test_a_classification_task_gets_its_labels_from_train(folder: Path) -> None:
    rows = [{"input": f"text {i}", "output": ["good", "bad"][i % 2]} for i in range(40)]
    write(folder / "task999_review_classification.json", {"Definition": "Judge.", "Instances": rows})
    task = load_task("task999_review_classification.json")
    assert task.labels == ("bad", "good") and task.metric == "exact-match"


def test_long_sequence_in_natural_layout_has_the_benchmark_prompt(folder: Path) -> None:
    rows = [{"input": f"sentence 1: a {i}\nsentence 2: b", "output": "neutral"} for i in range(30)]
    value = {"Definition": ["Other words."], "Positive Examples": [], "Instances": rows}
    for split in ("train", "dev", "test"):
        write(folder / "Long_Sequence" / "mnli" / f"{split}.json", value)
    write(folder / "Long_Sequence" / "mnli" / "labels.json", ["neutral", "entailment", "contradiction"])
    task = load_task("Long_Sequence/mnli")
    assert task.template == "options" and "Other words" not in task.test[0].prompt
    assert "30 of 30 test texts also occur in train; they are kept" in task.notes
    assert task.dev == ()


def test_labels_file_that_names_no_row_is_reported_not_obeyed(folder: Path) -> None:
    rows = [{"input": f"first sentence: {i}", "output": ["no", "yes"][i % 2]} for i in range(30)]
    for split, part in (("train", rows[:20]), ("test", rows[20:])):
        write(folder / "qqp" / f"{split}.json", {"Definition": [""], "Instances": part})
    write(folder / "qqp" / "labels.json", ["False", "True"])
    task = load_task("./qqp/")
    assert task.labels == ("no", "yes") and len(task.test) == 10
    assert any("names none of the rows' labels" in note for note in task.notes)


def test_copa_has_neither_instruction_nor_options(folder: Path) -> None:
    task = load_task(str(benchmark(folder / "COPA" / "COPA", ["A", "B"])))
    assert task.name == "copa" and task.train[0].prompt == "train text 0\nAnswer:"


def test_a_trailing_cue_in_some_rows_is_removed_and_reported(folder: Path) -> None:
    path = benchmark(folder / "TC" / "dbpedia", ["Film", "Album"])
    write(path / "train.json", [{"sentence": f"text {i} \n\nAnswer:", "label": "Film"} for i in range(10)])
    task = load_task(str(path))
    assert task.train[0].prompt.endswith("\ntext 0\nAnswer:")
    assert "removed 'Answer:' from the end of 10 of 10 train rows: the prompt adds it" in task.notes


@pytest.mark.parametrize(("name", "named"), [
    ("mnil", "did you mean 'mnli'"),
    ("nothing-like-it", "`clora tasks`"),
    ("reviews.csv", "path reviews.csv"),
    ("./some/where", "path some/where"),
    ("~no-such-user-here/rows.csv", "path ~no-such-user-here/rows.csv"),
    ("task1572", "Natural-Instructions"),
    ("amazon", "CL_Benchmark"),
])  # fmt: skip
def test_a_name_that_is_nowhere_fails_with_the_places(folder: Path, name: str, named: str) -> None:
    with refused("data-not-found", "bundled", "CLORA_DATA (not set)", named):
        load_task(name)


@pytest.mark.parametrize(("name", "stand_in"), [
    ("mnli", "inference"), ("cb", "inference"), ("qqp", "paraphrase"), ("amazon", "sentiment-stars"), ("boolq", "yes-no"),
    ("imdb", "sentiment-binary"), ("agnews", "topics-news"), ("task875", "sentiment-binary"), ("copa", "inference"),
])  # fmt: skip
def test_a_known_task_without_data_names_what_works_next(folder: Path, name: str, stand_in: str) -> None:
    hub = KNOWN[name].hub
    online = ("HF_HUB_OFFLINE", hub.repo) if hub else ()
    with refused("hub-unreachable" if hub else "data-not-found", f"--data {stand_in}", "CLORA_DATA", *online):
        load_task(name)
    assert load_task(stand_in).source == "bundled"


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_name_without_data_offers_a_bundled_task_rows_of_ones_own_and_where_its_data_are(
    folder: Path, name: str
) -> None:
    with pytest.raises(DataError) as info:
        load_task(name)
    told = str(info.value)
    assert info.value.code in {"hub-unreachable", "data-not-found"} and info.value.exit_code == 3
    assert load_task(told.partition("what works next: --data ")[2].split()[0]).source == "bundled"
    assert "--data FILE" in told and "CLORA_DATA=FOLDER" in told and "github.com/" in told
    assert "\n" not in told


def test_a_path_named_like_a_bundled_task_is_told(folder: Path) -> None:
    benchmark(folder / "inference", ["a", "b"])
    assert "the path of that name here is --data ./inference" in load_task("inference").notes[-1]
    assert load_task("./inference").labels == ("a", "b")


def test_a_root_that_is_no_folder_is_said_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLORA_DATA", str(folder / "gone"))
    with refused("data-not-found", folder / "gone"):
        load_task("task1572")
    assert len(list_tasks()) > 30


def test_a_path_wins_over_the_root_unless_the_name_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLORA_DATA", str(folder / "root"))
    benchmark(folder / "root" / "SC" / "reviews", ["a", "b"], prefix="root ")
    benchmark(folder / "reviews", ["a", "b"], prefix="here ")
    assert load_task("reviews").train[0].body.startswith("here")
    benchmark(folder / "root" / "NLI" / "MNLI", ["neutral"], prefix="root ")
    benchmark(folder / "MNLI", ["neutral"], prefix="here ")
    assert load_task("MNLI").train[0].body.startswith("root")
    assert load_task("./MNLI").train[0].body.startswith("here")


def test_an_unknown_metric_is_refused(folder: Path) -> None:
    with refused("unknown-name", "'exact'", "exact-match"):
        load_task("topics-news", metric="exact")
    assert load_task("topics-news", metric="rouge-l").metric == "rouge-l"


def test_importing_and_listing_load_nothing_heavy() -> None:
    code = (
        "import sys; from clora_cli.data import list_tasks; list_tasks();"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_type_folder_of_the_same_name_is_not_taken_for_the_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark(folder / "QQP" / "QQP", ["False", "True"])
    monkeypatch.setenv("CLORA_DATA", str(folder))
    assert load_task("QQP").source == load_task("qqp").source == "CL_Benchmark QQP/QQP"


def test_a_path_below_the_root_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark(folder / "root" / "deep" / "er" / "x", ["a", "b"])
    monkeypatch.setenv("CLORA_DATA", str(folder / "root"))
    assert load_task("deep/er/x").name == "x"
