"""Make rows of a package's tasks and write them, with their provenance beside them (layer L3)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from clora_cli.base.errors import CloraError, OptionError
from clora_cli.base.files import differences, read_json, sha256, to_json, write_text
from clora_cli.base.progress import Progress, Silent
from clora_cli.base.versions import versions
from clora_cli.data.made_rows import to_lines
from clora_cli.evaluation.package_writer import made_rows
from clora_cli.evaluation.synthesis_plan import SynthesisPlan

__all__ = ["synthesize"]


def synthesize(
    plan: SynthesisPlan, *, force: bool = False, argv: Sequence[str] = (), progress: Progress | None = None
) -> tuple[dict[str, int], bool]:
    """Make rows and write them, with their provenance beside them.

    Args:
        plan: From ``plan_synthesis``.
        force: Replace other rows.
        argv: The command line, for the record.
        progress: Who to tell.

    Returns:
        The number of rows of each task, and whether they were made now (False: they were there already).

    Raises:
        OptionError: If the place holds something else.
        CloraError: If the model fails, or makes no row of a task; nothing is then written.
    """
    progress, out = progress or Silent(), plan.options.out
    if not force and out.exists() and (there := _finished(plan)) is not None:
        return there, False
    lines, counts = "", {}
    for name, rows in made_rows(plan, progress):
        if not rows:
            raise CloraError(
                f"the model made no row of '{name}' that is new and has an answer; raise --temperature or --shots",
                code="nothing-synthesized",
            )
        if len(rows) < plan.options.rows:
            progress.note(
                f"note: {name}: {len(rows)} of {plan.options.rows} rows; the model repeated itself or gave none"
            )
        counts[name] = len(rows)
        lines += to_lines(name, rows, plan.sources[name].task.template)
    digest = hashlib.sha256(lines.encode("utf-8")).hexdigest()
    made = {"rows": counts, "sha256": digest, "argv": list(argv), "versions": versions("torch", "transformers")}
    # The record goes first: rows that it does not describe are never taken for its own.
    write_text(plan.record, to_json(plan.recipe() | made))
    write_text(out, lines)
    return counts, True


def _finished(plan: SynthesisPlan) -> dict[str, int] | None:
    """Return the numbers of the rows that are there, if this very plan made them."""
    out = plan.options.out
    mend = "pass --force to replace it or --out to keep it"
    if not plan.record.is_file():
        raise OptionError(f"{out} exists and clora did not make it; {mend}", code="output-made-differently")
    record = read_json(plan.record, "record of the rows")
    changed = differences(plan.recipe(), record)
    if not out.is_file() or record.get("sha256") != sha256(out):
        changed = changed or "its rows are not those that were written"
    if changed:
        raise OptionError(f"{out} was made differently ({changed}); {mend}", code="output-made-differently")
    return {str(name): int(rows) for name, rows in record["rows"].items()}
