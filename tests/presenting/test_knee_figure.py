from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from refusals import refused

from clora_cli.base import registry
from clora_cli.presenting.figures.knee_figure import Trimmed, compose_knee, draw_knee
from clora_cli.trims import Curve, Entries

VALUES = torch.randn(3000, generator=torch.Generator().manual_seed(0)) ** 3


def trimmed(text, panel="lora_B", values=VALUES):
    return Trimmed(panel, values, registry.bound("trims", text).keep(Entries(values)).mask)


def composed(*found):
    figure = Figure(layout="constrained", dpi=50)
    FigureCanvasAgg(figure)
    compose_knee(figure, found)
    return figure


def lines(axis):
    chord, *others = axis.lines
    assert chord.get_xydata().tolist() == [[0, 1], [1, 0]] and chord.get_linestyle() == "--"
    return others


def test_the_star_is_at_the_knee_on_the_curve():
    one = trimmed("knee,minimum=none,maximum=none")
    (axis,) = composed(one).axes
    whole, stay, star = lines(axis)
    curve = Curve.of(VALUES)
    knee = curve.knee()
    assert star.get_marker() == "*"
    assert star.get_xydata()[0] == pytest.approx([point[0] for point in curve.points(np.array([knee]))])
    assert whole.get_xydata()[0] == pytest.approx([1 / 3000, 1]) and whole.get_xydata()[-1] == pytest.approx([1, 0])
    assert stay.get_xdata()[-1] == knee / 3000
    assert axis.get_title(loc="left") == f"lora_B: {knee / 3000:.1%} stay"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["chord", "all entries", "what stays", "cut"]


def test_what_is_not_the_largest_lies_below_the_curve():
    (axis,) = composed(trimmed("random,density=0.5")).axes
    whole, stay, star = lines(axis)
    on_curve = np.interp(stay.get_xdata(), whole.get_xdata(), whole.get_ydata())
    inside = stay.get_xdata() > 0.01
    assert (stay.get_ydata() <= on_curve + 1e-3)[inside].all()
    assert star.get_xdata()[0] == 0.5 and star.get_ydata()[0] < 0.02


def test_sites_of_one_factor_share_a_panel_and_where_nothing_stays_there_is_no_star():
    found = [trimmed("knee", "lora_B"), trimmed("knee", "lora_B", VALUES[:100]), trimmed("density", "lora_A")]
    empty = Trimmed("lora_A", torch.zeros(50), torch.zeros(50, dtype=torch.bool))
    left, right = composed(*found, empty).axes
    assert len(lines(left)) == 6 and len(lines(right)) == 4
    assert right.get_title(loc="left") == "lora_A: 9.8% stay"
    assert len(left.get_legend().get_texts()) == 4


def test_equal_figures_are_equal_bytes_and_other_endings_are_refused(tmp_path):
    for name in ("one.svg", "two.svg"):
        draw_knee([trimmed("knee")], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    with refused("output-ending-unknown", ".png", ".svg", ".pdf"):
        draw_knee([trimmed("knee")], tmp_path / "knee.gif")


def test_a_million_entries_are_few_points():
    (axis,) = composed(trimmed("density", values=torch.rand(1_000_000))).axes
    assert all(len(line.get_xdata()) <= 4000 for line in axis.lines)
