"""Side files have an ending that no server takes for weights; those of 0.1 are read, and make way when they are replaced."""

from __future__ import annotations

import json
import shutil

import mutations
import pytest
import torch

from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.model.task_vectors import read_task_vector
from clora_cli.options import ExpandOptions, TrimOptions
from clora_cli.store.adapter_folder import WEIGHTS, read_adapter
from clora_cli.store.distribution import read_distribution
from clora_cli.store.ledger import read_masks
from clora_cli.store.manifest import MANIFEST
from clora_cli.store.package import read_package
from clora_cli.store.side_files import FEATURES, STATE, current_name, former_name, side_file
from clora_cli.transforming import expand_packages, plan_expand, plan_trim, trim_adapter


@pytest.fixture(scope="module")
def originals(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("originals")
    reference = find_model(str(model_folder("llama")))
    mutations.make_originals(folder, load_backbone(reference, device=torch.device("cpu")))
    return folder


def as_before(package):
    """Give a package's side files the names that 0.1 gave them."""
    for folder in package.iterdir():
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name in (FEATURES, STATE):
            if (folder / name).exists():
                (folder / name).rename(folder / former_name(name))
        manifest["files"] = {former_name(n) if n == STATE else n: digest for n, digest in manifest["files"].items()}
        (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return package


@pytest.fixture
def old(originals, tmp_path):
    return as_before(shutil.copytree(originals / "routable", tmp_path / "old.pkg"))


@pytest.fixture
def old_parts(originals, tmp_path):
    return as_before(shutil.copytree(originals / "parts", tmp_path / "parts.pkg"))


def tensor_files(folder):
    return [path.name for path in folder.glob("*.safetensors")]


def test_the_weights_alone_end_as_servers_look_for(originals):
    for folder in (*(originals / "routable").iterdir(), *(originals / "parts").iterdir()):
        assert tensor_files(folder) == [WEIGHTS]


def test_folders_of_before_are_read(old, old_parts):
    assert {*tensor_files(old / "yes-no")} == {WEIGHTS, "features.safetensors"}
    for member in read_package([old]):
        assert read_distribution(member.features).count == 20
    for member in read_package([old_parts]):
        assert read_task_vector(member) is not None and read_masks(member)


def test_a_new_distribution_takes_the_old_ones_place(old):
    member = read_package([old])[0]
    distribution = read_distribution(member.features)
    member.give_features(distribution)
    assert member.features.name == FEATURES and tensor_files(member.path) == [WEIGHTS]
    member.give_features(distribution)
    assert read_distribution(member.features).count == distribution.count


def test_of_both_the_new_one_counts(old):
    folder = old / "yes-no"
    shutil.copyfile(folder / "features.safetensors", folder / FEATURES)
    (folder / "features.safetensors").write_bytes(b"what a crash left")
    assert side_file(folder, FEATURES) == folder / FEATURES
    assert read_distribution(read_adapter(folder).features).count == 20


def test_unions_and_trims_of_old_folders_have_the_new_names(old, old_parts, tmp_path):
    for package, name in ((old, FEATURES), (old_parts, STATE)):
        out = tmp_path / f"{package.stem}-union"
        options = ExpandOptions(out=out)
        assert expand_packages(plan_expand([package], options))[1]
        for member in read_package([out]):
            assert tensor_files(member.path) == [WEIGHTS] and (member.path / name).is_file()
        assert not expand_packages(plan_expand([package], options))[1]  # up to date
        as_before(out)
        assert not expand_packages(plan_expand([package], options))[1]  # as 0.1 made it, too
    member = read_adapter(old_parts / "one")
    made, _ = trim_adapter(plan_trim(member, TrimOptions(by="density", out=tmp_path / "trimmed")))
    assert tensor_files(made) == [WEIGHTS] and read_masks(read_adapter(made))


def test_other_files_keep_their_names():
    assert current_name("tokenizer.json") == "tokenizer.json"
    assert {current_name(former_name(name)) for name in (FEATURES, STATE)} == {FEATURES, STATE}
