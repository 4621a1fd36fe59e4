"""Which adapters are compared, and which are refused."""

from __future__ import annotations

import pytest
from refusals import refused
from reported import write_three
from support import write_random_adapter

from clora_cli.algebra.comparison import Comparison
from clora_cli.reporting.differences import (
    MEASURES,
    difference,
    read_adapters,
)
from clora_cli.store.tensors import read_tensors, save_tensors

TASKS = ("first", "second", "third")


@pytest.fixture
def package(tmp_path, backbone):
    return write_three(tmp_path / "adapters", backbone("llama"))


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
    with refused("difference-needs-two-adapters", "3-first"):
        read_adapters([package / "3-first", package / "3-first"])


def test_adapters_of_two_base_models_are_refused(package, tmp_path, backbone):
    other = write_random_adapter(tmp_path / "others" / "fourth", backbone("llama", 1), stage=4)
    with refused("base-models-differ", "llama-0", "llama-1"):
        read_adapters([package, other.path])


def test_adapters_without_a_shared_site_are_refused(tmp_path, backbone):
    base = backbone("llama")
    for stage, target in enumerate(("q_proj", "v_proj"), start=1):
        write_random_adapter(tmp_path / "adapters" / target, base, stage=stage, targets=[target])
    with refused("no-shared-site", "q_proj", "v_proj"):
        difference(read_adapters([tmp_path / "adapters"]))


def test_numbers_that_are_not_finite_are_refused(package):
    weights = package / "3-first" / "adapter_model.safetensors"
    tensors = read_tensors(weights)
    name = next(iter(tensors))
    tensors[name][0, 0] = float("nan")
    save_tensors(weights, tensors)
    (package / "3-first" / "clora.json").unlink()
    with refused("numbers-not-finite", "3-first", name):
        difference(read_adapters([package]))


def test_the_measures_are_those_of_a_comparison():
    assert {"shared_sites", *(name.replace("-", "_") for name in MEASURES)} == set(Comparison.__dataclass_fields__)
