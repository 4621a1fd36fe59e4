"""What names, keys and data of others can do to a terminal, a page, a spreadsheet: nothing."""

from __future__ import annotations

import csv
import io
import json
import shutil
from xml.etree import ElementTree

import pytest
from reported import write_run
from safetensors.torch import load_file, save_file

from clora_cli.base.legible import is_legible
from clora_cli.store.manifest import MANIFEST

ESCAPE = "\x1b[31m\x9b2J\u202e"
EVIL = ["=cmd|'/c calc'!A1", "<script>alert(1)</script>", "[x](http://evil)\\input{/etc/passwd}"]


def edit(path, **entries):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **entries}), encoding="utf-8")


def lines_are_legible(result):
    return all(is_legible(line.replace("\t", " ")) for line in (result.out + result.err).split("\n"))


def test_escapes_in_messages_are_spelled_out(clora, here):
    for words in (
        ["show", f"no{ESCAPE}"],
        ["tasks", f"no{ESCAPE}\nmnli"],
        ["eval", "--combine", ESCAPE],
        [f"--{ESCAPE}"],
    ):
        result = clora(*words)
        assert result.code in {2, 3} and lines_are_legible(result) and result.err.count("\n") == 1


def test_escapes_in_manifests_and_folders_are_refused(clora, package):
    edit(package / "first" / MANIFEST, task=f"a{ESCAPE}")
    result = clora("show", package)
    assert result.code == 3 and "task has a wrong value" in result.err and lines_are_legible(result)
    (package / "second" / MANIFEST).unlink()
    odd = (package / "second").rename(package / f"b{ESCAPE}")
    result = clora("show", odd)
    assert result.code == 3 and "rename it" in result.err and lines_are_legible(result)


def test_escapes_in_data_are_spelled_out_in_text_and_in_json(clora, here):
    rows = [{"text": f"p{n}{ESCAPE}", "label": f"c{n % 2}{ESCAPE}"} for n in range(40)]
    (here / "odd.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    for form in ([], ["--json"], ["-q"]):
        result = clora("tasks", "odd.jsonl", *form)
        assert result.code == 0 and lines_are_legible(result)
    assert ESCAPE in json.loads(clora("tasks", "odd.jsonl", "--json").out)["labels"][0]


@pytest.fixture
def runs(here):
    for number, name in enumerate(EVIL):
        write_run(here / "runs", f"m{number}", 1, [[8], [6, 9]], order=(name, "second"))
    for number, name in enumerate(EVIL):
        for path in (here / "runs" / f"m{number}").rglob("*.json"):
            edit(path, method=name)
    (here / "runs" / "cost.jsonl").unlink()
    for number in range(len(EVIL)):  # each a folder of its own, so that the method's name is the label
        shutil.move(here / "runs" / f"m{number}" / "seed-1" / "scores", here / f"scores{number}")
    shutil.rmtree(here / "runs")
    return sorted(here.glob("scores*"))


def test_reports_show_names_and_obey_none(clora, here, runs):
    outs = [here / f"r.{ending}" for ending in ("md", "csv", "tex", "html", "svg")]
    result = clora("report", *runs, *(word for out in outs for word in ("--out", out)))
    assert result.code == 0, result.err
    text = {out.suffix: out.read_text(encoding="utf-8") for out in outs}
    for row in list(csv.reader(io.StringIO(text[".csv"])))[1:]:
        assert not any(cell[:1] in {"=", "+", "-", "@", "\t", "\r"} for cell in row[:-1])
        float(row[-1])  # a number may be below 0
    assert "<script>" not in text[".md"] and "=cmd\\|" in text[".md"] and "](http:" not in text[".md"]
    assert "<script>" not in text[".html"] and "http://evil" in text[".html"] and 'href="http' not in text[".html"]
    assert "\\input" not in text[".tex"]
    ElementTree.fromstring(text[".svg"])  # it is our own


def test_names_that_look_alike_to_a_disk_are_no_two_names(clora, here, package, tasks):
    edit(package / "second" / MANIFEST, task="FIRST")
    shutil.copytree(package / "second", here / "other.pkg" / "x")
    shutil.copytree(package / "first", here / "one.pkg" / "x")
    for policy, told in (("error", "which some disks take for 'first'"), ("keep", "is left out")):
        result = clora("expand", "one.pkg", "other.pkg", "-o", "both.pkg", "--on-conflict", policy)
        assert told in result.err or "feature distribution" in result.err
    for odd in ("con", "a.", "a:b", "x" * 300):
        assert clora("expand", "one.pkg", "--rename", f"first={odd}").code == 2


def test_training_refuses_a_place_before_it_begins(clora, here, package, model_folder, tasks):
    shutil.copytree(tasks["third"], here / "FIRST")
    common = ("train-task", "--model", model_folder("llama"), "--max-steps", "1", "--device", "cpu")
    for words, code, told in (
        (["--data", tasks["third"], "--out", package / ("x" * 300)], 2, "too long for a disk"),
        (["--data", tasks["third"], "--out", package / "aux"], 2, "Windows"),
        (["--data", tasks["third"], "--out", package / "First"], 4, "are one name on disks"),
        (["--data", tasks["third"], "--rank", 10**9], 2, "too large"),
        (["--data", tasks["third"], "--max-steps", 10**18], 2, "too large"),
        (["--data", tasks["third"], "--seed", 10**30], 2, "too large"),
    ):
        result = clora(*common, *words)
        assert (result.code, told in result.err) == (code, True), result.err
    assert {path.name for path in package.iterdir()} == {"first", "second"}


def test_damaged_adapters_and_distributions_end_every_command(clora, here, package, model_folder, tasks):
    weights = package / "second" / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors[min(tensors)].fill_(float("nan"))
    save_file(tensors, weights)
    (package / "second" / MANIFEST).unlink()
    base = ("--model", model_folder("llama"), "--device", "cpu")
    for words in (
        ["eval", package, "--data", tasks["first"], "--combine", "sum", *base],
        ["train-task", "--data", tasks["third"], "--package", package, "--max-steps", "1", *base],
        ["merge", package / "first", package / "second", "-o", "merged"],
        ["trim", package / "second", "-o", "trimmed"],
        ["expand", package, "-o", "both.pkg"],
    ):
        result = clora(*words)
        assert (result.code, "not finite" in result.err, result.err.count("error:")) == (3, True, 1), result.err
