"""Labels that tell runs apart: the method and how adapters were combined, and no more than is needed beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_cli.reporting.runs import Run

__all__ = ["labels"]


def labels(runs: Sequence[Run]) -> list[str]:
    """Return one distinct label for each run: ``n-lora (sum)``, with package, base and scoring where they differ."""
    texts = [f"{run.method} ({run.combine})" if run.method else run.base.id for run in runs]
    for attribute in ("package", "base", "score"):
        texts = _extended(texts, [_detail(run, attribute) for run in runs])
    repeated = Counter(texts)
    seen: Counter[str] = Counter()
    for index, text in enumerate(texts):
        seen[text] += 1
        if repeated[text] > 1:
            texts[index] = f"{text} #{seen[text]}"
    return texts


def _detail(run: Run, attribute: str) -> str:
    return run.base.id if attribute == "base" else str(getattr(run, attribute))


def _extended(texts: Sequence[str], details: Sequence[str]) -> list[str]:
    """Append a detail where equal texts differ in it."""
    different = {text: len({d for t, d in zip(texts, details, strict=True) if t == text}) > 1 for text in texts}
    return [f"{t} {d}" if d and different[t] else t for t, d in zip(texts, details, strict=True)]
