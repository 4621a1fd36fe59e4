"""A process that carries out commands, one after another, each in a process of its own (layer L3).

The worker is another program, which ``clora_cli.cli`` provides: it reads commands as lines of JSON and writes what they
say, and between these lines, marked, what became of them. It ends, and its command with it, when this process does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MARK", "Outcome", "Worker"]

MARK = "\x1e"  # what follows it in a line is the worker's own
_PREFIX = "error: "


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Its exit status; 128 and a signal's number if that ended it.
        seconds: By the clock.
        peak_memory: The most main memory that its process held, in bytes.
        peak_device: The most memory of an accelerator that its tensors held, in bytes; None without one.
        message: If it failed: its error, in one line.
    """

    code: int
    seconds: float
    peak_memory: int = 0
    peak_device: int | None = None
    message: str = ""


class Worker:
    """A worker process.

    Args:
        command: Its command line.
        environment: Its environment.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        self._lock, self._pid, self._gone = threading.Lock(), 0, False

    def run(self, words: Sequence[str], folder: Path, told: Callable[[str], None]) -> Outcome:
        """Carry out one command.

        Args:
            words: Its command line, without the program's name.
            folder: The folder that it keeps busy.
            told: Takes each line that it says.
        """
        began = time.monotonic()
        facts: dict[str, Any] = {"code": 0}
        self._send({"words": list(words), "folder": str(folder)})
        try:
            message = self._heard(told, facts)
        except (
            BaseException
        ):  # nobody listens any more, as where the log's disk is full; it is to end by itself, tidily
            self.stop(signal.SIGTERM)
            self._heard(lambda line: None, facts)
            raise
        finally:
            with self._lock:
                self._pid = 0
        code = int(facts["code"] or 0)
        message = _told(code, message) if code else ""
        device = facts.get("device")
        return Outcome(code, time.monotonic() - began, int(facts.get("memory") or 0), device, message)

    def _heard(self, told: Callable[[str], None], facts: dict[str, Any]) -> str:
        """Pass on what the command says until it has ended, and gather its facts; return what is its error if it failed."""
        message, lines = "", self._lines()
        while "ended" not in facts:
            if (line := next(lines, None)) is None:
                self._gone, facts["ended"], facts["code"] = True, True, 128 + signal.SIGKILL
                break
            text, mark, own = line.partition(MARK)
            facts |= json.loads(own) if mark else {}
            if "pid" in facts:
                with self._lock:
                    self._pid = facts.pop("pid")
            if text or not mark:
                message = text if text.strip() and not message.startswith(_PREFIX) else message
                told(text)
        return message

    @property
    def alive(self) -> bool:
        """Whether it can take another command."""
        return not self._gone

    def stop(self, number: int) -> None:
        """Send the running command a signal; where none runs yet, end the worker, which may be busy with imports."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._pid:
                os.kill(self._pid, number)
            else:
                self._process.terminate()

    def close(self) -> None:
        """End the process, which has nothing to do."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.wait()

    def _send(self, request: Mapping[str, Any]) -> None:
        stdin = self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended: so will the lines that it writes
            if stdin is not None:
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()

    def _lines(self) -> Iterator[str]:
        for line in self._process.stdout or ():
            yield line.decode(errors="replace").rstrip("\n")


def _told(code: int, message: str) -> str:
    if message.startswith(_PREFIX):
        return message[len(_PREFIX) :]
    if code > 128 and code != 130:
        name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else str(code - 128)
        hint = ": out of memory, perhaps" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}"
    return message.strip() or f"ended with status {code}"
