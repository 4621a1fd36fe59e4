"""Figures by name: what each needs, and what is computed for those of the papers, by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from refusals import refused
from reported import ORDER, stage_scores, write_packages, write_runs
from support import write_random_adapter

from clora_cli.algebra.geometry import inner_products, nuclear_norm, plane
from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import ArtifactError, OptionError, UnknownNameError
from clora_cli.options.figure_names import FIGURE_NAMES
from clora_cli.presenting.canvas import stage_axis
from clora_cli.presenting.figures.loss_curves import compose_losses
from clora_cli.presenting.figures.method_points import compose_sizes
from clora_cli.presenting.figures.named import FIGURES, draw_named
from clora_cli.presenting.figures.spectra import compose_nuclear_norms
from clora_cli.presenting.report_file import check_outs, write_reports
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import collect
from clora_cli.reporting.merge_gains import merge_gains
from clora_cli.reporting.output_similarity import output_similarities
from clora_cli.reporting.signed_shifts import TOP, measure_signed_shifts
from clora_cli.reporting.trade_offs import MethodPoint, numbers_kept
from clora_cli.reporting.training_logs import TrainingLog, read_log, relations_of
from clora_cli.store.scores import write_scores


def factor(b, a, scaling=1.0):
    return Factor(torch.tensor(a), torch.tensor(b), scaling)


def report_of(*paths):
    return make_report(collect(paths))


def test_the_names_are_those_that_the_command_offers():
    assert tuple(FIGURES) == FIGURE_NAMES


def test_nuclear_norms_are_sums_of_singular_values():
    assert nuclear_norm(factor([[3.0], [4.0]], [[0.0, 2.0]])) == pytest.approx(10.0)
    assert nuclear_norm(torch.diag(torch.tensor([3.0, -1.0]))) == pytest.approx(4.0)


def test_inner_products_add_up_over_the_sites_that_two_adapters_share():
    one = {"q": factor([[1.0], [0.0]], [[2.0, 0.0]]), "v": factor([[1.0]], [[3.0]])}
    other = {"q": factor([[1.0], [1.0]], [[1.0, 1.0]], scaling=2.0)}
    assert torch.allclose(inner_products([one, other]), torch.tensor([[13.0, 4.0], [4.0, 16.0]]).double())


def test_a_plane_keeps_distances_that_fit_into_it():
    points = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    places, kept = plane(points @ points.T)
    assert kept == pytest.approx(1.0)
    assert places[0].tolist() == [0.0, 0.0]
    assert torch.cdist(places, places)[1, 2].item() == pytest.approx(5.0)
    assert places.norm(dim=1).tolist() == pytest.approx([0.0, 3.0, 4.0])


def test_signed_shifts_follow_the_sum_and_count_the_signs_that_change():
    first = {"q": torch.tensor([[1.0, -0.5, 0.1, 0.1, 0.1]])}
    second = {"q": torch.tensor([[-1.5, 0.0, 0.0, 0.0, 0.0]])}
    shifts = measure_signed_shifts([first, second])
    assert shifts.shares.sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert shifts.top[0].sum() == pytest.approx(TOP)  # the largest entry of five
    assert shifts.flipped.tolist() == [0.0, 1.0]


def test_numbers_kept_count_equal_factors_once_and_zeros_never(tmp_path, backbone):
    members = [write_random_adapter(tmp_path / name, backbone("llama"), stage=1) for name in ("one", "two")]
    once = numbers_kept(members[:1])
    assert numbers_kept(members) == once > 0


def test_a_log_is_read_and_a_damaged_one_refused(tmp_path, backbone):
    member = write_random_adapter(tmp_path / "one", backbone("llama"), stage=1)
    assert read_log(member) is None
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 2, "train_runtime": 1.0}]
    (member.path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    log = read_log(member)
    assert (log.steps, log.losses[0], math.isnan(log.losses[1])) == ([1, 2], 2.0, True)
    (member.path / "log.jsonl").write_text("no json", encoding="utf-8")
    with refused("log-damaged", "log.jsonl", error=ArtifactError):
        read_log(member)


def test_relations_come_from_the_manifests(tmp_path, backbone):
    manifest = {"scores": {"relations": {"aso-lora": {"first": 0.25}}}}
    members = [
        write_random_adapter(tmp_path / "first", backbone("llama"), stage=1),
        write_random_adapter(tmp_path / "second", backbone("llama"), stage=2, manifest=manifest),
    ]
    assert relations_of(members) == {"second": {"first": 0.25}}


def test_gains_are_over_the_sum_of_the_same_package(tmp_path):
    for combine, rights in (("sum", [5, 7]), ("ties", [8, 6])):
        scores = stage_scores(2, dict(zip(ORDER, rights, strict=True)), "adapters", "n-lora", ORDER, combine)
        write_scores(scores, tmp_path / combine / "scores.json")
    gains = merge_gains(report_of(tmp_path).results)
    assert (gains.labels, gains.gains.tolist()) == (("ties",), [[30.0, -10.0]])
    assert merge_gains(report_of(tmp_path / "sum").results) is None


def test_outputs_are_alike_where_answers_are(tmp_path):
    said = {1: [1, 2, 3, 4, 5, 6, 7, 8, 9, 9], 2: [1, 2, 3, 4, 5, 0, 0, 0, 0, 0]}
    for stage, numbers in said.items():
        scores = stage_scores(stage, dict.fromkeys(ORDER, 5), "adapters", "n-lora", ORDER)
        cells = {task: replace(cell, answers=tuple(numbers)) for task, cell in scores.rows[0].scores.items()}
        write_scores(replace(scores, rows=(replace(scores.rows[0], scores=cells),)), tmp_path / f"{stage}.json")
    report = report_of(tmp_path)
    (found,) = output_similarities(report.results.runs)
    assert (found.states, found.rows) == (tuple(ORDER[:2]), 10 * len(ORDER))
    assert found.shares.tolist() == [[100.0, 50.0], [50.0, 100.0]]
    draw_named(report, "outputs", tmp_path / "outputs.svg")
    assert (tmp_path / "outputs.svg").stat().st_size
    report = report_of(tmp_path / "1.json")
    with refused("nothing-to-draw", "--figure outputs", "--answers", error=OptionError):
        draw_named(report, "outputs", tmp_path / "x.svg")


@pytest.fixture(scope="module")
def material(tmp_path_factory, model_folder):
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    base = load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))
    root = tmp_path_factory.mktemp("runs")
    write_packages(write_runs(root / "all") / "order1", base)
    for folder in (root / "all").rglob("adapters/*"):
        (folder / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n', encoding="utf-8")
    return root / "all"


@pytest.mark.parametrize(
    "name", ["curves", "nuclear-norms", "plane", "drift", "losses", "sparsity", "sizes", "interference"]
)
def test_a_figure_is_drawn_into_its_file_the_same_each_time(material, tmp_path, name):
    for file in ("one.svg", "two.svg"):
        draw_named(report_of(material), name, tmp_path / file)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_what_is_not_there_is_not_drawn(material, tmp_path):
    report = report_of(material)
    with refused("nothing-to-draw", "--figure routes", "clora route --confusion", error=OptionError):
        draw_named(report, "routes", tmp_path / "x.svg")
    with refused("several-to-draw", "--figure metrics", error=OptionError):
        draw_named(report, "metrics", tmp_path / "x.svg")
    with refused("unknown-name", "'plane'", error=UnknownNameError):
        check_outs([tmp_path / "x.svg"], "plan")
    with refused("option-missing", "--figure plane", error=OptionError):
        check_outs([tmp_path / "x.html"], "plane")
    assert list(tmp_path.iterdir()) == []


def test_norms_of_adapters_that_reach_different_layers_are_means_over_those_that_do():
    figure = Figure()
    compose_nuclear_norms(figure, {"m": {"1 a": [("q", 1, 2.0)], "2 b": [("q", 0, 1.0), ("q", 1, 4.0), ("v", 5, 1.0)]}})
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert (lines["q"], lines["v"]) == ([[0, 1.0], [1, 3.0]], [[5, 1.0]])


@pytest.mark.parametrize(
    ("name", "log"), [("losses", '{"step": 1, "loss": NaN}\n{"step": 2, "loss": Infinity}\n'), ("sparsity", "")]
)
def test_a_figure_without_a_single_point_is_not_drawn(name, log, tmp_path, backbone):
    write_runs(tmp_path / "all")
    for method in ("n-lora", "seq-lora"):
        folder = tmp_path / "all" / "order1" / method / "seed-1" / "adapters" / "first"
        write_random_adapter(folder, backbone("llama"), stage=1)
        (folder / "log.jsonl").write_text(log, encoding="utf-8")
    with refused("nothing-to-draw", f"--figure {name}", error=OptionError):
        draw_named(report_of(tmp_path / "all"), name, tmp_path / "x.svg")


@pytest.mark.parametrize(("tasks", "named", "stages"), [(1, 1, 1), (5, 5, 5), (60, 20, 6), (500, 20, 6)])
def test_labels_of_many_tasks_have_room(tasks, named, stages):
    figure = Figure()
    compose_losses(figure, {"m": [TrainingLog("a-long-name-of-a-task", [1, 2], [2.0, math.nan])] * tasks}, {})
    assert len(figure.axes[0].get_xticks()) == named
    axis = Figure().subplots()
    axis.plot(range(1, tasks + 1), [0.0] * tasks)
    stage_axis(axis)
    assert len([tick for tick in axis.get_xticks() if 1 <= tick <= tasks]) == stages


@pytest.mark.parametrize("methods", [1, 40])
def test_a_legend_is_whole_and_leaves_the_panel_its_room(methods):
    figure = Figure(layout="constrained")
    points = [
        MethodPoint(f"a-method-of-a-long-name-{number:02}-and-more", 0.5, 0.1, 1000, 50.0, 0.0)
        for number in range(methods)
    ]
    compose_sizes(figure, points, {point.label: number for number, point in enumerate(points)})
    figure.draw_without_rendering()
    (legend,), (axis,) = figure.legends, figure.axes
    names = legend.get_window_extent()
    assert names.y0 >= 0 and names.x1 <= figure.bbox.x1 and axis.get_window_extent().width > 2 * figure.dpi


def test_a_figure_by_name_stands_beside_the_other_files(material, tmp_path):
    write_reports(report_of(material), [tmp_path / "scores.csv", tmp_path / "plane.svg"], "plane")
    assert "base model" in (tmp_path / "plane.svg").read_text() or (tmp_path / "plane.svg").stat().st_size > 1000
    assert (tmp_path / "scores.csv").is_file()
