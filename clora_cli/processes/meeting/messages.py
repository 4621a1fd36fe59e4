"""What the processes of a launch tell each other, and how they end (layer L0).

The first process, rank 0, exchanges messages with every other one; the others only with it. A process always waits for the
next message of one other process, and a process that fails sends an error in place of its next message: so none waits for
one that has ended, in whatever order things go wrong.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import CloraError, MismatchError
from clora_cli.base.files import differences

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

__all__ = ["PATIENCE", "WORK", "ElsewhereError", "Meeting", "tell"]

PATIENCE = 1800.0  # seconds for a process to appear or to plan its work: PyTorch's own default
WORK = 86400.0  # seconds for the work itself, or for slow input
_BRIEF = 60.0  # seconds for others to learn how it ended
_MOMENT = 2.0  # seconds for a failing process to say so
_SLICE = 1.0  # seconds between two checks for signals, which do not interrupt the store's own wait
_PIECE = 4 << 20  # bytes of one message: the store takes 8 MiB
_MORE, _LAST, _ERROR, _GONE = b"+", b".", b"?", b"!"


class ElsewhereError(CloraError):
    """An error in another process of this launch, with its exit status and code."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message, code=code)
        self.exit_code = status


class Meeting:
    """The processes of a launch, as one of them sees the others.

    Args:
        store: The store that all of them share; None for a single process.
        rank: This process's number.
        size: The number of processes.
        kept: Whether the first process keeps the store, not a launcher that outlives all of them.
    """

    def __init__(self, store: Store | None = None, rank: int = 0, size: int = 1, *, kept: bool = False) -> None:
        self._store, self.rank, self.size, self._kept = store, rank, size, kept
        self._sent = dict.fromkeys(range(size), 0)
        self._taken = dict.fromkeys(range(size), 0)

    def send(self, to: int, content: bytes) -> None:
        """Send a message."""
        for start in range(0, max(len(content), 1), _PIECE):
            piece = content[start : start + _PIECE]
            self._put(to, (_MORE if start + _PIECE < len(content) else _LAST) + piece)

    def send_error(self, to: int, error: CloraError) -> None:
        """Send an error in place of a message: it is raised where the message is awaited."""
        self._put(to, _ERROR + json.dumps([str(error), error.exit_code, error.code]).encode())

    def receive(self, sender: int, patience: float = PATIENCE) -> bytes:
        """Wait for the next message of a process.

        Args:
            sender: Its rank.
            patience: Seconds to wait.

        Raises:
            ElsewhereError: If it sends an error, or has failed.
            CloraError: If nothing comes, or the launcher has ended.
        """
        parts: list[bytes] = []
        while True:
            piece = self._take(sender, patience)
            if piece[:1] == _ERROR:
                raise ElsewhereError(*json.loads(piece[1:]))
            if piece[:1] == _GONE:
                raise ElsewhereError(f"rank {sender} of this launch has failed", int(piece[1:]), code="rank-failed")
            parts.append(piece[1:])
            if piece[:1] == _LAST:
                return b"".join(parts)

    def collect(self, content: bytes, patience: float = PATIENCE) -> list[bytes]:
        """Gather the contents of all processes in the first one, in the order of ranks; the others get nothing."""
        if self.rank:
            self.send(0, content)
            return []
        return [content, *(self.receive(rank, patience) for rank in range(1, self.size))]

    def hand_out(self, content: bytes, patience: float = PATIENCE) -> bytes:
        """Return the first process's content in all processes."""
        if self.rank:
            return self.receive(0, patience)
        for rank in range(1, self.size):
            self.send(rank, content)
        return content

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Check that all processes have the same facts; see ``agree``."""
        reports = self.collect(json.dumps([socket.gethostname(), facts], sort_keys=True, default=str).encode())
        problem = _disagreement([json.loads(report) for report in reports]) if reports else ""
        if problem := self.hand_out(problem.encode()).decode():
            raise MismatchError(problem, code="ranks-disagree")

    def fail(self, code: int, message: str, say: Callable[[str], None]) -> int:
        """End all processes; see ``end_all``."""
        if self._store is None:
            return code
        try:
            first, code = json.loads(self._store.compare_set("ended", "", json.dumps([self.rank, code])))
            if first == self.rank:
                tell(message, say)
                self._store.set("said", "")
            else:  # the launcher goes by the process that ends first, and then stops the others
                self._wait("said", _BRIEF)
            for peer in range(1, self.size) if not self.rank else [0]:
                self._put(peer, _GONE + str(code).encode())
        except (CloraError, RuntimeError):  # the store is gone with its keeper: one of the remaining processes reports
            if self.rank == int(self._kept):
                tell(message, say)
        self._part()
        return code

    def has_ended(self) -> bool:
        """Tell whether a process has failed, waiting a moment for one that is about to say so."""
        try:
            self._wait("ended", _MOMENT)
        except CloraError:
            return False
        return True

    def leave(self) -> int:
        """Wait until the first process is done, and return its exit status."""
        code = 0
        try:
            self.hand_out(b"", WORK)
        except ElsewhereError as error:
            code = error.exit_code
        self._part()
        return code

    def _part(self) -> None:
        """Announce that this process reads no more; the keeper of the store waits for that, for a limited time."""
        deadline = time.monotonic() + _BRIEF
        with contextlib.suppress(CloraError, RuntimeError):
            if self._store is not None and self.rank:
                self._store.set(f"left/{self.rank}", "")
            for rank in range(1, self.size) if self._kept and not self.rank else ():
                self._wait(f"left/{rank}", deadline - time.monotonic())

    def _put(self, to: int, piece: bytes) -> None:
        if self._store is not None:
            self._sent[to] += 1
            self._store.set(f"{self.rank}-{to}/{self._sent[to]}", piece)  # type: ignore[arg-type]  # it takes bytes too

    def _take(self, sender: int, patience: float) -> bytes:
        if self._store is None:
            raise RuntimeError("one process has nobody to wait for")
        self._taken[sender] += 1
        key = f"{sender}-{self.rank}/{self._taken[sender]}"
        self._wait(key, patience, sender)
        piece: bytes = self._store.get(key)
        self._store.delete_key(key)
        return piece

    def _wait(self, key: str, patience: float, sender: int = 0) -> None:
        from datetime import timedelta

        from torch.distributed import DistNetworkError, DistStoreError

        deadline = time.monotonic() + patience
        while self._store is not None:
            try:
                self._store.wait([key], timedelta(seconds=_SLICE))
            except DistNetworkError as error:
                raise CloraError(
                    "rank 0 of this launch, or its launcher, has ended; see its log", code="launcher-ended"
                ) from error
            except DistStoreError as error:
                if time.monotonic() > deadline:
                    raise CloraError(
                        f"rank {sender} of this launch was not heard of for {patience:.0f} s; see its log",
                        code="rank-not-heard",
                    ) from error
            else:
                return


def tell(message: str, say: Callable[[str], None]) -> None:
    """Print a message, if there is one."""
    if message:
        say(message)


def _disagreement(reports: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    (home, first), *others = reports
    for rank, (host, facts) in enumerate(others, start=1):
        if facts != first:
            changed = differences(facts, first) or differences(
                first, facts
            )  # each direction names only what the other lacks
            where = "" if host == home else f" on {host}"
            return (
                f"rank {rank}{where} found other things than rank 0 ({changed}); give all processes the same options, "
                "libraries and folders, as on a disk that they share"
            )
    return ""
