"""The notebooks run, on the bundled model, and are kept without outputs."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def execute(path):
    """Run a notebook's cells as a kernel does, and return its names; ``_`` is what the last cell that ends so displays."""
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells(path)):
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]), f"{path.name} [{number}]")
            shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, path.name, "exec"), names)
            if shown is not None:
                names["_"] = eval(compile(ast.Expression(shown.value), path.name, "eval"), names)
    return names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_what_it_printed(path):
    for cell in cells(path):
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def notebook(name):
    (path,) = [path for path in NOTEBOOKS if path.stem == name]
    return path


def test_methods_are_compared(tmp_path):
    names = execute(notebook("compare-methods"))
    assert set(names["metrics"]) == {"seq-lora", "o-lora"}
    assert "| seq-lora" in names["report"]._repr_markdown_()
    assert {"report.html", "matrices.svg", "losses.svg"} <= {path.name for path in (tmp_path / "runs").iterdir()}


def test_adapters_of_others_are_routed_and_exported(tmp_path):
    names = execute(notebook("route-adapters"))
    assert len(names["routed"].rows) == 41
    assert set(names["routed"].routes.adapters) == {"news", "reviews"}
    assert {"news", "reviews"} <= set(names["_"])


def test_adapters_are_merged_trimmed_and_unlearned(tmp_path, capsys):
    names = execute(notebook("merge-trim-unlearn"))
    assert [len(scores.rows[-1].adapters) for scores in (names["before"], names["after"])] == [3, 2]
    assert 0 < names["small"].scores["energy"]["kept"] <= 1
    assert 0 < names["thin"].density["B"] < 1
    assert capsys.readouterr().out.startswith("limit-broken the mean score")
