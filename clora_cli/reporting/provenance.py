"""Where a report's numbers come from: models, settings, versions, files."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from clora_cli import __version__
from clora_cli.presenting.page import escape, fold, table
from clora_cli.store.adapter_folder import AdapterFolder

if TYPE_CHECKING:
    from clora_cli.reporting.assembly import Report

__all__ = ["provenance"]


def provenance(report: Report) -> str:
    """Return the tables that say how everything was made, as HTML."""
    facts = table(["", ""], _facts(report), text=[1])
    runs = [_run(report, n) for n in range(len(report.results.runs))]
    header = ["run", "method", "combined by", "scored by", "seed", "tasks", "package"]
    parts = [facts, fold("Runs", table(header, runs, text=[1, 2, 3, 6])) if runs else ""]
    if trained := _training(report):
        parts.append(
            fold("Training of each package", table(["package", "method and options", "training"], trained, text=[1, 2]))
        )
    files = "".join(f"<li><code>{escape(str(path))}</code></li>\n" for path in report.material.files)
    return "".join(parts) + fold(f"{len(report.material.files)} files and folders read", f"<ul>\n{files}</ul>\n")


def _facts(report: Report) -> list[tuple[str, str]]:
    bases = dict.fromkeys((run.base.id, run.base.fingerprint) for run in report.results.runs)
    members = [member for package in report.material.packages for member in package.members]
    bases |= dict.fromkeys((str(m.base.get("id")), str(m.base.get("fingerprint", ""))) for m in members)
    rows = [("command", f"<code>{escape(report.command)}</code>")] if report.command else []
    rows += [
        ("base model", f"{escape(name)} <code>{escape(digest[:16])}</code>" if digest else escape(name))
        for name, digest in bases
    ]
    rows += _settings([run.settings for run in report.results.runs])
    rows += _versions(members)
    return [*rows, ("report written by", f"clora {escape(__version__)}, Python {platform.python_version()}")]


def _settings(found: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return each setting of the evaluations with the values that it had."""
    values: dict[str, dict[str, None]] = {}
    for settings in found:
        for key, value in settings.items():
            if value not in ("", [], {}, None):
                values.setdefault(key, {})[_brief(value)] = None
    return [(f"evaluation: {key.replace('_', ' ')}", escape(" | ".join(each))) for key, each in values.items()]


def _versions(members: Iterable[AdapterFolder]) -> list[tuple[str, str]]:
    values: dict[str, dict[str, None]] = {}
    for member in members:
        for name, version in member.manifest.get("versions", {}).items():
            values.setdefault(name, {})[str(version)] = None
    told = ", ".join(f"{name} {' | '.join(each)}" for name, each in sorted(values.items()))
    return [("adapters trained with", escape(told))] if told else []


def _run(report: Report, number: int) -> list[str]:
    run = report.results.runs[number]
    seed = "" if run.seed is None else str(run.seed)
    names = (run.method or "base model", run.combine, run.score)
    return [str(number + 1), *map(escape, names), seed, str(len(run.order)), f"<code>{escape(run.package)}</code>"]


def _training(report: Report) -> list[list[str]]:
    rows = []
    for package in report.material.packages:
        manifests = [member.manifest for member in package.members if member.manifest]
        if manifests:
            options = dict.fromkeys(_brief(manifest["method"].get("options", {})) for manifest in manifests)
            training = dict.fromkeys(
                _brief({"seed": manifest["seed"]} | dict(manifest["lora"]) | dict(manifest["training"]))
                for manifest in manifests
            )
            cells = (" | ".join(options), " | ".join(training))
            rows.append([f"<code>{escape(str(package.path))}</code>", *map(escape, cells)])
    return rows


def _brief(value: Any) -> str:
    """Write a setting shortly: ``lr 0.001, epochs 2``; what is off or empty is left out of a mapping."""
    if isinstance(value, Mapping):
        kept = ((key, _brief(one)) for key, one in value.items() if one not in ("", [], {}, None, False))
        return ", ".join(f"{key} {text}".strip() for key, text in kept)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
