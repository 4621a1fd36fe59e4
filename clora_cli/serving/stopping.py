"""How a server ends (layer L3): it finishes what is under way, for a while, and at once if it is told again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import uvicorn

from clora_cli.processes.signals import exit_code, handled, note
from clora_cli.serving.line import Line

__all__ = ["Stoppable"]

_GRACE = 30  # seconds for answers under way
_LAST = 5  # seconds in which those that are not done by then are told so


class Stoppable(uvicorn.Server):
    """A server that SIGINT, SIGTERM and SIGHUP end alike.

    The first signal lets it finish what is under way; another one, not the same passed on again, ends the process at once: nothing
    is left behind.

    Args:
        config: uvicorn's.
        line: Whose prompts are under way.
        log: Told that it stops.

    Attributes:
        told: Whether a signal has come.
    """

    def __init__(self, config: uvicorn.Config, line: Line, log: Callable[[Mapping[str, Any]], None]) -> None:
        config.timeout_graceful_shutdown = _GRACE + _LAST
        super().__init__(config)
        self._line, self._log, self.told = line, log, False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals while the server runs, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with handled(self._told):
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and finish what is under way."""
        about = f"finishing what is under way, for {_GRACE} seconds at most; another signal ends it at once"
        self._log({"event": "stopping", "message": about})
        late = asyncio.get_running_loop().call_later(_GRACE, self._line.give_up)
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()

    def _told(self, number: int, frame: FrameType | None) -> None:
        if not note(number):
            return
        self.told = True
        if self.should_exit:
            os._exit(exit_code())
        self.should_exit = True
