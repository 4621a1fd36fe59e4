"""The waiting line (layer L3): bounded, first come first served, as many prompts at once as a batch holds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from clora_cli.base.errors import CloraError, translated
from clora_cli.serving.asked import Asked

__all__ = ["Line"]

_IDLE = 1.0  # seconds


class Line:
    """Answers prompts in a thread of its own, in batches of all that wait.

    Args:
        answer: Answers a batch, and tells each prompt's listener.
        most: Prompts that may wait.
        size: Prompts of a batch.
        idle: Called once a second while nothing waits.

    Attributes:
        died: Whether the thread came to an end that nobody asked for.
        seconds: What a batch took lately.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], None],
        most: int,
        size: int,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._answer, self._most, self._size, self._idle = answer, most, size, idle
        self._waiting: deque[Asked] = deque()
        self._change = threading.Condition()
        self._over = self.died = False
        self._batch: list[Asked] = []
        self.seconds = 1.0
        self._thread = threading.Thread(target=self._work, name="clora-answers", daemon=True)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def patience(self) -> int:
        """Seconds after which there will be room again, about."""
        return max(1, round(self.seconds * (1 + len(self._waiting) // self._size)))

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End after the batch at hand."""
        with self._change:
            self._over = True
            self._change.notify()
        if self._thread.ident is not None:  # a signal may come before it was started
            self._thread.join()

    def give_up(self) -> None:
        """End now: tell all who wait, and those of the batch at hand, that there will be no answer."""
        with self._change:
            self._over = True
            self._tell_of_end()
            self._change.notify()

    def add(self, asked: Asked) -> bool:
        """Let a prompt wait; tell whether there was room."""
        with self._change:
            if len(self._waiting) >= self._most or self._over or self.died:
                return False
            self._waiting.append(asked)
            self._change.notify()
            return True

    def _work(self) -> None:
        try:
            while not self._over:
                self._batch, begun = self._next(), time.monotonic()
                if not self._batch:
                    continue
                self._carry_out(self._batch)
                self._batch = []
                self.seconds = 0.8 * self.seconds + 0.2 * (time.monotonic() - begun)
        finally:  # what nobody foresaw must leave nobody waiting
            self.died = not self._over
            self._tell_of_end()

    def _tell_of_end(self) -> None:
        for asked in (*self._batch, *self._waiting):
            asked.listener.failed(CloraError("the server stops; ask again", code="server-stops"))
        self._waiting.clear()

    def _carry_out(self, batch: Sequence[Asked]) -> None:
        try:
            with translated("the prompt cannot be answered", CloraError, code="answering-failed"):
                self._answer(batch)
        except CloraError as error:
            for asked in batch:
                asked.listener.failed(error)

    def _next(self) -> list[Asked]:
        while not self._over:
            with self._change:
                if self._waiting or self._change.wait(_IDLE):
                    return [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            self._idle()
        return []
