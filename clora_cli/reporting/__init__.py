"""From scores files to a run's matrix, metrics, tables and figure (layer L3).

``assemble`` merges scores files into runs; ``summarise`` computes every metric plug-in; ``matrix_table``,
``summary_table``, ``report_json`` and ``draw`` render. All are pure functions, save ``draw``, which writes one file.
"""

from __future__ import annotations

from clora_cli.reporting.figure import draw
from clora_cli.reporting.runs import Run, assemble, summarise
from clora_cli.reporting.tables import matrix_table, report_json, summary_table

__all__ = ["Run", "assemble", "draw", "matrix_table", "report_json", "summarise", "summary_table"]
