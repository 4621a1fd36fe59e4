"""From the files that commands leave behind to tables, figures and pages (layer L3).

``collect`` finds scores, routes, costs and adapters; ``assemble`` merges scores files into runs, ``bring_together`` groups
runs by method and order; the modules beside them render. All but ``collect`` and what writes a file are pure functions.
"""

from __future__ import annotations

from clora_cli.presenting.markdown_tables import matrix_table
from clora_cli.reporting.grouping import bring_together
from clora_cli.reporting.runs import assemble, summarise
from clora_cli.reporting.scored_run import Run

__all__ = ["Run", "assemble", "bring_together", "matrix_table", "summarise"]
