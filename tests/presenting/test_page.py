"""The HTML page: read back, attacked with hostile names, and shown by a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from pages import HOSTILE, Page
from reported import ROUTES, stage_scores, write_packages, write_routes, write_run, write_runs

from clora_cli.base.legible import legible
from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.presenting.html import report_html
from clora_cli.presenting.report_file import write_report
from clora_cli.presenting.svg import inline_svg
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import Material, collect
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.store.ledger import mask_key, pack
from clora_cli.store.scores import BaseRef
from clora_cli.store.tensors import read_tensors

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder):
    base = load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))
    return write_packages(tmp_path_factory.mktemp("packages"), base)


def report_of(*paths, **options):
    return make_report(collect(paths), **options)


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
        manifest = {**source.manifest.raw, "task": task, "stage": stage}
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
    assert "<b>&" not in text and "&lt;b&gt;&amp;" in text and "&#39;&lt;script&gt;&#39;" in text
    assert read.titles == [
        "Results",
        "Significance",
        "Scores over stages",
        "Every stage on every task",
        "Rows of earlier tasks",
        "Routing",
        "Interference between adapters",
        "Parameter shift",
        "Capacity",
        "Cost",
        "All metrics",
        "Provenance",
    ]
    # Curves, two orders' metrics by stage and matrices, routes, interference of all, pairs of three packages, shifts, capacity, cost.
    assert read.figures == 1 + 2 + 2 + 1 + 1 + 3 + 1 + 1 + 1


def hostile_report():
    """Return a report whose methods, tasks, base models, settings, paths and command line are hostile."""
    files = []
    for number, name in enumerate(HOSTILE):
        order = (name, HOSTILE[number - 1])
        scores = stage_scores(2, dict.fromkeys(order, 5), name, name, order)
        files.append(replace(scores, base=BaseRef(name, "f"), score=name, settings={name: name}))
    routes = {Path(name.replace("\x00", "")): replace(ROUTES, panels={}) for name in HOSTILE[:2]}
    return make_report(Material(scores=files, routes=routes), command=" ".join(HOSTILE))


def test_names_that_try_to_be_more_than_names_are_shown_as_they_are(monkeypatch):
    drawing = inline_svg(lambda figure: None, 1)
    monkeypatch.setattr("clora_cli.presenting.page.inline_svg", lambda compose, number: drawing)  # see test_svg
    plain = Page(report_html(make_report(Material(scores=[stage_scores(2, {"first": 5, "second": 7}, "p", "m")]))))
    text = report_html(hostile_report())
    read = Page(text)
    assert set(read.tags) <= {*plain.tags, "h3"}
    assert set(read.attributes) <= {*plain.attributes, "colspan"}
    assert legible(text, lines=True) == text
    for name in HOSTILE:
        cells = [cell for table in read.tables for row in table for cell in row]
        assert sum(legible(name) in cell for cell in cells) >= 5, name


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
