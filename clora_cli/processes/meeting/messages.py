"""What the processes of a launch tell each other, and how they end (layer L0).

The first process, rank 0, sends to every other one, and those to it alone. Who waits, waits for the next message of one
process, and a process that fails says so in place of its next message: in whatever order things go wrong, nobody waits
for one that has gone.
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

PATIENCE = 1800.0  # seconds for a process to come, or to find out what it would do: PyTorch's own
WORK = 86400.0  # seconds for work, or for input that comes slowly
_BRIEF = 60.0  # seconds for others to hear how it ended
_MOMENT = 2.0  # seconds for a process that fails to say so
_SLICE = 1.0  # seconds between two looks at signals, which do not reach into the store's own waiting
_PIECE = 4 << 20  # bytes: the store takes 8 MiB at a time
_MORE, _LAST, _ERROR, _GONE = b"+", b".", b"?", b"!"


class ElsewhereError(CloraError):
    """What went wrong in another process of this launch, with the exit status and the code that it has there."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message, code=code)
        self.exit_code = status


class Meeting:
    """The processes of a launch, as one of them sees the others.

    Args:
        store: What all of them can read and write; None where there is one process.
        rank: This one's number.
        size: How many there are.
        kept: Whether the store ends with the first process, and not with a launcher that outlives all.
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
        """Send an error in place of a message: who waits for that has it raised."""
        self._put(to, _ERROR + json.dumps([str(error), error.exit_code, error.code]).encode())

    def receive(self, sender: int, patience: float = PATIENCE) -> bytes:
        """Wait for the next message of a process.

        Args:
            sender: Its rank.
            patience: Seconds to wait.

        Raises:
            ElsewhereError: If it sends an error, or has failed.
            CloraError: If nothing comes, or the launcher has gone.
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
        """Bring what each process has to the first one, in the order of ranks; the others get nothing."""
        if self.rank:
            self.send(0, content)
            return []
        return [content, *(self.receive(rank, patience) for rank in range(1, self.size))]

    def hand_out(self, content: bytes, patience: float = PATIENCE) -> bytes:
        """Give what the first process has to all."""
        if self.rank:
            return self.receive(0, patience)
        for rank in range(1, self.size):
            self.send(rank, content)
        return content

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Check that all found what the first one found; see ``agree``."""
        told = self.collect(json.dumps([socket.gethostname(), facts], sort_keys=True, default=str).encode())
        odd = _odd([json.loads(one) for one in told]) if told else ""
        if odd := self.hand_out(odd.encode()).decode():
            raise MismatchError(odd, code="ranks-disagree")

    def fail(self, code: int, message: str, say: Callable[[str], None]) -> int:
        """End all processes; see ``end_all``."""
        if self._store is None:
            return code
        try:
            first, code = json.loads(self._store.compare_set("ended", "", json.dumps([self.rank, code])))
            if first == self.rank:
                tell(message, say)
                self._store.set("said", "")
            else:  # whoever ends first is what the launcher looks at, and then stops the others
                self._wait("said", _BRIEF)
            for peer in range(1, self.size) if not self.rank else [0]:
                self._put(peer, _GONE + str(code).encode())
        except (CloraError, RuntimeError):  # the store has gone, and whoever kept it: one of those that are left tells
            if self.rank == int(self._kept):
                tell(message, say)
        self._part()
        return code

    def has_ended(self) -> bool:
        """Tell whether a process has failed, which it may be about to say."""
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
        """Tell that this process reads no more; whoever keeps the store waits for that, but not for ever."""
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
    """Say a message, if there is one."""
    if message:
        say(message)


def _odd(told: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    (home, first), *others = told
    for rank, (host, facts) in enumerate(others, start=1):
        if facts != first:
            changed = differences(facts, first) or differences(first, facts)  # the one names what the other lacks
            where = "" if host == home else f" on {host}"
            return (
                f"rank {rank}{where} found other things than rank 0 ({changed}); give all processes the same options and "
                "the same folders, as on a disk that they share"
            )
    return ""
