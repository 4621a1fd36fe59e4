"""What a report computes from the files that other commands wrote (layer L3); ``presenting`` shows it.

``collect`` finds scores, routes, costs and adapters; ``assemble`` merges scores files into runs, ``bring_together`` groups
runs by method and order of tasks, ``make_report`` puts all of it together. Nothing here draws or writes markup.
"""

from __future__ import annotations

from clora_cli.reporting.grouping import bring_together
from clora_cli.reporting.runs import assemble, summarise
from clora_cli.reporting.scored_run import Run

__all__ = ["Run", "assemble", "bring_together", "summarise"]
