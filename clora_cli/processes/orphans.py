"""Processes of one launch end when what launched them has gone (layer L0)."""

from __future__ import annotations

import os
import signal
import threading
import time

__all__ = ["end_without"]

_LOOK = 0.5  # seconds between two looks at the parent
_GRACE = 10.0  # seconds to end properly in


def end_without(parent: int, grace: float = _GRACE) -> None:
    """End this process soon after its parent has gone, killed with no chance to say so: it would wait for the others for good.

    SIGTERM comes first, as from the launcher. A process that waits for others inside a library does not hear it; what it has
    written is whole at every moment, so it ends without.

    Args:
        parent: The number of the process that launched this one.
        grace: Seconds from SIGTERM to the end.
    """
    threading.Thread(target=_watch, args=(parent, grace), name="orphan watch", daemon=True).start()


def _watch(parent: int, grace: float) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os._exit(128 + signal.SIGTERM)
