"""What a request asks for (layer L3): which adapters answer, and how the answer is chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from clora_cli.base.errors import CloraError, OptionError, UnknownNameError
from clora_cli.model.drawing import Draw
from clora_cli.routing.inputs import Input
from clora_cli.serving.verdict import Verdict

__all__ = ["AUTO", "BASE", "Asked", "Choice", "Decoding", "Listener", "read_choice"]

AUTO = "auto"
BASE = "base"
_MOST_SCALE = 1000.0


@dataclass(frozen=True)
class Choice:
    """Which adapters answer a prompt.

    Attributes:
        auto: The prompt chooses; then ``scales`` is empty.
        scales: What each adapter is multiplied by, by name; empty for the base model alone.
    """

    auto: bool = False
    scales: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoding:
    """How an answer's tokens are chosen.

    Attributes:
        max_new_tokens: Tokens at most, the end included; at least 1.
        temperature: 0 takes the likeliest token; above 0 tokens are drawn.
        top_p: Tokens are drawn from the likeliest ones that together have this probability, in (0, 1].
        seed: Of the draws; None for another one each time.
        stop: The answer ends before the first of these texts.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def draw(self) -> Draw:
        """How tokens are chosen."""
        return Draw(temperature=self.temperature, top_p=self.top_p, seed=self.seed)


class Listener(Protocol):
    """Who is told of one prompt's answer, by the thread that makes it."""

    def decided(self, verdict: Verdict) -> None:
        """Take which adapters answer; comes first."""

    def said(self, text: str) -> None:
        """Take the next part of the answer."""

    def finished(self, reason: str, tokens: tuple[int, int]) -> None:
        """Take why the answer ended, ``stop`` or ``length``, and the numbers of tokens read and written; comes last."""

    def failed(self, error: CloraError) -> None:
        """Take why there is no answer; comes last."""

    def wanted(self) -> bool:
        """Tell whether the answer is still wanted."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One prompt to be answered, or only to be routed.

    Attributes:
        input: The prompt.
        model: The request's ``model``, which the package's present version gives a meaning: ``read_choice``.
        decoding: How; None if where it goes is all that is asked.
        listener: Who is told.
        eager: Whether parts of the answer are wanted as they come.
    """

    input: Input
    model: Any
    decoding: Decoding | None
    listener: Listener
    eager: bool = False


def read_choice(model: Any, names: Collection[str], base: str) -> Choice:
    """Return what a request's ``model`` stands for.

    Args:
        model: ``auto``; ``base`` or the base model's name; an adapter's name, alone or after ``base:``, which it takes for one that is
            called like one of the former; or a list of adapters' names, each alone or as ``{"name": …, "scale": …}``.
        names: The adapters.
        base: The base model's name.

    Raises:
        UnknownNameError: If there is no such model.
        OptionError: If it is none of these, or a scale is no finite number.
    """
    if isinstance(model, (list, dict)):
        listed = model if isinstance(model, list) else [model]
        if alone := next((one for one in (AUTO, BASE, base) if one in listed), None):
            raise OptionError(f"model: '{alone}' stands alone; a list names adapters", code="served-model-malformed")
        pairs = [_scaled(one, names, base) for one in listed]
        if len({name for name, _ in pairs}) < len(pairs) or not pairs:
            raise OptionError("model: name at least one adapter, and none twice", code="served-model-malformed")
        return Choice(scales=dict(pairs))
    if model == AUTO:
        return Choice(auto=True)
    if model in (BASE, base):
        return Choice()
    return Choice(scales=dict([_scaled(model, names, base)]))


def _scaled(model: Any, names: Collection[str], base: str) -> tuple[str, float]:
    name, scale = (model.get("name"), model.get("scale", 1.0)) if isinstance(model, dict) else (model, 1.0)
    right = isinstance(scale, (int, float)) and not isinstance(scale, bool) and abs(scale) <= _MOST_SCALE
    if not isinstance(name, str) or not right or (isinstance(model, dict) and set(model) - {"name", "scale"}):
        raise OptionError(
            f'model: give a name, or a list of names or of {{"name": …, "scale": …}} with scales within {_MOST_SCALE:g}',
            code="served-model-malformed",
        )
    for spelled in (name, *(name.removeprefix(f"{one}:") for one in (BASE, base))):
        if spelled in names:
            return spelled, float(scale)
    raise UnknownNameError("model", name, _some([AUTO, base, *names]))


def _some(names: Sequence[str], most: int = 50) -> Sequence[str]:
    return names[:most]
