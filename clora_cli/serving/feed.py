"""From the thread that answers to the loop that sends (layer L3)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from clora_cli.base.errors import CloraError
from clora_cli.serving.verdict import Verdict

__all__ = ["Feed", "Finished", "LateError"]


@dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Attributes:
        reason: ``stop`` or ``length``.
        read: Tokens of the prompt.
        written: Tokens of the answer.
    """

    reason: str
    read: int
    written: int


class LateError(CloraError):
    """A request's time is over."""


class Feed:
    """A listener whose events are read in an event loop, which must be running when it is made.

    Args:
        seconds: How long the answer may take.

    Attributes:
        first: When the first part of the answer came, in seconds after the request; None before.
        begun: When the prompt left the line, in the same seconds; None before.
    """

    def __init__(self, seconds: float) -> None:
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[Any]()
        self._start = time.monotonic()
        self._end, self._gone = self._start + seconds, False
        self.first: float | None = None
        self.begun: float | None = None

    @property
    def age(self) -> float:
        """Seconds since the request."""
        return time.monotonic() - self._start

    def leave(self) -> None:
        """Want no more."""
        self._gone = True

    def decided(self, verdict: Verdict) -> None:
        """Pass on which adapters answer."""
        self._put(verdict)

    def said(self, text: str) -> None:
        """Pass on the next part of the answer."""
        if self.first is None:
            self.first = self.age
        self._put(text)

    def finished(self, reason: str, tokens: tuple[int, int]) -> None:
        """Pass on why the answer ended."""
        self._put(Finished(reason, *tokens))

    def failed(self, error: CloraError) -> None:
        """Pass on why there is no answer."""
        self.leave()
        self._put(error)

    def wanted(self) -> bool:
        """Tell whether the answer is still wanted; asked when a prompt leaves the line, and at every token."""
        if self.begun is None:
            self.begun = self.age
        return not self._gone and time.monotonic() < self._end

    async def next(self) -> Verdict | str | Finished:
        """Return the next event.

        Raises:
            CloraError: If there is no answer.
            LateError: If the time is over.
        """
        try:
            event = await asyncio.wait_for(self._events.get(), max(0.0, self._end - time.monotonic()))
        except asyncio.TimeoutError:
            self.leave()
            raise LateError("the time for this request is over", code="request-late") from None
        if isinstance(event, CloraError):
            raise event
        return event  # type: ignore[no-any-return]

    def _put(self, event: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
