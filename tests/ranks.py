"""Several processes of one launch, forked from one that has the libraries: what a launcher does, at a tenth of its cost."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# It reads a launch as a line of JSON and answers with the exit codes: a signal's number below 0, "hung" after the time-out.
_SERVER = r"""
import gc, importlib, json, os, pathlib, runpy, signal, socket, sys, time, traceback
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
from clora_cli.cli import _quieten_libraries, main
from clora_cli.cli._steps import _READY
_quieten_libraries()
for name in _READY:
    importlib.import_module(name)
import torch.distributed as distributed
torch = sys.modules["torch"]
torch.set_num_threads(1)
gc.freeze()  # what is there now is never looked at again, so that forks share its memory

def become(rank):
    for number, (path, flags) in enumerate([(rank["in"], os.O_RDONLY), (rank["out"], os.O_WRONLY), (rank["err"], os.O_WRONLY)]):
        os.dup2(os.open(path, flags | (os.O_CREAT if number else 0)), number)
    os.chdir(rank["folder"])
    os.environ.update(rank["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["clora", *rank["words"]]
    time.sleep(rank["late"])
    code = 1
    try:
        if rank["script"]:
            sys.path[:0] = rank["path"]
            runpy.run_path(rank["script"], run_name="__main__")
            code = 0
        else:
            main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    launch = json.loads(line)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in launch["ranks"]:
        rank["environment"].setdefault("MASTER_PORT", str(port))
        children.append(os.fork())
        if not children[-1]:
            become(rank)
    # A launcher of PyTorch's keeps the store itself; others leave that to the first process.
    kept = distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False) if launch["agent"] else None
    deadline, codes, (victim, sign) = time.monotonic() + launch["timeout"], {}, launch["kill"]
    while len(codes) < len(children):
        if sign and list(pathlib.Path(launch["ranks"][victim]["folder"]).glob(sign)):
            os.kill(children[victim], signal.SIGKILL)
            sign = ""
        for child in set(children) - set(codes):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                codes[child] = "hung"
        time.sleep(0.005)
    del kept
    print(json.dumps([codes[child] for child in children]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """What a launch left behind, by rank.

    Attributes:
        codes: Exit statuses; a signal's number below 0, ``"hung"`` for one that did not end.
        out: What each wrote on stdout.
        err: What each wrote on stderr.
    """

    codes: list[Any]
    out: list[str]
    err: list[str]

    @property
    def line(self) -> str:
        """The one line that all processes together told on stderr, after checking that it is one."""
        told = "".join(self.err)
        assert told.count("\n") == 1 and told.startswith("error: "), self.err
        assert "".join(self.out) == "", self.out
        return told


class Ranks:
    """Launches processes."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(
        self,
        *words: object,
        folders: Sequence[Path],
        also: Sequence[Sequence[object]] = (),
        environment: Sequence[Mapping[str, str]] = (),
        late: Sequence[float] = (),
        stdin: str = "",
        agent: bool = False,
        kill: tuple[int, str] = (0, ""),
        script: Path | None = None,
        timeout: float = 120,
    ) -> Ended:
        """Run a command in one process for each folder that is given.

        Args:
            words: The command line.
            folders: Where each process runs.
            also: Further words of each process.
            environment: Further variables of each.
            late: Seconds by which each starts later.
            stdin: What all of them have as standard input.
            agent: Whether the launcher keeps the store, as PyTorch's own does.
            kill: A process that is to be killed, and the file in its folder at whose sight; a pattern.
            script: A Python file to run in place of the command; ``words`` are its arguments.
            timeout: Seconds after which a process counts as hanging.
        """
        with tempfile.TemporaryDirectory() as name:
            place, size = Path(name), len(folders)
            (place / "in").write_text(stdin, encoding="utf-8")
            launch = {"agent": agent, "kill": kill, "timeout": timeout}
            launch["ranks"] = [
                {
                    "words": [str(word) for word in (*words, *(also[rank] if also else ()))],
                    "folder": str(folders[rank]),
                    "late": late[rank] if late else 0,
                    "script": str(script or ""),
                    "path": sys.path,
                    "in": str(place / "in"),
                    "out": str(place / f"out-{rank}"),
                    "err": str(place / f"err-{rank}"),
                    "environment": {
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                        "WORLD_SIZE": str(size),
                        "LOCAL_WORLD_SIZE": str(size),
                        "MASTER_ADDR": "127.0.0.1",
                        "TORCHELASTIC_USE_AGENT_STORE": str(agent),
                        **(environment[rank] if environment else {}),
                    },
                }
                for rank in range(size)
            ]
            self._server.stdin.write(json.dumps(launch) + "\n")
            self._server.stdin.flush()
            codes = json.loads(self._server.stdout.readline())
            told = [[(place / f"{kind}-{rank}").read_text() for rank in range(size)] for kind in ("out", "err")]
        return Ended(codes, *told)

    def close(self) -> None:
        """End the server."""
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()
