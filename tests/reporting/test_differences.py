"""From adapter folders to the tables, the JSON and the heat maps of how they differ."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from support import write_random_adapter

from clora_cli.algebra.comparison import Comparison, compare, measure
from clora_cli.base.errors import ArtifactError, CloraError, MismatchError, OptionError
from clora_cli.presenting.figures.difference_maps import _cell_text, compose_difference, draw_difference
from clora_cli.reporting.differences import (
    MEASURES,
    difference,
    difference_json,
    difference_table,
    mean_over_pairs,
    read_adapters,
)
from clora_cli.store.adapter_folder import write_dense
from clora_cli.store.tensors import read_tensors, save_tensors

TASKS = ("first", "second", "third")


@pytest.fixture
def package(tmp_path, backbone):
    """Three adapters with random numbers; their names do not sort by stage."""
    base = backbone("llama")
    for stage, task in enumerate(TASKS, start=1):
        write_random_adapter(tmp_path / "adapters" / f"{4 - stage}-{task}", base, stage=stage, manifest={"task": task})
    return tmp_path / "adapters"


@pytest.fixture
def found(package):
    return difference(read_adapters([package]), epsilon=0.1)


def cells(line):
    return [part.strip() for part in line.strip("|").split("|")]


def test_a_package_is_ordered_by_stage_and_labelled_by_task(package):
    members = read_adapters([package])
    assert [member.task for member in members] == list(TASKS)
    assert [member.task for member in read_adapters(sorted(package.iterdir()))] == list(TASKS)
    assert difference(members).labels == TASKS


def test_tasks_may_repeat_across_packages_and_are_then_labelled_by_path(package, tmp_path, backbone):
    other = write_random_adapter(tmp_path / "others" / "first", backbone("llama"), stage=1)
    members = read_adapters([package / "3-first", other.path])
    assert [member.path for member in members] == [package / "3-first", other.path]
    assert difference(members).labels == (str(package / "3-first"), str(other.path))
    assert read_adapters([other.path, package / "3-first"])[0].path == other.path


def test_an_adapter_named_twice_counts_once(package):
    assert len(read_adapters([package, package / "3-first"])) == 3
    with pytest.raises(OptionError, match=r"needs two adapters, and .*3-first is one"):
        read_adapters([package / "3-first", package / "3-first"])


def test_adapters_of_two_base_models_are_refused(package, tmp_path, backbone):
    other = write_random_adapter(tmp_path / "others" / "fourth", backbone("llama", 1), stage=4)
    with pytest.raises(MismatchError, match="different base models"):
        read_adapters([package, other.path])


def test_adapters_without_a_shared_site_are_refused(tmp_path, backbone):
    base = backbone("llama")
    for stage, target in enumerate(("q_proj", "v_proj"), start=1):
        write_random_adapter(tmp_path / "adapters" / target, base, stage=stage, targets=[target])
    with pytest.raises(MismatchError, match="share no site"):
        difference(read_adapters([tmp_path / "adapters"]))


def test_numbers_that_are_not_finite_are_refused(package):
    weights = package / "3-first" / "adapter_model.safetensors"
    tensors = read_tensors(weights)
    name = next(iter(tensors))
    tensors[name][0, 0] = float("nan")
    save_tensors(weights, tensors)
    (package / "3-first" / "clora.json").unlink()
    with pytest.raises(ArtifactError, match="not finite"):
        difference(read_adapters([package]))


def test_json_is_strict_and_holds_the_measures(found):
    data = difference_json(found)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["schema"], data["epsilon"]) == ("clora.diff/1", 0.1)
    assert [entry["label"] for entry in data["adapters"]] == list(TASKS)
    assert set(data["measures"]) > set(data["pairs"]) == set(MEASURES)
    first, second = (member.deltas() for member in found.members[:2])
    expected = compare(first, second, epsilon=0.1)
    for name, matrix in data["pairs"].items():
        assert matrix[0][1] == matrix[1][0] == pytest.approx(getattr(expected, name.replace("-", "_")))
        assert [matrix[k][k] for k in range(3)] == [None] * 3
        assert data["mean"][name] == pytest.approx((matrix[0][1] + matrix[0][2] + matrix[1][2]) / 3)
    assert data["shared_sites"][0] == [None, 4, 4]
    assert data["earlier"][0] is None
    assert data["earlier"][1]["awom"] == data["pairs"]["awom"][1][0]
    own = measure(first, epsilon=0.1)
    assert data["adapters"][0]["generalized-sparsity"] == pytest.approx(own.generalized_sparsity)
    assert data["adapters"][0]["sha256"] == found.members[0].digest


def test_the_measures_are_those_of_a_comparison():
    assert {"shared_sites", *(name.replace("-", "_") for name in MEASURES)} == set(Comparison.__dataclass_fields__)


def test_tables_are_aligned_and_hold_the_values(found):
    table = difference_table(found)
    blocks = [block.splitlines() for block in table.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2 + len(MEASURES)
    for block in blocks:
        assert len({len(line) for line in block}) == 1
    data = difference_json(found)
    assert cells(blocks[1][0]) == ["adapter", "shared sites", *MEASURES]
    assert cells(blocks[1][3])[:2] == ["third", "4"]
    assert cells(blocks[1][3])[-1] == f"{data['earlier'][2]['opposite-signs']:.4f}"
    signs = next(part for part in table.split("## ") if part.startswith("opposite-signs of pairs"))
    assert f"(mean {data['mean']['opposite-signs']:.4f})" in signs
    assert cells(signs.splitlines()[4]) == ["second", f"{data['pairs']['opposite-signs'][1][0]:.4f}", ""]
    for name, text in data["measures"].items():
        assert f"- `{name}`: {text}" in table
    assert "exceeds 0.1 of" in table
    assert "-0.0000" not in table


def test_one_measure_is_told_alone(found):
    table = difference_table(found, "cosine")
    assert [line.split(" ")[1] for line in table.splitlines() if line.startswith("## ")] == ["Each", "cosine"]
    assert all(name not in table for name in ("awom", "norm`", "exceeds"))
    assert "exceeds" in difference_table(found, "same-signs")


def test_two_adapters_need_no_matrix(package):
    pair = difference(read_adapters([package / "3-first", package / "2-second"]))
    table = difference_table(pair)
    assert "## second against first" in table
    assert "of pairs" not in table
    assert mean_over_pairs(pair, "awom") == pair.survey.pairs[0][1].awom


def test_dense_deltas_have_no_overlap_and_everything_else(package, backbone):
    first = read_adapters([package])[0]
    deltas = {site: factor.delta() for site, factor in first.factors().items()}
    manifest = {key: value for key, value in first.manifest.items() if key not in {"schema", "files"}}
    shapes = {site: tuple(delta.shape) for site, delta in deltas.items()}
    folder = package.parent / "merged"
    write_dense(folder, shapes, torch.float32, deltas.items(), manifest | {"task": "merged"}, {})
    same = difference(read_adapters([package / "3-first", folder]))
    comparison = same.survey.pairs[0][1]
    assert comparison.orthogonal_overlap is None
    assert comparison.cosine == pytest.approx(1)
    assert comparison.opposite_signs == 0
    assert same.survey.adapters[0].effective_rank == pytest.approx(same.survey.adapters[1].effective_rank, rel=1e-3)
    assert mean_over_pairs(same, "orthogonal-overlap") is None
    assert cells(difference_table(same, "orthogonal-overlap").splitlines()[4]) == ["merged", "4", "-"]
    draw_difference(same, package.parent / "merged.svg")


@pytest.mark.parametrize(("ending", "magic"), [("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_each_format_is_drawn_with_equal_bytes_each_time(tmp_path, found, ending, magic):
    one, two = tmp_path / "new" / f"one.{ending}", tmp_path / f"two.{ending}"
    draw_difference(found, one)
    draw_difference(found, two)
    assert one.read_bytes().startswith(magic)
    assert one.read_bytes() == two.read_bytes()
    assert "matplotlib.pyplot" not in sys.modules


def test_drawing_refuses_other_endings_and_unwritable_places(tmp_path, found):
    with pytest.raises(OptionError, match=r"\.png, \.svg, \.pdf"):
        draw_difference(found, tmp_path / "diff.jpeg")
    (tmp_path / "file").touch()
    with pytest.raises(CloraError, match="cannot write"):
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
