"""How adapters overlap and differ, as tables and as JSON."""

from __future__ import annotations

import json

import pytest
import torch
from reported import write_three

from clora_cli.algebra.comparison import compare, measure
from clora_cli.presenting.difference_forms import difference_json, difference_table
from clora_cli.presenting.figures.difference_maps import draw_difference
from clora_cli.reporting.differences import (
    MEASURES,
    difference,
    mean_over_pairs,
    read_adapters,
)
from clora_cli.store.adapter_writing import write_dense

TASKS = ("first", "second", "third")


@pytest.fixture
def package(tmp_path, backbone):
    return write_three(tmp_path / "adapters", backbone("llama"))


@pytest.fixture
def found(package):
    return difference(read_adapters([package]), epsilon=0.1)


def cells(line):
    return [part.strip() for part in line.strip("|").split("|")]


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
    manifest = {key: value for key, value in first.manifest.raw.items() if key not in {"schema", "files"}}
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
