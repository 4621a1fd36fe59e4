"""Labels that tell runs and methods apart, and no more than is needed for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clora_cli.reporting.scored_run import Run

__all__ = ["labels", "names"]


def labels(runs: Sequence[Run]) -> list[str]:
    """Return one distinct label for each run: ``n-lora (sum)``, with package, base and scoring where they differ."""
    texts = [f"{run.method} ({run.combine})" if run.method else run.base.id for run in runs]
    return _distinct(texts, runs, ("package", "route", "base", "score"))


def names(runs: Sequence[Run]) -> list[str]:
    """Return one distinct name for each run's row in a table: ``n-lora``, with what else differs where names repeat."""
    texts = [run.place.name or run.method or run.base.id for run in runs]
    return _distinct(texts, runs, ("method", "combine", "route", "root", "package", "base", "score"))


def _distinct(texts: list[str], runs: Sequence[Run], attributes: Sequence[str]) -> list[str]:
    for attribute in attributes:
        texts = _extended(texts, [_detail(run, attribute) for run in runs])
    repeated = Counter(texts)
    seen: Counter[str] = Counter()
    for index, text in enumerate(texts):
        seen[text] += 1
        if repeated[text] > 1:
            texts[index] = f"{text} #{seen[text]}"
    return texts


def _detail(run: Run, attribute: str) -> str:
    if attribute == "base":
        return run.base.id
    if attribute == "root":
        return run.place.root.rpartition("/")[2]
    if attribute == "combine":
        return f"({run.combine})"
    if attribute == "route":
        return " ".join(f"{key}={value}" for key, value in run.settings.get("route", {}).items())
    return str(getattr(run, attribute))


def _extended(texts: Sequence[str], details: Sequence[str]) -> list[str]:
    """Append a detail where equal texts differ in it."""
    different = {text: len({d for t, d in zip(texts, details, strict=True) if t == text}) > 1 for text in texts}
    return [f"{t} {d}" if d and different[t] else t for t, d in zip(texts, details, strict=True)]
