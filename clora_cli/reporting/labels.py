"""Labels that tell runs and methods apart, as short as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clora_cli.reporting.scored_run import Run

__all__ = ["labels", "names"]


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a distinct label for each run: ``n-lora (sum)``, with package, base model and scoring where they differ."""
    texts = [f"{run.method} ({run.combine})" if run.method else run.base.id for run in runs]
    return _distinct(texts, runs, ("package", "route", "base", "score"))


def names(runs: Sequence[Run]) -> list[str]:
    """Return a distinct name for each run's row in a table: ``n-lora``, with whatever else differs if a name repeats."""
    texts = [run.folder.name or run.method or run.base.id for run in runs]
    return _distinct(texts, runs, ("method", "combine", "route", "root", "package", "base", "score"))


def _distinct(texts: list[str], runs: Sequence[Run], attributes: Sequence[str]) -> list[str]:
    """Extend equal texts by the attributes in which their runs differ, and number those that remain equal."""
    for attribute in attributes:
        texts = _extended(texts, [_detail(run, attribute) for run in runs])
    total, so_far = Counter(texts), Counter[str]()
    for index, text in enumerate(texts):
        so_far[text] += 1
        if total[text] > 1:
            texts[index] = f"{text} #{so_far[text]}"
    return texts


def _detail(run: Run, attribute: str) -> str:
    if attribute == "base":
        return run.base.id
    if attribute == "root":
        return run.folder.root.rpartition("/")[2]
    if attribute == "combine":
        return f"({run.combine})"
    if attribute == "route":
        return " ".join(f"{key}={value}" for key, value in run.settings.get("route", {}).items())
    return str(getattr(run, attribute))


def _extended(texts: Sequence[str], details: Sequence[str]) -> list[str]:
    """Append each text's detail if equal texts differ in it."""
    variants: dict[str, set[str]] = {}
    for text, detail in zip(texts, details, strict=True):
        variants.setdefault(text, set()).add(detail)
    pairs = zip(texts, details, strict=True)
    return [f"{text} {detail}" if detail and len(variants[text]) > 1 else text for text, detail in pairs]
