"""Notice that a package changed on disk (layer L3)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clora_cli.store.adapter_folder import is_adapter
from clora_cli.store.steady import mark

__all__ = ["Watch"]

_SHARE = 50  # of the time since the last look, a look at every folder may take one such part


class Watch:
    """Tells whether what is at some paths is still what was taken up.

    A package's own folder is looked at every time: a task that is trained, removed or replaced changes it. The files in its
    folders, which may be written in place, are looked at as often as that costs no more than a fiftieth of the time.

    Args:
        paths: Adapter folders and packages.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._taken: Any = None
        self._outside: Any = None
        self._next = 0.0

    def look(self) -> tuple[Any, Any]:
        """Return the present state, for ``took``; call it before reading."""
        begun = time.monotonic()
        outside = [mark(path) for path in self._paths]
        state = [_state(path) for path in self._paths]
        now = time.monotonic()
        self._next = now + _SHARE * (now - begun)
        return outside, state

    def took(self, state: tuple[Any, Any]) -> None:
        """Remember what was taken up."""
        self._outside, self._taken = state

    def changed(self) -> bool:
        """Tell whether there is something else now."""
        if self._outside == [mark(path) for path in self._paths] and time.monotonic() < self._next:
            return False
        outside, taken = self.look()
        if taken == self._taken:
            self._outside = outside
            return False
        return True


def _state(path: Path) -> Any:
    if is_adapter(path):
        return _marks(path)
    with contextlib.suppress(OSError):
        folders = sorted(folder for folder in path.iterdir() if not folder.name.startswith("."))
        return [(folder.name, mark(folder), _marks(folder)) for folder in folders]
    return None


def _marks(folder: Path) -> Any:
    with contextlib.suppress(OSError):
        return sorted((name, mark(folder / name)) for name in os.listdir(folder))  # noqa: PTH208 - names alone, and fast
    return None
