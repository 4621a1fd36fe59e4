"""What all figures share: their style, their formats, and how one is written."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clora_cli.errors import OptionError
from clora_cli.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CELL", "check_ending", "save", "short"]

CELL = 0.42  # inches a heat-map cell: "100.0" in 7.5 points takes 0.30
_ENDINGS = ("png", "svg", "pdf")
# The user's own matplotlib settings must not change a report, nor the time of day its bytes.
_STYLE = {"svg.hashsalt": "clora", "text.usetex": False, "text.parse_math": False, "font.size": 9.0}
_UNDATED: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def check_ending(path: Path) -> str:
    """Return the format that a figure's ending names.

    Raises:
        OptionError: If it is none of ``png svg pdf``.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in _ENDINGS:
        raise OptionError(f"cannot draw {path}: the ending must be one of .{', .'.join(_ENDINGS)}")
    return ending


def save(path: Path, compose: Callable[[Figure], None]) -> None:
    """Draw a figure into a file, whole or not at all.

    Args:
        path: The file; its ending is the format.
        compose: Fills an empty figure.

    Raises:
        OptionError: If the ending is none of those known.
        CloraError: If the file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ending, buffer = check_ending(path), io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        compose(figure)
        figure.savefig(buffer, format=ending, metadata=_UNDATED[ending])
    write_bytes(path, buffer.getvalue())


def short(text: str, length: int = 22) -> str:
    """Cut the middle out of a long name: its beginning and its end tell tasks apart."""
    text = text.replace("\n", " ")
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[head + 1 - length :]}"
