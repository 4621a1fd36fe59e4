"""The table of methods in LaTeX."""

from __future__ import annotations

import pytest
from reported import bring, write_runs

from clora_cli.presenting.latex import escape, latex_table
from clora_cli.reporting.standings import standings


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return bring(write_runs(tmp_path_factory.mktemp("runs")))


def test_latex_has_as_many_cells_as_columns_and_balanced_braces(results):
    text = latex_table(standings(results), "100 % of a_b & c")
    specification = next(line for line in text.splitlines() if line.startswith(r"\begin{tabular}"))
    columns = specification.split("{")[-1].rstrip("}")
    assert columns == "l" + "ccc" + "r" * 13
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 3
    assert all(line.count(" & ") == len(columns) - 1 and line.endswith(r" \\") for line in body)
    header = text.split(r"\toprule")[1].split(r"\cmidrule")[0]
    assert header.count("&") + 3 * header.count(r"\multicolumn{4}") == len(columns) - 1
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert r"\cmidrule(lr){6-9} \cmidrule(lr){10-13} \cmidrule(lr){14-17}" in text
    assert r"$\mathbf{70.00}_{\pm 10.00}$" in body[0]
    assert r"$\underline{50.00}_{\pm 0.00}$" in body[2]
    assert r"\caption{100 \% of a\_b \& c}" in text
    assert escape("\\{x}~^#$") == r"\textbackslash{}\{x\}\textasciitilde{}\textasciicircum{}\#\$"
