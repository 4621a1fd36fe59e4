"""From scores files to runs, metrics, tables and a figure."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clora_cli.base import registry
from clora_cli.base.errors import CloraError, MismatchError, OptionError
from clora_cli.presenting.export import report_json
from clora_cli.presenting.figures.report_figure import compose, draw
from clora_cli.presenting.markdown_tables import metrics_tables
from clora_cli.reporting import assemble, bring_together, matrix_table, summarise
from clora_cli.reporting.runs import _independent
from clora_cli.store.scores import AdapterRef, BaseRef, ScoreRow, Scores, TaskScore

ORDER = ("cb", "rte", "wic")
FULL = [[80.0, 30.0, 20.0], [70.0, 60.0, 25.0], [50.0, 55.0, 90.0]]


def cell(value, total=100, metric="exact-match", normaliser=""):
    return TaskScore(metric, "normalised", value, total, normaliser=normaliser)


def row(stage, values, order=ORDER, sha="a", **kind):
    adapters = tuple(AdapterRef(task, sha) for task in order[:stage])
    scores = {task: cell(value, **kind) for task, value in zip(order, values, strict=False)}
    return ScoreRow(stage, order[stage - 1] if stage else "", adapters, scores)


def scores(*rows, order=ORDER, source="s.json", **changes):
    file = Scores(BaseRef("nano", "f0"), "adapters", "n-lora", "sum", "generate", order, rows, Path(source))
    return replace(file, **changes)


def full(**changes):
    return scores(*(row(stage, values) for stage, values in enumerate(FULL, start=1)), **changes)


def alone(values=(78.0, 62.0, 85.0)):
    rows = [row(stage, values, sha="b") for stage in (1, 2, 3)]
    return scores(*rows, method="per-task", combine="task-id", package="alone", source="alone.json")


def base(values=(10.0, 20.0, 30.0)):
    return scores(row(0, values), order=(), package="", method="", combine="none", source="base.json")


def test_one_file_is_one_run():
    (run,) = assemble([full()])
    np.testing.assert_array_equal(run.matrix, FULL)
    assert run.order == ORDER == run.columns
    assert run.label == "n-lora (sum)"
    assert run.counts.tolist() == [100, 100, 100]
    assert set(run.task_metrics) == {"exact-match"}
    assert np.isnan(run.zero_shot).all()
    assert run.trajectory.tolist() == pytest.approx([80, 65, 65])


def test_files_of_a_growing_package_merge_in_any_order():
    files = [scores(row(stage, values), order=ORDER[:stage]) for stage, values in enumerate(FULL, start=1)]
    for sequence in (files, files[::-1], [*files, *files]):
        (run,) = assemble(sequence)
        np.testing.assert_array_equal(run.matrix, FULL)


def test_cells_of_one_stage_merge_and_the_rest_is_nan():
    last = scores(row(3, [50.0]))
    other = scores(ScoreRow(3, "wic", (), {"wic": cell(90.0)}))
    (run,) = assemble([last, other])
    np.testing.assert_array_equal(run.matrix[2], [50, math.nan, 90])
    assert np.isnan(run.matrix[:2]).all()
    assert np.isnan(run.trajectory).all()
    assert run.task_metrics == ("exact-match", "", "exact-match")
    assert all(math.isnan(value) for value in summarise(run).values())


def test_contradicting_duplicates_name_both_files():
    with pytest.raises(MismatchError, match=r"cb after learning cb: 80 in one\.json, 81 in two\.json"):
        assemble([scores(row(1, [80.0]), source="one.json"), scores(row(1, [81.0]), source="two.json")])


def test_different_adapters_in_one_package_are_refused():
    with pytest.raises(MismatchError, match="different adapters of cb"):
        assemble([scores(row(1, [80.0])), scores(row(2, [70.0, 60.0], sha="z"))])


@pytest.mark.parametrize("kind", [{"metric": "rouge-l"}, {"total": 10}, {"normaliser": "unicode/1"}])
def test_one_task_has_one_yardstick(kind):
    with pytest.raises(MismatchError, match="cb is scored by"):
        assemble([scores(row(1, [80.0])), scores(row(2, [70.0, 60.0], **kind))])
    with pytest.raises(MismatchError, match="cb is scored by"):  # nor is a foreign yardstick lent
        assemble([full(), scores(row(0, [10.0], **kind), order=(), package="", method="", combine="none")])


@pytest.mark.parametrize(
    "difference",
    [
        {"base": BaseRef("other", "f1")},
        {"method": "o-lora"},
        {"combine": "last"},
        {"score": "labels"},
        {"package": "second"},
    ],
)
def test_what_makes_another_run_also_shows_in_its_label(difference):
    runs = assemble([full(), full(**difference)])
    assert len({run.label for run in runs}) == len(runs) == 2


def test_other_orders_are_other_runs_that_may_share_their_start():
    start = scores(row(1, [80.0]), order=("cb",))
    second = ("cb", "wic")
    files = [start, full(), scores(row(2, [75.0, 88.0], order=second), order=second)]
    first, other = assemble(files)
    np.testing.assert_array_equal(first.matrix, FULL)
    np.testing.assert_array_equal(other.matrix, [[80, math.nan], [75, 88]])
    assert (first.label, other.label) == ("n-lora (sum) #1", "n-lora (sum) #2")


def test_zero_shot_is_lent_to_runs_of_the_same_base_and_scoring():
    run, other = assemble([full(), base(), full(score="labels", package="p")])
    assert run.zero_shot.tolist() == [10, 20, 30]
    assert np.isnan(other.zero_shot).all()
    assert summarise(run)["forward-transfer-gem"] == pytest.approx(((30 - 20) + (25 - 30)) / 2)


def test_the_base_model_alone_is_a_run_only_by_itself():
    (run,) = assemble([base()])
    assert (run.label, run.order, run.unseen) == ("nano", (), ORDER)
    assert run.matrix.shape == (0, 3)
    assert all(math.isnan(value) for value in summarise(run).values())
    _, _, row, _ = matrix_table(run).splitlines()
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["0 (base model)", "10.0", "20.0", "30.0", "20.0"]


def test_no_files_are_no_runs():
    assert assemble([]) == []


def test_single_comes_from_a_per_task_run_or_is_given():
    run, _ = assemble([full(), alone()])
    assert run.single == {"cb": 78, "rte": 62, "wic": 85}
    assert summarise(run)["forward-transfer"] == pytest.approx(((60 - 62) + (90 - 85)) / 2)
    assert summarise(run, {"rte": 50.0, "wic": 80.0})["forward-transfer"] == pytest.approx(10)
    (without,) = assemble([full()])
    assert math.isnan(summarise(without)["forward-transfer"])


def test_single_is_not_taken_where_adapters_were_summed():
    run, _ = assemble([full(), replace(alone(), combine="sum")])
    assert run.single == {}


def test_single_is_of_the_same_seed_or_else_the_mean_over_per_task_runs():
    others = [
        replace(alone((70.0, 62.0, 85.0)), package="out/per-task/seed-2/adapters"),
        replace(alone((80.0, 62.0, 85.0)), package="out/per-task/seed-3/adapters"),
    ]
    unknown, second, *_ = assemble([full(), full(package="out/n-lora/seed-2/adapters"), *others])
    assert unknown.single == {"cb": 75, "rte": 62, "wic": 85}
    assert second.single == {"cb": 70, "rte": 62, "wic": 85}


def test_unseen_tasks_are_columns_that_no_metric_counts():
    unseen = scores(*(row(s, [*v, 12.0], order=(*ORDER, "copa")) for s, v in enumerate(FULL, start=1)))
    (plain,), (run,) = assemble([full()]), assemble([unseen])
    assert run.unseen == ("copa",)
    assert run.matrix.shape == (3, 4)
    assert summarise(run) == pytest.approx(summarise(plain), nan_ok=True)
    assert "copa (unseen)" in matrix_table(run)


def test_summarise_covers_every_plug_in():
    (run,) = assemble([full()])
    summary = summarise(run)
    assert set(summary) == set(registry.names("metrics"))
    assert summary["average-performance"] == pytest.approx(65)
    assert summary["forgetting-rate"] == pytest.approx(((80 - 50) + (60 - 55)) / 2)


def cells(line):
    return [part.strip() for part in line.strip("|").split("|")]


def test_matrix_table_is_aligned_markdown():
    run, _, _ = assemble([full(), alone(), replace(alone(), combine="last", package="alone2")])
    lines = matrix_table(run).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert cells(lines[0]) == ["after stage (exact-match, %)", *ORDER, "mean so far"]
    assert cells(lines[3]) == ["2 rte", "70.0", "**60.0**", "25.0", "65.0"]
    assert cells(lines[5]) == ["alone", "78.0", "62.0", "85.0", ""]
    assert cells(lines[6]) == ["test rows", "100", "100", "100", ""]


def test_matrix_table_names_metrics_that_differ_and_escapes_names():
    order = ("a|b", "c")
    mixed = ScoreRow(2, "c", (), {"a|b": cell(1.0), "c": cell(2.0, metric="rouge-l")})
    (run,) = assemble([scores(mixed, order=order)])
    table = matrix_table(run)
    assert "a\\|b" in table
    assert cells(table.splitlines()[4]) == ["metric", "exact-match", "rouge-l", ""]
    assert cells(table.replace("\\|", "_").splitlines()[2]) == ["1 a_b", "-", "-", "-"]


def test_metrics_are_explained_and_those_left_out_are_named():
    results = bring_together(assemble([full(), alone()]))
    table = metrics_tables(results)
    rows = {cells(line)[0]: cells(line)[1:] for line in table.splitlines() if line.startswith("|")}
    assert rows["metric"] == ["n-lora", "per-task"]
    assert rows["forgetting-rate"][0] == "17.50"
    assert rows["tasks"] == ["3", "3"]
    assert "forward-transfer-gem" not in rows  # the base model alone was not scored
    assert "Not shown" in table
    assert f"- `forgetting-rate`: {registry.summary('metrics', 'forgetting-rate')}" in table
    assert "-0.00" not in table


def test_report_json_is_strict_json_with_null_for_nan():
    report = report_json(bring_together(assemble([full(), base()])))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["schema"] == "clora.report/1"
    assert set(report["metrics"]) == set(registry.names("metrics"))
    (run,) = report["runs"]
    assert run["matrix"] == FULL
    assert run["zero_shot"] == [10, 20, 30]
    assert run["single"] == [None, None, None]
    assert run["test_rows"] == [100, 100, 100]
    assert run["metrics"]["forward-transfer"] is None
    assert run["metrics"]["average-performance"] == pytest.approx(65)
    zero_shot, method = report["methods"]
    assert (zero_shot["label"], zero_shot["average"]["average-performance"]["mean"]) == ("zero-shot", 20)
    assert (method["label"], method["reuses_data"], method["needs_task_id"]) == ("n-lora", False, False)


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
        with pytest.raises(OptionError, match=r"\.png, \.svg, \.pdf"):
            draw(results, tmp_path / name)
    with pytest.raises(OptionError, match="no run"):
        draw(bring_together([]), tmp_path / "report.png")
    (tmp_path / "file").touch()
    with pytest.raises(CloraError, match="cannot write"):
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
    compose(figure, bring_together(assemble([scores(*rows, order=order)])))
    canvas.draw()
    heat_map, curves = figure.axes
    cell_width, cell_height = (length / 15 for length in heat_map.get_window_extent().size)
    assert len(heat_map.texts) == 15 * 15
    for text in heat_map.texts:
        assert text.get_window_extent().width < cell_width
        assert text.get_window_extent().height < cell_height
    assert not heat_map.get_tightbbox().overlaps(curves.get_tightbbox())


def test_only_methods_of_independent_adapters_tell_what_training_alone_scores():
    assert [name for name in registry.names("methods") if _independent(name)] == ["per-task"]
    assert not _independent("per-task+seq-lora")
    assert not _independent("somebody-elses")
