"""A worker of ``clora run`` that only pretends, and says on request that it failed, waits or dies."""

from __future__ import annotations

import os
import sys

from clora_cli.recipes.workers import Worker

# Speaks as clora_cli.cli._steps does. "train-task" of "inference" fails where FAIL is set, "eval" waits where WAIT is.
PRETEND = r"""
import json, os, pathlib, signal, struct, sys, time
def tell(**facts): os.write(1, ("\x1e" + json.dumps(facts) + "\n").encode())
for line in sys.stdin:
    words = json.loads(line)["words"]
    stopped = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
    tell(pid=os.getpid())
    code = 0
    os.write(1, os.environ.get("SAYS", "").encode())
    os.write(1, b"train x: 3/10  loss 1\nwarning: careful\nno end of line")
    if words[0] == "train-task":
        task = words[words.index("--data") + 1]
        folder = pathlib.Path(words[words.index("--package") + 1], task)
        if os.environ.get("FAIL") == task and "n-lora" in words:
            os.write(1, b"\nerror: it went wrong\nmore\n")
            code = 3
        else:
            folder.mkdir(parents=True)
            head = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
            (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(24))
    if os.environ.get("WAIT") == words[0]:
        while not stopped:
            time.sleep(0.01)
        code = 130
    if os.environ.get("DIE") == words[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    tell(ended=True, code=code, memory=123)
"""


def pretending(**environment: str) -> Worker:
    """Start one; ``FAIL=<task>``, ``WAIT=<command>``, ``DIE=<command>`` say what is to go wrong, ``SAYS=<text>`` what else it prints."""
    return Worker([sys.executable, "-c", PRETEND], {**os.environ, **environment})
