"""Whether an answer is JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clora_cli.scorers import Scorer

__all__ = ["ValidJson"]

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ValidJson(Scorer):
    """Score 1 for an answer that is one JSON value and nothing else, 0 for any other.

    A Markdown fence around it does not count against it. NaN and infinities are no JSON.

    Args:
        kind: What the value must be: any, or an object or a list.

    References:
        Bray, The JavaScript Object Notation (JSON) Data Interchange Format, RFC 8259, 2017.
    """

    kind: Literal["any", "object", "list"] = "any"

    def score(self, answer: str, prompt: str, references: Sequence[str]) -> float:
        """Return 1.0 or 0.0."""
        fenced = _FENCE.match(answer)
        try:
            # Python makes no number of thousands of digits, which is one all the same.
            value = json.loads(fenced[1] if fenced else answer, parse_int=str, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        return float(self.kind == "any" or isinstance(value, {"object": dict, "list": list}[self.kind]))


def _refuse(name: str) -> None:
    raise ValueError(name)
