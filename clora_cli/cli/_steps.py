"""The process that carries out the commands of ``clora run`` (layer L4).

It reads a command's words as a line of JSON, forks, has the child run the command as ``main`` runs it, and tells what became
of it. Every command so has a process, hence memory and faults, of its own, and exactly the effect that it has by hand.
Started with ``--ready`` it imports the libraries first, which forks then need not. That is for processors: a fork of a
process that has talked to an accelerator cannot use it.

It ends when its standard input does, as it does when ``clora run`` is killed, and its command with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from clora_cli.base.errors import CloraError
from clora_cli.processes import signals
from clora_cli.processes.holders import take_over
from clora_cli.processes.locks import locked
from clora_cli.processes.spots import Spot, place
from clora_cli.recipes.workers import MARK

__all__ = ["serve"]

_READY = (
    "clora_cli.training.build",
    "clora_cli.training.loop",
    "clora_cli.training.penalties",
    "clora_cli.training.fit",
    "clora_cli.evaluation.combine",
    "clora_cli.routing.inputs",
    "clora_cli.routing.route_settings",
    "clora_cli.reporting",
    "clora_cli.transforming",
    "peft",
)
_PAUSE = 0.05  # seconds between two looks at the child
_running: list[tuple[int, Spot]] = []  # the child and what it keeps busy, while there is one


def serve(ready: bool) -> None:
    """Carry out commands until there are no more.

    Args:
        ready: Import the libraries first.

    Raises:
        SystemExit: In a child, with the command's status.
    """
    from clora_cli.cli import _quieten_libraries

    signal.signal(signal.SIGTERM, _end)
    _quieten_libraries()
    for name in _READY if ready else ():
        importlib.import_module(name)
    gc.freeze()  # what is there now is never looked at again, so that forks share its memory
    commands = os.fdopen(os.dup(0), "rb", buffering=0)
    while line := commands.readline():
        if _over(commands.fileno(), 0):  # while the libraries were imported, perhaps
            return
        request = json.loads(line)
        busy = place(Path(request["folder"]) / request["words"][0])
        if not _fork(busy):
            commands.close()
            _become(request["words"], busy)
        _report(_waited(commands.fileno()))
        _running.clear()


def _fork(busy: Spot) -> int:
    # A signal between the fork and the note of it would leave an unknown child.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # both do it: whichever comes second finds it done
            os.setpgid(child, child)
        _running.append((child, busy))
    else:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until `main` takes it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return child


def _end(number: int, frame: FrameType | None) -> None:
    _cut_off()
    os._exit(128 + number)


def _cut_off() -> None:
    """End the child with all that it started, and remove the lock, which it no longer can."""
    for child, busy in _running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        take_over(busy.lock)


def _over(commands: int, seconds: float) -> bool:
    """Tell whether the parent has gone: no request arrives while a command runs."""
    return bool(select.select([commands], [], [], seconds)[0])


def _become(words: list[str], busy: Spot) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _report({"pid": os.getpid()})
    from clora_cli.cli import main

    sys.argv = ["clora", *words]
    try:
        with signals.interruptible(), contextlib.ExitStack() as stack:  # a new run waits until this has ended
            with contextlib.suppress(CloraError):  # where nothing can be written, the command will tell
                stack.enter_context(locked([busy]))
            stack.callback(_ignore)  # what comes when the command has ended must not leave the lock
            main()
    except KeyboardInterrupt:
        sys.exit(signals.exit_code())
    finally:
        _report_device()


def _ignore() -> None:
    for number in signals.ending():
        signal.signal(number, signal.SIG_IGN)


def _waited(commands: int) -> Mapping[str, Any]:
    """Wait for the child; end it, and this process, when the parent has gone."""
    child, _ = _running[-1]
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            unit = 1 if sys.platform == "darwin" else 1024
            return {"ended": True, "code": code if code >= 0 else 128 - code, "memory": usage.ru_maxrss * unit}
        if _over(commands, _PAUSE):
            _cut_off()
            sys.exit(1)


def _report_device() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        _report({"device": torch.cuda.max_memory_allocated()})


def _report(facts: Mapping[str, Any]) -> None:
    sys.stdout.flush()
    os.write(1, f"{MARK}{json.dumps(facts)}\n".encode())


if __name__ == "__main__":
    serve("--ready" in sys.argv[1:])
