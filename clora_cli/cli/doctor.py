"""``clora doctor`` (layer L4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import CloraError
from clora_cli.cli._options import JsonOption, QuietOption, form
from clora_cli.cli._output import emit

if TYPE_CHECKING:
    from clora_cli.reporting.machine import Check

__all__ = ["doctor"]


def doctor(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Tell what works on this machine, what is missing, and what to do about it.

    Looks at Python, libraries and optional extras, devices, memory, disk, data, the Hub's cache and completion; loads no
    model and asks no network. What is missing can be done without; only with something broken the exit status is 1.

    Example: clora doctor
    """
    output = form(json, quiet)
    from clora_cli.base.versions import library_versions
    from clora_cli.reporting.machine import BROKEN, look

    checks = list(look())
    broken = [check for check in checks if check.state == BROKEN]
    data: dict[str, Any] = {
        "schema": "clora.doctor/1",
        "works": not broken,
        "versions": library_versions(),
        "checks": [asdict(check) for check in checks],
    }
    emit(output, text=_table(checks), data=data, brief=str(len(broken)))
    if broken:
        first = broken[0]
        mend = f"; {first.mend}" if first.mend else ""
        raise CloraError(
            f"{', '.join(check.about for check in broken)}: {first.told}{mend}", code="machine-lacks-needed"
        )


def _table(checks: Sequence[Check]) -> str:
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8} {check.about:<14} {check.told}")
        if check.mend:
            lines.append(f"{'':23} -> {check.mend}")
    return "\n".join(lines)
