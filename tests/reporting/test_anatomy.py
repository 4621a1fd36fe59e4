"""One package of each method, examined."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from reported import write_packages

from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.reporting.anatomy import examine, representatives, shared_ledger
from clora_cli.reporting.collect import collect


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder):
    base = load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))
    return write_packages(tmp_path_factory.mktemp("packages"), base)


@pytest.fixture
def packages(trained, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(trained, tmp_path / "runs")


def test_one_package_stands_for_a_method_and_what_is_odd_is_noted(packages):
    found = collect([packages]).packages
    assert {label: one.folder.seed for label, one in representatives(found).items()} == {"n-lora": 1, "seq-lora": 1}
    anatomy = examine(found)
    assert set(anatomy.differences) == set(anatomy.shifts) == {"n-lora", "seq-lora"}
    for shift in anatomy.shifts["n-lora"].values():
        assert shift.shares.sum() + shift.zeros == pytest.approx(1)
    assert (anatomy.ledgers, anatomy.notes) == ({}, [])
    config = packages / "n-lora" / "seed-1" / "adapters" / "first" / "adapter_config.json"
    (config.parent / "clora.json").unlink()
    config.write_text(
        json.dumps({**json.loads(config.read_text(encoding="utf-8")), "use_dora": True}), encoding="utf-8"
    )
    (note,) = examine(collect([packages]).packages).notes
    assert note.startswith("n-lora: ") and "use_dora" in note


def test_adapters_that_share_nothing_have_no_ledger():
    assert shared_ledger([]) is None
