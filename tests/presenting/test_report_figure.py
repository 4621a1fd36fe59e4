"""The figure of a whole report: formats, equal bytes, what fits where."""

from __future__ import annotations

import sys

import pytest
from refusals import refused
from scored import base, full, row, scores

from clora_cli.presenting.figures.report_figure import compose_report, draw
from clora_cli.reporting import assemble, bring_together


@pytest.mark.parametrize(("ending", "magic"), [("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_draw_writes_each_format_with_equal_bytes_each_time(tmp_path, ending, magic):
    results = bring_together(assemble([full(), base()]))
    one, two = tmp_path / "new" / f"one.{ending}", tmp_path / f"two.{ending}"
    draw(results, one)
    draw(results, two)
    assert one.read_bytes().startswith(magic)
    assert one.read_bytes() == two.read_bytes()
    assert [path.name for path in one.parent.iterdir()] == [one.name]
    assert "matplotlib.pyplot" not in sys.modules


def test_draw_refuses_other_endings_and_unwritable_places(tmp_path):
    results = bring_together(assemble([full()]))
    for name in ("report.html", "report", "report.jpeg"):
        with refused("output-ending-unknown", ".png", ".svg", ".pdf"):
            draw(results, tmp_path / name)
    with refused("nothing-to-draw", "report.png"):
        draw(bring_together([]), tmp_path / "report.png")
    (tmp_path / "file").touch()
    with refused("cannot-write", "report.png"):
        draw(results, tmp_path / "file" / "report.png")


def test_draw_takes_what_was_not_evaluated_and_names_with_dollars(tmp_path):
    empty = scores(row(1, []), order=("$x$", "b_1"), package="$p$")
    draw(bring_together([*assemble([empty]), *assemble([base()])]), tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size > 1000


def test_numbers_fit_their_cells_and_panels_keep_apart_with_fifteen_long_names():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = tuple(f"task{1000 + index}_a_rather_long_name_of_a_task" for index in range(15))
    rows = tuple(row(stage, [100.0] * 15, order=order) for stage in range(1, 16))
    figure = Figure(layout="constrained", dpi=50)
    canvas = FigureCanvasAgg(figure)
    compose_report(figure, bring_together(assemble([scores(*rows, order=order)])))
    canvas.draw()
    heat_map, curves = figure.axes
    cell_width, cell_height = (length / 15 for length in heat_map.get_window_extent().size)
    assert len(heat_map.texts) == 15 * 15
    for text in heat_map.texts:
        assert text.get_window_extent().width < cell_width
        assert text.get_window_extent().height < cell_height
    assert not heat_map.get_tightbbox().overlaps(curves.get_tightbbox())
