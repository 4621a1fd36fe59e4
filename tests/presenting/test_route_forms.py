"""From where inputs went to the confusion matrix, its JSON, and the heat maps of mean weights."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from clora_cli.base.errors import CloraError, OptionError
from clora_cli.presenting.figures.route_maps import compose
from clora_cli.presenting.route_forms import confusion_table, draw_routes, routes_json
from clora_cli.store.routes import Routes

SETTINGS = {"similarity": "l2", "top_k": 0, "temperature": 1.0, "sites": ["a", "b"]}
ROUTES = Routes(
    adapters=("mnli", "sentiment", "topics"),
    tasks=("mnli", "sst2", "unseen"),
    knows=((0,), (1,), ()),
    counts=((9, 1, 0), (10, 30, 0), (0, 0, 3)),
    abstained=(0, 10, 0),
    weights=((0.8, 0.15, 0.05), (0.2, 0.5, 0.1), (0.1, 0.1, 0.8)),
    panels={f"layer {layer} {kind}_proj": ((0.5 + layer / 3, 0.15, 0.05),) * 3 for kind in "qv" for layer in range(2)},
    settings=SETTINGS,
)


def many(tasks, adapters, *, unseen=0, panels=(), abstained=0):
    """Return routes of many tasks: of the i-th, i % 10 of 10 inputs go to the first adapter but one, the others home."""
    home = [[0] * adapters for _ in range(tasks + unseen)]
    for task, row in enumerate(home):
        row[task % adapters] += 10 - task % 10
        row[(task + 1) % adapters] += task % 10
    names = tuple(
        f"task{1000 + number}_a_rather_long_name_of_a_task" for number in range(max(tasks + unseen, adapters))
    )
    weights = tuple(tuple(count / 10 for count in row) for row in home)
    return Routes(
        names[:adapters],
        names[: tasks + unseen],
        tuple((task,) if task < tasks else () for task in range(tasks + unseen)),
        tuple(map(tuple, home)),
        (abstained,) * (tasks + unseen),
        weights,
        dict.fromkeys(panels, weights),
        SETTINGS,
    )


def test_accuracy_is_the_share_that_reached_an_adapter_that_knows_the_task():
    assert ROUTES.inputs == (10, 50, 3)
    assert [ROUTES.accuracy(task) for task in range(3)] == [90, 60, None]
    assert ROUTES.macro == pytest.approx(75)
    assert ROUTES.micro == pytest.approx(100 * 39 / 60)
    both = replace(ROUTES, knows=((0, 1), (1,), ()))
    assert both.accuracy(0) == 100
    nobody = replace(ROUTES, knows=((), (), ()))
    assert (nobody.known, nobody.macro, nobody.micro) == ((), None, None)


def test_the_matrix_is_aligned_and_ends_with_macro_and_micro():
    lines = confusion_table(ROUTES).splitlines()
    assert lines[1].split() == ["task", "inputs", "mnli", "sentiment", "topics", "base", "right"]
    assert lines[2].split() == ["mnli", "10", "90.0", "10.0", ".", ".", "90.0"]
    assert lines[3].split() == ["sst2", "50", "20.0", "60.0", ".", "20.0", "60.0"]
    assert lines[4].split() == ["unseen", "3", ".", ".", "100", ".", "-"]
    assert len({len(line) for line in lines[1:5]}) == 1
    assert lines[5:] == ["right: 75.00 % (macro), 65.00 % (micro) over 2 tasks, 60 inputs"]
    assert "base" not in confusion_table(replace(ROUTES, abstained=(0, 0, 0)))


def test_inputs_of_no_known_task_are_no_row():
    routes = replace(ROUTES, tasks=("mnli", "sst2", ""))
    assert len(confusion_table(routes).splitlines()) == 5
    assert routes_json(routes)["tasks"] == ["mnli", "sst2"]
    assert len(routes_json(routes)["counts"]) == 2


def test_names_that_do_not_fit_become_numbers():
    lines = confusion_table(many(15, 15)).splitlines()
    assert lines[1].split() == ["task", "inputs", *map(str, range(1, 16)), "right"]
    assert lines[2].split()[:2] == ["1", "task1000_a_rat…_a_task"]
    assert max(map(len, lines)) <= 130
    extra = confusion_table(many(3, 15)).splitlines()
    assert extra[1].startswith("adapters: 1 task1000_a_rather_long_name_of_a_task, 2 task1001")
    legend = " ".join(extra[1 : extra.index(next(line for line in extra if line.startswith("task ")))])
    assert all(f"{number} task{999 + number}_" in legend for number in range(1, 16))


def test_names_that_are_cut_to_the_same_become_numbers():
    names = tuple(f"a_very_long_common_beginning_{middle}_and_end" for middle in "xyz")
    lines = confusion_table(replace(ROUTES, adapters=names)).splitlines()
    header = next(line for line in lines if line.startswith("task "))
    assert header.split()[2:5] == ["1", "2", "3"]


def test_of_many_adapters_the_favourites_are_named_and_of_many_tasks_the_worst():
    lines = confusion_table(many(40, 40, unseen=2)).splitlines()
    assert lines[1].split() == ["task", "inputs", "right", "went", "to"]
    assert len(lines) == 1 + 1 + 30 + 1 + 1
    assert lines[2].split()[0].startswith("task1009")
    assert lines[2].split()[1:] == ["10", "10.0", "task1010_a_rat…_a_task", "90.0,", "task1009_a_rat…_a_task", "10.0"]
    assert lines[-2] == "… and 12 tasks of higher accuracy"
    assert "macro" in lines[-1]


def test_json_is_strict_and_holds_counts():
    data = routes_json(ROUTES)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["schema"] == "clora.routes/1"
    assert data["counts"] == [[9, 1, 0], [10, 30, 0], [0, 0, 3]]
    assert data["abstained"] == [0, 10, 0]
    assert data["known_by"] == [["mnli"], ["sentiment"], []]
    assert data["accuracy"] == [90, 60, None]
    assert [sum(row) + away for row, away in zip(data["counts"], data["abstained"], strict=True)] == data["inputs"]
    assert data["settings"] == SETTINGS


@pytest.mark.parametrize(("ending", "magic"), [("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_each_format_is_drawn_with_equal_bytes_each_time(tmp_path, ending, magic):
    one, two = tmp_path / "new" / f"one.{ending}", tmp_path / f"two.{ending}"
    draw_routes(ROUTES, one)
    draw_routes(ROUTES, two)
    assert one.read_bytes().startswith(magic)
    assert one.read_bytes() == two.read_bytes()
    assert "matplotlib.pyplot" not in sys.modules


def test_drawing_refuses_other_endings_and_unwritable_places(tmp_path):
    with pytest.raises(OptionError, match=r"\.png, \.svg, \.pdf"):
        draw_routes(ROUTES, tmp_path / "routes.jpeg")
    (tmp_path / "file").touch()
    with pytest.raises(CloraError, match="cannot write"):
        draw_routes(ROUTES, tmp_path / "file" / "routes.png")


def drawn(routes):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", dpi=50)
    canvas = FigureCanvasAgg(figure)
    compose(figure, routes)
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
        (many(15, 15, panels=[f"layer {n} {kind}_proj" for kind in "qv" for n in range(13)], abstained=1), 26),
        (many(24, 24, unseen=1, panels=["layer 0 q", "layer 1 q", "layer 2 q"]), 3),
        (many(1, 1), 0),
        (many(2, 2, panels=["layer 0 q", "layer 7 q"]), 2),
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
    figure = drawn(many(tasks, adapters))
    assert max(figure.get_size_inches()) < 20
    assert figure.axes[0].texts[:] == []
    labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in pairwise(labels))
