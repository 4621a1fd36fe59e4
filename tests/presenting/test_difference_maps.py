"""Heat maps of pairs: formats, equal bytes, numbers that fit."""

from __future__ import annotations

import sys

import pytest
from refusals import refused
from reported import write_three

from clora_cli.presenting.figures.difference_maps import _cell_text, compose_difference, draw_difference
from clora_cli.reporting.differences import (
    MEASURES,
    difference,
    read_adapters,
)


@pytest.fixture
def package(tmp_path, backbone):
    return write_three(tmp_path / "adapters", backbone("llama"))


@pytest.fixture
def found(package):
    return difference(read_adapters([package]), epsilon=0.1)


@pytest.mark.parametrize(("ending", "magic"), [("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_each_format_is_drawn_with_equal_bytes_each_time(tmp_path, found, ending, magic):
    one, two = tmp_path / "new" / f"one.{ending}", tmp_path / f"two.{ending}"
    draw_difference(found, one)
    draw_difference(found, two)
    assert one.read_bytes().startswith(magic)
    assert one.read_bytes() == two.read_bytes()
    assert "matplotlib.pyplot" not in sys.modules


def test_drawing_refuses_other_endings_and_unwritable_places(tmp_path, found):
    with refused("output-ending-unknown", ".png", ".svg", ".pdf"):
        draw_difference(found, tmp_path / "diff.jpeg")
    (tmp_path / "file").touch()
    with refused("cannot-write", "diff.png"):
        draw_difference(found, tmp_path / "file" / "diff.png")


def test_every_pair_has_a_cell_and_numbers_fit(found):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", dpi=50)
    canvas = FigureCanvasAgg(figure)
    compose_difference(figure, found, list(MEASURES))
    canvas.draw()
    assert [axis.get_title(loc="left").split(" ")[0] for axis in figure.axes] == list(MEASURES)
    assert figure.axes[3].get_title(loc="left") == "collision-rate (epsilon 0.1)"
    for axis in figure.axes:
        assert len(axis.texts) == len(axis.patches) == 3 + 2  # pairs, and two with earlier ones
        width = axis.patches[0].get_window_extent().width
        assert all(text.get_window_extent().width < width for text in axis.texts)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.567, ".57"),
        (-0.02, "-.02"),
        (0.999, "1.00"),
        (-0.0004, "-4e-4"),
        (2.9, "2.9"),
        (99.96, "100"),
        (999.7, "1000"),
        (1136, "1136"),
        (2.5e7, "2e7"),
    ],
)
def test_cells_are_short(value, text):
    assert _cell_text(value) == text
