"""The page of ``clora run --live`` (layer L4)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from clora_cli.cli._output import Form, Terminal, emit

__all__ = ["LIVE_PORT", "shown_while", "view"]

LIVE_PORT = 8050


@contextlib.contextmanager
def shown_while(folder: Path, port: int | None, terminal: Terminal) -> Iterator[None]:
    """Show the run in a folder during a block; None for the port shows nothing.

    Raises:
        OptionError: If another process has the port.
    """
    if port is None:
        yield
        return
    from clora_cli.recipes.live_page import reserved, shown
    from clora_cli.recipes.run_state import RunState

    with reserved(port) as listening, shown(RunState(folder), listening) as url:
        terminal.note(f"showing the run at {url}")
        yield


def view(output: Form, folder: Path, port: int) -> None:
    """Show the run in a folder, whoever carries it out, until a signal comes.

    Raises:
        OptionError: If another process has the port.
        CloraError: If no run is kept there.
    """
    from clora_cli.recipes.live_page import reserved, shown
    from clora_cli.recipes.run_state import RunState

    state = RunState(folder)
    with reserved(port) as listening, shown(state, listening) as url:
        data = {"schema": "clora.live/1", "folder": str(folder), "url": url}
        emit(output, text=f"showing {folder} at {url}", data=data, brief=url)
        threading.Event().wait()
