from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from refusals import refused
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clora_cli.algebra.statistics import SECOND_MOMENTS, Groups, Moments
from clora_cli.base import files
from clora_cli.store.distribution import Distribution, agree, read_distribution, read_record, read_sites
from clora_cli.store.feature_record import FeatureRecord
from clora_cli.store.side_files import FEATURES

SITES = ("layers.0.q", "layers.10.v", "layers.2.v")
RECORD = {
    "base_model": {"id": "made-up", "fingerprint": "f" * 64, "kind": "causal", "revision": None},
    "source": "base",
    "pool": "prompt-mean",
    "text": "prompt",
    "second_moment": "full",
    "max_length": 128,
    "data": [{"name": "größe", "fingerprint": "a" * 64, "split": "train", "rows": 12}],
    "privacy": None,
}


def moments(second="full", seed=0):
    vectors = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))
    return {site: Moments.of(vectors + number, second) for number, site in enumerate(SITES)}


@pytest.fixture
def path(tmp_path):
    Distribution(moments(), FeatureRecord(RECORD)).write(tmp_path / "first" / FEATURES)
    return tmp_path / "first" / FEATURES


@pytest.mark.parametrize("second", SECOND_MOMENTS)
def test_what_is_written_is_what_is_read(tmp_path, second):
    written = Distribution(moments(second), FeatureRecord({**RECORD, "second_moment": second}))
    written.write(tmp_path / FEATURES)
    read = read_distribution(tmp_path / FEATURES)
    assert (read.count, list(read.sites)) == (12, sorted(SITES))
    assert {key: read.record.raw[key] for key in written.record.raw} == written.record.raw
    assert read_record(tmp_path / FEATURES) == read.record
    assert read_sites(tmp_path / FEATURES) == sorted(SITES)
    for site, one in written.sites.items():
        assert torch.equal(read.sites[site].mean, one.mean)
        assert read.sites[site].second == second
        if second == "diag":
            assert torch.equal(read.sites[site].scatter, one.scatter)
        if second == "full":  # kept in float32, given back in float64
            assert torch.allclose(read.sites[site].scatter, one.scatter, rtol=1e-6, atol=1e-6)
            assert read.sites[site].scatter.dtype == torch.float64


def test_equal_contents_give_equal_bytes_whatever_the_order(path, tmp_path):
    turned = Distribution(dict(reversed(moments().items())), FeatureRecord(dict(reversed(RECORD.items()))))
    turned.write(tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == path.read_bytes()
    read_distribution(path).write(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_any_reader_of_safetensors_reads_it(path):
    tensors = load_file(path)
    assert tensors["mean/layers.0.q"].shape == (4,)
    assert tensors["full/layers.0.q"].shape == (4, 4)
    assert tensors["count/layers.0.q"].item() == 12
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["clora"])["schema"] == "clora.features/1"


def test_sites_can_be_read_alone(path):
    some = read_distribution(path, {"layers.2.v", "layers.99.v"})
    assert list(some.sites) == ["layers.2.v"]
    assert some.count == 12


def test_reading_the_record_reads_no_number(path):
    # Tensor data is cut off: all but the header is gone.
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    whole = bytearray(content)
    whole[8 + length :] = bytes(len(content) - 8 - length)
    path.write_bytes(whole)
    assert read_record(path).raw["text"] == "prompt"
    assert read_sites(path) == sorted(SITES)
    with refused("feature-distribution-damaged", path):
        read_distribution(path)


@pytest.mark.parametrize("place", [-1, -40, -200])
def test_a_changed_number_is_found(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with refused("feature-distribution-damaged", path):
        read_distribution(path)


@pytest.mark.parametrize("name", ["mean/layers.0.q", "count/layers.0.q", "full/layers.0.q"])
def test_a_tensor_that_is_missing_or_renamed_is_found(path, name):
    tensors, metadata = load_file(path), {"clora": json.dumps(read_record(path).raw)}
    tensors["more"] = tensors.pop(name)
    save_file(tensors, path, metadata=metadata)
    with refused("feature-distribution-damaged", path):
        read_distribution(path)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
@pytest.mark.parametrize("read", [read_record, read_sites, read_distribution])
def test_a_truncated_file_is_refused_in_one_line(path, length, read):
    path.write_bytes(path.read_bytes()[:length])
    with refused("tensor-file-damaged", path):
        read(path)


@pytest.mark.parametrize(
    ("change", "code", "names"),
    [
        ({"schema": "clora.features/2"}, "format-not-supported", ["'clora.features/2'", "'clora.features/1'"]),
        ({"base_model": None, "pool": None}, "feature-distribution-damaged", ["base_model", "pool"]),
        ({"base_model": {"id": "made-up"}}, "feature-distribution-damaged", ["fingerprint"]),
        ({"base_model": "made-up"}, "feature-distribution-damaged", ["fingerprint"]),
    ],
)
def test_other_records_are_refused(path, change, code, names):
    record = {key: value for key, value in (dict(read_record(path).raw) | change).items() if value is not None}
    save_file(load_file(path), path, metadata={"clora": json.dumps(record)})
    with refused(code, path, *names):
        read_record(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"clora": "{"}, {"clora": "[]"}, {"clora": "3"}])
def test_a_file_of_another_tool_is_no_distribution(path, metadata):
    save_file(load_file(path), path, metadata=metadata)
    with refused("not-a-feature-distribution", path):
        read_record(path)


def test_a_missing_one_names_the_command_that_makes_it(tmp_path):
    folder = tmp_path / "first"
    with refused("feature-distribution-missing", folder, f"`clora stat-features {folder} --data"):
        read_record(folder / FEATURES)


def test_what_was_there_stays_if_writing_fails(path, monkeypatch):
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fdopen", full)
    with refused("cannot-write", path, "No space left on device"):
        Distribution(moments(seed=1), FeatureRecord(RECORD)).write(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [FEATURES]


def test_distributions_that_compare_agree(path):
    record = read_record(path).raw
    agree([])
    agree([(path, FeatureRecord(record))])
    # Neither the data nor the number of rows nor second moments keep two from being compared.
    changed = {**record, "data": [], "second_moment": "none", "max_length": 9}
    agree([(path, FeatureRecord(record)), (path, FeatureRecord(changed))])


@pytest.mark.parametrize(
    ("change", "code", "names"),
    [
        ({"base_model": {"id": "other", "fingerprint": "0" * 64}}, "base-models-differ", ["made-up", "other"]),
        (
            {"pool": "last"},
            "feature-distributions-incomparable",
            ["pool", "prompt-mean", "last", "`clora stat-features --force --pool"],
        ),
        ({"text": "body"}, "feature-distributions-incomparable", ["text", "prompt", "body"]),
        ({"source": "adapted"}, "feature-distributions-incomparable", ["source", "base", "adapted"]),
    ],
)
def test_distributions_that_do_not_compare_are_refused(path, tmp_path, change, code, names):
    other = tmp_path / "second" / FEATURES
    other.parent.mkdir()
    shutil.copyfile(path, other)
    record = read_record(path).raw
    with refused(code, path, other, *names):
        agree([(path, FeatureRecord(record)), (path, FeatureRecord(record)), (other, FeatureRecord(record | change))])


def divided(counts):
    first, second = counts
    apart = torch.tensor([[second], [-first]], dtype=torch.float64) / 10
    return {
        site: dataclasses.replace(one, groups=Groups(torch.tensor(counts), one.mean + apart))
        for site, one in moments().items()
    }


def test_groups_are_read_as_they_were_written(tmp_path):
    Distribution(divided([7, 5]), FeatureRecord({**RECORD, "means": "class"})).write(tmp_path / FEATURES)
    read = read_distribution(tmp_path / FEATURES)
    assert read.record.means == "class"
    assert all(one.groups.counts.tolist() == [7, 5] and one.groups.means.shape == (2, 4) for one in read.sites.values())


def test_groups_that_are_not_all_inputs_are_refused(tmp_path):
    Distribution(divided([7, 4]), FeatureRecord(RECORD)).write(tmp_path / FEATURES)
    with refused("feature-distribution-damaged", "counts/layers.0.q"):
        read_distribution(tmp_path / FEATURES)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda groups: Groups(groups.counts[:0], groups.means[:0]), "counts/layers.0.q"),
        (lambda groups: Groups(groups.counts.to(torch.uint16), groups.means), "counts/layers.0.q"),
        (lambda groups: Groups(groups.counts.to(torch.complex64), groups.means), "counts/layers.0.q"),
        (lambda groups: Groups(groups.counts, groups.means + 1), "means/layers.0.q"),
        (lambda groups: Groups(groups.counts, groups.means.flip(0)), "means/layers.0.q"),
        (lambda groups: Groups(groups.counts, groups.means * 1e200), "layers.0.q"),
    ],
)
def test_groups_that_are_not_those_of_the_inputs_are_refused(tmp_path, change, name):
    sites = {site: dataclasses.replace(one, groups=change(one.groups)) for site, one in divided([7, 5]).items()}
    Distribution(sites, FeatureRecord(RECORD)).write(tmp_path / FEATURES)
    with refused("feature-distribution-damaged", name):
        read_distribution(tmp_path / FEATURES)


def test_a_mean_that_is_of_no_feature_is_refused(tmp_path):
    sites = {site: dataclasses.replace(one, mean=one.mean + 1e39) for site, one in moments().items()}
    Distribution(sites, FeatureRecord(RECORD)).write(tmp_path / FEATURES)
    with refused("feature-distribution-damaged", "layers.0.q"):
        read_distribution(tmp_path / FEATURES)
