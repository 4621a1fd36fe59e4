"""Heat maps of mean weights: formats, equal bytes, what fits where."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from refusals import refused
from reported import ROUTES, many_routes

from clora_cli.presenting.figures.route_maps import compose_routes
from clora_cli.presenting.route_forms import draw_routes


@pytest.mark.parametrize(("ending", "magic"), [("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_each_format_is_drawn_with_equal_bytes_each_time(tmp_path, ending, magic):
    one, two = tmp_path / "new" / f"one.{ending}", tmp_path / f"two.{ending}"
    draw_routes(ROUTES, one)
    draw_routes(ROUTES, two)
    assert one.read_bytes().startswith(magic)
    assert one.read_bytes() == two.read_bytes()
    assert "matplotlib.pyplot" not in sys.modules


def test_drawing_refuses_other_endings_and_unwritable_places(tmp_path):
    with refused("output-ending-unknown", ".png", ".svg", ".pdf"):
        draw_routes(ROUTES, tmp_path / "routes.jpeg")
    (tmp_path / "file").touch()
    with refused("cannot-write", "routes.png"):
        draw_routes(ROUTES, tmp_path / "file" / "routes.png")


def drawn(routes):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", dpi=50)
    canvas = FigureCanvasAgg(figure)
    compose_routes(figure, routes)
    canvas.draw()
    return figure


def outlined(axis):
    return [(int(patch.get_x() + 0.5), int(patch.get_y() + 0.5)) for patch in axis.patches]


def test_the_highest_of_each_row_is_outlined_and_numbers_are_percent():
    figure = drawn(replace(ROUTES, panels={}))
    axis, bar = figure.axes
    assert outlined(axis) == [(0, 0), (1, 1), (2, 2)]
    rows = [[text.get_text() for text in axis.texts[4 * row : 4 * row + 4]] for row in range(3)]
    assert rows == [["80.0", "15.0", "5.0", "0.0"], ["20.0", "50.0", "10.0", "20.0"], ["10.0", "10.0", "80.0", "0.0"]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["mnli", "sentiment", "topics", "base model"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["mnli (10)", "sst2 (50)", "unseen (3)"]
    assert bar.get_ylim() == pytest.approx((0, 80))
    assert "mean over 2 sites\nl2, all adapters, temperature 1" in figure._suptitle.get_text()


def test_layers_are_panels_that_share_the_scale():
    figure = drawn(ROUTES)
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]
    assert titles == ["layer 0 q_proj", "layer 1 q_proj", "layer 0 v_proj", "layer 1 v_proj"]
    scales = {axis.images[0].get_clim() for axis in figure.axes if axis.images}
    assert list(scales) == [(0, pytest.approx(100 * (0.5 + 1 / 3)))]


@pytest.mark.parametrize(
    ("routes", "panels"),
    [
        (many_routes(15, 15, panels=[f"layer {n} {kind}_proj" for kind in "qv" for n in range(13)], abstained=1), 26),
        (many_routes(24, 24, unseen=1, panels=["layer 0 q", "layer 1 q", "layer 2 q"]), 3),
        (many_routes(1, 1), 0),
        (many_routes(2, 2, panels=["layer 0 q", "layer 7 q"]), 2),
    ],
)
def test_nothing_overlaps_and_numbers_fit_their_cells(routes, panels):
    figure = drawn(routes)
    shown = [axis for axis in figure.axes if axis.images and axis.axison]
    main = shown[0]
    width = main.get_window_extent().width / len(main.get_xticks())
    assert len(main.texts) == len(routes.tasks) * len(main.get_xticks())
    assert all(text.get_window_extent().width < width for text in main.texts)
    assert len(shown) == 1 + panels
    boxes = [axis.get_tightbbox() for axis in shown]
    apart = [not one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number]]
    assert all(apart)
    title = figure._suptitle or figure.subfigs[0]._suptitle
    assert title.get_window_extent().x1 <= figure.bbox.x1
    assert not title.get_window_extent().overlaps(main.get_window_extent())


@pytest.mark.parametrize(("tasks", "adapters"), [(60, 400), (300, 2)])
def test_a_great_many_are_drawn_within_bounds(tasks, adapters):
    figure = drawn(many_routes(tasks, adapters))
    assert max(figure.get_size_inches()) < 20
    assert figure.axes[0].texts[:] == []
    labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in pairwise(labels))
