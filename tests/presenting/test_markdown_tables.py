"""Tables in Markdown, read back cell by cell."""

from __future__ import annotations

from dataclasses import replace

from scored import ORDER, alone, cell, full, scores

from clora_cli.base import registry
from clora_cli.presenting.markdown_tables import matrix_table, metrics_tables
from clora_cli.reporting import assemble, bring_together
from clora_cli.store.scores import ScoreRow


def cells(line):
    return [part.strip() for part in line.strip("|").split("|")]


def test_matrix_table_is_aligned_markdown():
    run, _, _ = assemble([full(), alone(), replace(alone(), combine="last", package="alone2")])
    lines = matrix_table(run).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert cells(lines[0]) == ["after stage (exact-match, %)", *ORDER, "mean so far"]
    assert cells(lines[3]) == ["2 rte", "70.0", "**60.0**", "25.0", "65.0"]
    assert cells(lines[5]) == ["alone", "78.0", "62.0", "85.0", ""]
    assert cells(lines[6]) == ["test rows", "100", "100", "100", ""]


def test_matrix_table_names_metrics_that_differ_and_escapes_names():
    order = ("a|b", "c")
    mixed = ScoreRow(2, "c", (), {"a|b": cell(1.0), "c": cell(2.0, metric="rouge-l")})
    (run,) = assemble([scores(mixed, order=order)])
    table = matrix_table(run)
    assert "a\\|b" in table
    assert cells(table.splitlines()[2])[0] == "2 c"  # no row for the first stage, which was not scored
    assert cells(table.splitlines()[3]) == ["metric", "exact-match", "rouge-l", ""]


def test_metrics_are_explained_and_those_left_out_are_named():
    results = bring_together(assemble([full(), alone()]))
    table = metrics_tables(results)
    rows = {cells(line)[0]: cells(line)[1:] for line in table.splitlines() if line.startswith("|")}
    assert rows["metric"] == ["n-lora", "per-task"]
    assert rows["forgetting-rate"][0] == "17.50"
    assert rows["tasks"] == ["3", "3"]
    assert "forward-transfer-gem" not in rows  # the base model alone was not scored
    assert "Not shown" in table
    assert f"- `forgetting-rate`: {registry.summary('metrics', 'forgetting-rate')}" in table
    assert "-0.00" not in table
