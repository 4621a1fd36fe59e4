"""What a report is made from, and every form that it is written in: read back, and computed again from the input."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from reported import ORDER, bits, cell, cost, stage_scores, write_routes, write_run, write_runs
from support import write_random_adapter

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import ArtifactError, MismatchError, OptionError
from clora_cli.base.files import to_json, write_text
from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.presenting.export import CSV_HEADER
from clora_cli.presenting.figures.magnitudes import measure_shift
from clora_cli.presenting.report_file import ENDINGS, check_out, write_report
from clora_cli.presenting.route_forms import read_routes, routes_json
from clora_cli.reporting.anatomy import examine, representatives
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import collect
from clora_cli.store.adapter_folder import read_adapter, write_adapter
from clora_cli.store.ledger import mask_key, pack
from clora_cli.store.tensors import read_tensors

VOID = {"meta", "br", "img", "link", "hr", "input"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Page(HTMLParser):
    """Reads a page and checks that every element is closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.tables, self.titles, self.figures = [], [], [], [], [], 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [value for name, value in attributes if name in {"src", "href", "xlink:href", "action", "data"}]
        self.figures += tag == "figure"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if "h2" in self.open:
            self.titles.append(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder):
    """The packages of run folders: two seeds of one method, one of another."""
    root = tmp_path_factory.mktemp("packages")
    base = load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))
    for name, seed in (("n-lora", 2), ("n-lora", 1), ("seq-lora", 1)):
        for stage, task in enumerate((*ORDER, "third"), start=1):
            write_random_adapter(root / name / f"seed-{seed}" / "adapters" / task, base, stage=stage)
    return root


@pytest.fixture
def packages(trained, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(trained, tmp_path / "runs")


def report_of(*paths, **options):
    return make_report(collect(paths), **options)


def test_everything_in_a_folder_is_found_by_its_content(runs, packages):
    write_routes(packages / "any-name.json")
    (packages / "other.json").write_text('{"schema": "something/1"}', encoding="utf-8")
    (packages / "list.json").write_text("[1]", encoding="utf-8")
    (packages / ".hidden").mkdir()
    (packages / ".hidden" / "broken.json").write_text("{", encoding="utf-8")
    material = collect([runs, packages, packages / "any-name.json", runs])
    assert (len(material.scores), len(material.packages), len(material.routes)) == (22, 3, 1)
    assert [len(steps) for steps in material.costs.values()] == [36, 8]
    assert {package.name for package in material.packages} == {"n-lora", "seq-lora"}
    assert len(material.files) == 22 + 3 + 1 + 2
    one = collect([packages / "n-lora" / "seed-1" / "adapters" / "first"])
    assert [len(package.members) for package in one.packages] == [1]


def test_what_fits_nothing_is_refused_in_one_line(tmp_path, runs):
    (tmp_path / "empty").mkdir()
    for name, text in (
        ("odd.json", "{}"),
        ("broken.json", "{"),
        ("odd.txt", "hello"),
        ("cost.jsonl", '{"schema": "x"}\n'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name, message in (
        ("nowhere", "nowhere does not exist"),
        ("empty", "empty holds no scores, routes or cost file and no adapter"),
        ("odd.json", "odd.json is neither a scores, a routes nor a cost file"),
        ("cost.jsonl", "cost.jsonl is neither"),
        ("broken.json", "broken.json is damaged"),
        ("odd.txt", "odd.txt is damaged"),
    ):
        with pytest.raises(ArtifactError, match=message) as info:
            collect([runs, tmp_path / name])
        assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": None}, "line 1: seconds is not what it should be"),
        ({"peak_memory_bytes": -1}, "line 1: peak_memory_bytes"),
        ({"stage": "1"}, "line 1: stage"),
        ({"task": 3}, "line 1: task"),
        ({"schema": "clora.cost/2"}, "neither"),
    ],
)
def test_damaged_costs_are_refused_by_line(tmp_path, change, message):
    line = {**cost("n-lora", 1, "first", 1, "train", 2.0), **change}
    (tmp_path / "cost.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match=message):
        collect([tmp_path / "cost.jsonl"])


def test_of_a_step_done_twice_the_last_counts_and_a_line_cut_off_does_not(tmp_path):
    lines = [json.dumps(cost("n-lora", 1, "first", 1, "train", seconds)) for seconds in (2.0, 3.0)]
    (tmp_path / "cost.jsonl").write_text("\n".join([*lines, lines[0][:20]]), encoding="utf-8")
    assert [one.seconds for one in collect([tmp_path]).costs[tmp_path / "cost.jsonl"]] == [3.0]


def test_a_foreign_file_that_is_no_json_is_passed_over(tmp_path):
    write_runs(tmp_path)
    (tmp_path / "settings.json").write_text("{ // mine\n}", encoding="utf-8")
    assert len(collect([tmp_path]).scores) == 22


def test_a_folder_with_a_space_in_its_name_is_one_folder(tmp_path):
    write_runs(tmp_path / "my runs")
    assert len(make_report(collect([tmp_path / "my runs"])).results.runs) == 11


def test_routes_are_read_as_they_were_written_and_damaged_ones_refused(tmp_path):
    path = write_routes(tmp_path / "routes.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    assert routes_json(read_routes(path)) == written
    for change in (
        {"counts": [[1, 2]]},
        {"known_by": [["third"], []]},
        {"weights": [[1], [1]]},
        {"abstained": ["x", 0]},
    ):
        write_text(path, to_json({**written, **change}))
        with pytest.raises(ArtifactError, match="is damaged"):
            read_routes(path)


def test_the_csv_holds_every_score_of_every_run(runs, tmp_path):
    write_report(report_of(runs), tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text(encoding="utf-8"))))
    assert tuple(rows[0]) == CSV_HEADER
    assert len(rows) == 11 * 3  # two stages: one task, then two
    chosen = [
        float(row["value"])
        for row in rows
        if (row["method"], row["order"], row["stage"], row["task"]) == ("n-lora", "order1", "2", "first")
    ]
    assert chosen == pytest.approx([50, 60, 70])
    assert {row["seed"] for row in rows} == {"1", "2", "3"}
    assert {(row["metric"], row["test_rows"]) for row in rows} == {("exact-match", "10")}


def test_markdown_and_json_tell_the_same(runs, tmp_path):
    report = report_of(runs, pairs=[("n-lora", "seq-lora")])
    for ending in ("md", "json", "tex"):
        write_report(report, tmp_path / f"r.{ending}")
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    data = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    method = data["methods"][0]
    spread = method["orders"]["order1"]["metrics"]["average-performance"]
    assert spread == {"mean": pytest.approx(70), "deviation": pytest.approx(10)}
    assert re.search(r"\| n-lora +\| +✔ \| +✔ \| +✔ \| +4 \| +\*\*70\.00 ± 10\.00\*\* \|", text)
    (pair,) = data["significance"]
    assert f"| {pair['difference']:.2f} |" in re.sub(r" +", " ", text)
    assert data["costs"][0]["train_seconds"]["mean"] == pytest.approx(fmean([11, 21, 12, 22, 13, 23, 11, 21]))
    assert "## n-lora, order1, mean of 3 runs" in text
    assert len({len(line) for line in text.split("\n\n")[1].splitlines()}) == 1
    pairs = report_of(runs).data()["significance"]
    assert [(one["first"], one["second"]) for one in pairs] == [
        ("n-lora", "per-task"),
        ("n-lora", "seq-lora"),
        ("per-task", "seq-lora"),
    ]


def test_a_terminal_gets_no_more_than_four_matrices(runs):
    report = report_of(runs)
    assert "after stage" in report.text()
    assert "after stage" not in report.text(short=True)
    assert "| n-lora" in report.text(short=True)


def test_a_pair_that_cannot_be_compared_is_refused_only_if_asked_for(tmp_path):
    for name, rows in (("a", bits(5)), ("b", bits(4, 8))):
        scores = stage_scores(1, {"first": 5}, name, name)
        scores.rows[0].scores["first"] = cell(rows)
        write_text(tmp_path / f"{name}.json", to_json(scores.to_dict()))
    assert report_of(tmp_path).data()["significance"] == []
    with pytest.raises(MismatchError, match="scored on 10 rows"):
        report_of(tmp_path, pairs=[("a", "b")])


def test_endings_are_known_and_scores_are_needed_where_nothing_else_is_written(tmp_path):
    report = report_of(write_routes(tmp_path / "routes.json"))
    for ending in (".csv", ".tex", ".png"):
        with pytest.raises(OptionError, match="there are no scores"):
            check_out(tmp_path / f"r{ending}", report)
    with pytest.raises(OptionError, match=r"must be \.html, .* or \.pdf"):
        check_out(tmp_path / "r.docx")
    for ending in (".html", ".md", ".json"):
        write_report(report, tmp_path / f"r{ending}")
    assert "right: 85.00 % (macro)" in (tmp_path / "r.md").read_text(encoding="utf-8")
    assert Page((tmp_path / "r.html").read_text(encoding="utf-8")).titles == ["Routing", "Provenance"]
    assert set(ENDINGS) == {".html", ".md", ".tex", ".csv", ".json", ".png", ".svg", ".pdf"}


def test_one_package_stands_for_a_method_and_what_is_odd_is_noted(packages):
    found = collect([packages]).packages
    assert {label: one.place.seed for label, one in representatives(found).items()} == {"n-lora": 1, "seq-lora": 1}
    anatomy = examine(found)
    assert set(anatomy.differences) == set(anatomy.shifts) == {"n-lora", "seq-lora"}
    for shift in anatomy.shifts["n-lora"].values():
        assert shift.shares.sum() + shift.zeros == pytest.approx(1)
    assert (anatomy.ledgers, anatomy.notes) == ({}, [])
    config = packages / "n-lora" / "seed-1" / "adapters" / "first" / "adapter_config.json"
    (config.parent / "clora.json").unlink()
    config.write_text(
        json.dumps({**json.loads(config.read_text(encoding="utf-8")), "use_dora": True}), encoding="utf-8"
    )
    (note,) = examine(collect([packages]).packages).notes
    assert note.startswith("n-lora: ") and "use_dora" in note


def test_shifts_count_entries_by_magnitude():
    b = torch.tensor([[1.0], [0.0], [-0.01]])
    shift = measure_shift({"x": Factor(torch.ones(1, 4), b, 0.5), "y": torch.full((2, 2), 0.5)})
    assert shift.zeros == pytest.approx(4 / 16)
    edges = [(-10 + number / 8) for number in range(len(shift.shares) + 1)]
    seen = {low: share for (low, _), share in zip(pairwise(edges), shift.shares, strict=True) if share}
    assert seen == {-0.375: pytest.approx(8 / 16), -2.375: pytest.approx(4 / 16)}  # 0.5 and 0.005


@pytest.fixture(scope="module")
def page(runs, trained, tmp_path_factory):
    """A page of everything, with a package whose tasks share one LoRA and names that need escaping."""
    root = tmp_path_factory.mktemp("page")
    for stage, task in enumerate(("first", "<b>&'"), start=1):
        source = read_adapter(trained / "n-lora" / "seed-1" / "adapters" / "first")
        tensors = read_tensors(source.weights)
        state = {}
        for key, tensor in tensors.items():
            if "lora_B" in key:
                mask = torch.zeros(tensor.shape, dtype=torch.bool)
                mask[stage - 1] = True
                tensors[key] = tensor * mask
                state[mask_key(key.removeprefix("base_model.model.").removesuffix(".lora_B.weight"))] = pack(mask)
        manifest = {**source.manifest, "task": task, "stage": stage}
        write_adapter(root / "shared" / str(stage), tensors, source.config, manifest, {}, state)
    paths = [runs, trained, root / "shared", write_routes(root / "routes.json")]
    write_report(report_of(*paths, command="clora report '<script>'"), root / "r.html")
    return root / "r.html"


def test_the_page_is_well_formed_and_needs_no_network(page):
    text = page.read_text(encoding="utf-8")
    read = Page(text)
    assert len(read.ids) == len(set(read.ids))
    assert read.links
    assert all(link.startswith(("#", "data:image/")) for link in read.links)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text and "<script" not in text
    targets = {link[1:] for link in read.links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(read.ids)
    assert "<b>&" not in text and "&lt;b&gt;&amp;" in text and "&#x27;&lt;script&gt;&#x27;" in text
    assert read.titles == [
        "Results",
        "Significance",
        "Scores over stages",
        "Every stage on every task",
        "Routing",
        "Interference between adapters",
        "Parameter shift",
        "Capacity",
        "Cost",
        "All metrics",
        "Provenance",
    ]
    # Curves, two orders' matrices, routes, interference of all, pairs of three packages, shifts, capacity, cost.
    assert read.figures == 1 + 2 + 1 + 1 + 3 + 1 + 1 + 1


def test_the_page_s_numbers_are_those_of_the_runs(page):
    read = Page(page.read_text(encoding="utf-8"))
    results, significance = read.tables[:2]
    assert results[0] == ["", "order1", "order2", "average"]
    assert results[1][:5] == ["method", "no replay", "no task id", "no growth", "runs"]
    rows = {row[0]: row[1:] for row in results[2:]}
    # Right rows of ten after the last task, by seed: what write_runs wrote.
    n_lora = [([5, 7], 8), ([6, 8], 8), ([7, 9], 8)]
    averages = [10 * fmean(last) for last, _ in n_lora]
    lost = [10 * (before - last[0]) for last, before in n_lora]
    assert rows["n-lora"][:4] == ["✔", "✔", "✔", "4"]
    assert rows["n-lora"][4] == f"{fmean(averages):.2f} ± {stdev(averages):.2f}"
    assert rows["n-lora"][5] == f"{fmean(lost):.2f} ± {stdev(lost):.2f}"
    gained = [10 * (last[1] - alone) for (last, _), alone in zip(n_lora, (7, 8, 9), strict=True)]
    assert rows["n-lora"][6] == f"{fmean(gained):.2f} ± {stdev(gained):.2f}"
    assert rows["n-lora"][8] == f"{10 * fmean([4, 6]):.2f}"
    assert rows["n-lora"][12] == f"{fmean([fmean(averages), 50]):.2f} ± {stdev([*averages, 50]):.2f}"
    assert rows["per-task"][8:] == ["-"] * 8
    assert significance[0][:5] == ["first", "second", "AP difference", "95 % interval", "p"]
    differences = {(row[0], row[1]): float(row[2]) for row in significance[1:]}
    assert differences["n-lora", "seq-lora"] == pytest.approx(fmean([70, 50]) - 50, abs=0.005)
    assert not any(re.search(r"\.\d{3}", cell) for row in rows.values() for cell in row)


def test_the_same_input_gives_the_same_page(tmp_path):
    write_run(tmp_path, "n-lora", 1, [[8], [5, 7]])
    for name in ("one.html", "two.html"):
        write_report(report_of(tmp_path / "n-lora"), tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_run_of_one_order_has_no_blocks_and_no_spread(tmp_path):
    write_run(tmp_path / "runs", "n-lora", 1, [[8], [5, 7]])
    write_report(report_of(tmp_path), tmp_path / "r.html")
    read = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert read.tables[0] == [
        ["method", "no replay", "no task id", "no growth", "runs", "AP ↑", "F.Ra ↓", "BWT ↑"],
        ["n-lora", "✔", "✔", "✔", "1", "60.00", "30.00", "-30.00"],
    ]
    assert "Significance" not in read.titles


def browser() -> str | None:
    found = [os.environ.get("CHROME"), *map(shutil.which, BROWSERS)]
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright"))
    found += [
        str(path)
        for path in sorted(cache.glob("chromium*/chrome-linux*/*"))
        if path.name in {"chrome", "headless_shell"}
    ]
    return next((path for path in found if path), None)


@pytest.mark.skipif(browser() is None, reason="no Chromium is installed")
def test_a_browser_shows_every_figure_and_asks_nobody_for_anything(page, tmp_path):
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1250,6000",
        "--enable-logging=stderr",
        f"--screenshot={tmp_path / 'page.png'}",
        page.as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert "Refused to" not in result.stderr and "CONSOLE" not in result.stderr
    from PIL import Image

    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (1250, 6000)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100  # not blank
