"""What all figures share: style, formats, and how a figure is written to a file."""

from __future__ import annotations

import io
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
    "OUTLINE",
    "Compose",
    "bare_axis",
    "check_ending",
    "line_style",
    "plain_axis",
    "render",
    "save",
    "shared_legend",
    "short",
    "stage_axis",
]

Compose = Callable[["Figure"], None]  # fills an empty figure
CELL = 0.42  # inches a heat-map cell: "100.0" in 7.5 points takes 0.30
_LEGEND = 2.2  # inches of a figure's width that a legend may take
_EDGE = 0.1  # inches between a legend and the figure's edge
OUTLINE = "#D55E00"  # of cells that stand out in a heat map
# Okabe and Ito's palette without its yellow and black: colour-blind readers tell it apart, and it is visible on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vPX*"
_LINES = ("-", "--", "-.", ":")
_ENDINGS = ("png", "svg", "pdf")
# Neither the user's matplotlib settings nor the time of day may change a report's bytes.
_STYLE = {"svg.hashsalt": "clora", "text.usetex": False, "text.parse_math": False, "font.size": 9.0}
# For names in scripts that the first, matplotlib's own, lacks: those of these that the machine has.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "PingFang SC",
          "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS",
          "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Symbola")  # fmt: skip
_UNDATED: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def check_ending(path: Path) -> str:
    """Return the format that a figure's ending names.

    Raises:
        OptionError: If it is not one of ``png svg pdf``.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in _ENDINGS:
        raise OptionError(
            f"cannot draw {path}: the ending must be one of .{', .'.join(_ENDINGS)}", code="output-ending-unknown"
        )
    return ending


def save(path: Path, compose: Compose) -> None:
    """Draw a figure into a file, whole or not at all.

    Args:
        path: The file; its ending is the format.
        compose: Fills an empty figure.

    Raises:
        OptionError: If the ending is unknown.
        CloraError: If the file cannot be written.
    """
    ending = check_ending(path)
    write_bytes(path, render(ending, compose))


def render(ending: str, compose: Compose, style: Mapping[str, Any] | None = None) -> bytes:
    """Draw a figure; equal figures give equal bytes.

    Args:
        ending: The format, one of ``png svg pdf``.
        compose: Fills an empty figure.
        style: Settings of matplotlib beside those that all figures share.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    buffer = io.BytesIO()
    here = set(get_font_names())
    fonts = [name for name in _FONTS if name in here]
    with matplotlib.rc_context({**_STYLE, "font.family": fonts, **(style or {})}):
        figure = Figure(layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        compose(figure)
        figure.savefig(buffer, format=ending, metadata=_UNDATED[ending])
    return buffer.getvalue()


def line_style(number: int) -> dict[str, Any]:
    """Return the colour, marker and line style of a series by its number, from 0, as matplotlib names them."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _LINES[number // len(_COLOURS) % len(_LINES)],
    }


def plain_axis(axis: Axes) -> None:
    """Reduce an axis to what a curve needs: two spines, and light horizontal lines behind everything."""
    axis.grid(axis="y", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def stage_axis(axis: Axes) -> None:
    """Make an axis's horizontal direction one of stages, which are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    first, last = axis.get_xlim()
    axis.xaxis.set_major_locator(MaxNLocator(nbins=16 if last - first <= 16 else 8, integer=True, min_n_ticks=1))
    plain_axis(axis)


def bare_axis(axis: Axes) -> None:
    """Reduce a heat map's axis to its labels."""
    axis.tick_params(length=0, labelsize=8)
    axis.spines[:].set_visible(False)


def shared_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Put one legend beside all panels, with every label once; the figure grows where it would be cut or take the panels' room."""
    lines = {text: line for axis in axes for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend = figure.legend(lines.values(), lines, loc="outside right upper", frameon=False)
    box, (width, height) = legend.get_window_extent(), figure.get_size_inches()
    wide, high = box.width / figure.dpi, box.height / figure.dpi
    figure.set_size_inches(width + max(0.0, wide - _LEGEND), max(height, high + 2 * _EDGE))


def short(text: str, length: int = 22) -> str:
    """Shorten a long name in its middle: its beginning and its end tell tasks apart."""
    text = legible(text.replace("\n", " "))
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[head + 1 - length :]}"
