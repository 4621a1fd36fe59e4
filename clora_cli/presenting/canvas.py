"""What all figures share: their style, their formats, and how one is written."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import OptionError
from clora_cli.base.files import write_bytes
from clora_cli.base.legible import legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CELL",
    "bare_axis",
    "check_ending",
    "inline_svg",
    "look",
    "plain_axis",
    "save",
    "shared_legend",
    "short",
    "stage_axis",
]

CELL = 0.42  # inches a heat-map cell: "100.0" in 7.5 points takes 0.30
# Okabe and Ito's palette without its yellow and black: told apart by colour-blind readers, and visible on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vPX*"
_LINES = ("-", "--", "-.", ":")
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
    ending = check_ending(path)
    write_bytes(path, _render(ending, compose, _STYLE))


def inline_svg(compose: Callable[[Figure], None], number: int) -> str:
    """Draw a figure as an SVG element to stand in a page: text stays text, and no identifier occurs in another figure.

    Args:
        compose: Fills an empty figure.
        number: The figure's number in the page.
    """
    drawn = _render("svg", compose, {**_STYLE, "svg.fonttype": "none"}).decode("utf-8")
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", drawn, flags=re.DOTALL)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{number}-", drawn)


def look(index: int) -> dict[str, Any]:
    """Return the colour, marker and line style of the series of a number, from 0, as matplotlib names them."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _LINES[index // len(_COLOURS) % len(_LINES)],
    }


def plain_axis(axis: Axes) -> None:
    """Leave of an axis what a curve needs: two spines and light horizontal lines behind everything."""
    axis.grid(axis="y", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def stage_axis(axis: Axes) -> None:
    """Make an axis's horizontal direction that of stages, which are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    plain_axis(axis)


def shared_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Put one legend beside all panels: every label once."""
    known = {text: line for axis in axes for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known, loc="outside right upper", frameon=False)


def bare_axis(axis: Axes) -> None:
    """Leave of a heat map's axis its labels alone."""
    axis.tick_params(length=0, labelsize=8)
    axis.spines[:].set_visible(False)


def _render(ending: str, compose: Callable[[Figure], None], style: Mapping[str, Any]) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context(dict(style)):
        figure = Figure(layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        compose(figure)
        figure.savefig(buffer, format=ending, metadata=_UNDATED[ending])
    return buffer.getvalue()


def short(text: str, length: int = 22) -> str:
    """Cut the middle out of a long name: its beginning and its end tell tasks apart."""
    text = legible(text.replace("\n", " "))
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[head + 1 - length :]}"
