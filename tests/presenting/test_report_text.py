"""A report as Markdown."""

from __future__ import annotations

from reported import write_run

from clora_cli.presenting.report_text import report_text
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import Material, collect


def test_adapters_alone_are_pointed_to_the_page():
    text = report_text(make_report(Material()))
    assert text == "No scores, routes or costs. The HTML page shows adapters: add --out report.html.\n"


def test_a_single_run_has_its_matrix_and_metrics_and_no_table_of_methods(tmp_path):
    write_run(tmp_path, "n-lora", 1, [[8], [5, 7]])
    text = report_text(make_report(collect([tmp_path])))
    titles = ["## n-lora", "## Metrics", "## Metrics by stage", "## Rows of earlier tasks", "## Cost"]
    assert [line for line in text.splitlines() if line.startswith("## ")] == titles
    assert "\n\n\n" not in text and text.endswith("|\n")
