"""Files that somebody made to do harm: each is refused in one line, or read as what it says, and soon."""

from __future__ import annotations

import json
import os
import shutil
import time

import mutations
import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file

from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.base.files import sha256
from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.options import ExpandOptions, MergeOptions, RouteOptions, TrimOptions
from clora_cli.routing.profiles import known_by
from clora_cli.store.adapter_folder import DENSE, WEIGHTS, read_adapter
from clora_cli.store.adapter_writing import write_dense
from clora_cli.store.manifest import MANIFEST
from clora_cli.store.package import read_package
from clora_cli.store.side_files import FEATURES, STATE
from clora_cli.transforming import plan_expand, plan_merge, plan_trim

ATTEMPTS = 25  # a kind; benchmarks/attack_files.py makes thousands


@pytest.fixture(scope="module")
def reference(model_folder):
    return find_model(str(model_folder("llama")))


@pytest.fixture(scope="module")
def originals(tmp_path_factory, reference):
    folder = tmp_path_factory.mktemp("originals")
    mutations.make_originals(folder, load_backbone(reference, device=torch.device("cpu")))
    return folder


@pytest.fixture
def package(originals, tmp_path):
    return shutil.copytree(originals / "routable", tmp_path / "routable")


def overwrite(path, change, *, reseal=True):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    manifest = path.parent / MANIFEST
    if reseal and manifest.exists():
        content = json.loads(manifest.read_text(encoding="utf-8"))
        content["files"][path.name] = sha256(path)
        manifest.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("kind", mutations.KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def test_no_mutation_gets_through(kind, originals, tmp_path):
    kind.use(originals)  # as it was, it is read
    outcomes = [mutations.attack(kind, originals, tmp_path / "work", seed) for seed in range(ATTEMPTS)]
    assert [one for one in outcomes if one.state == "survived"] == []
    assert sum(one.state == "refused" for one in outcomes) > ATTEMPTS / 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, 2e6])
def test_numbers_that_no_training_leaves_are_refused_by_everybody(package, tmp_path, value):
    def spoil(tensors):
        tensors[min(tensors)][0, 0] = value

    overwrite(package / "yes-no" / WEIGHTS, spoil)
    member, other = read_package([package])
    uses = {
        "eval and training on top": member.deltas,
        "route": member.check_numbers,
        "merge": lambda: plan_merge([member, other], MergeOptions()),
        "trim": lambda: plan_trim(member, TrimOptions(by="density")),
        "expand": lambda: plan_expand([package], ExpandOptions(out=tmp_path / "both.pkg")),
    }
    for use in uses.values():
        with refused("numbers-not-finite", package / "yes-no", min(load_file(package / "yes-no" / WEIGHTS)), "1e+06"):
            use()


def test_dense_deltas_and_states_are_held_to_it_too(originals, tmp_path):
    dense = shutil.copytree(originals / "dense", tmp_path / "dense")
    overwrite(dense / DENSE, lambda tensors: tensors[min(tensors)].fill_(torch.inf))
    with refused("numbers-not-finite", dense):
        read_adapter(dense).deltas()
    parts = shutil.copytree(originals / "parts", tmp_path / "parts")
    overwrite(parts / "one" / STATE, lambda tensors: tensors["task_vector"].fill_(torch.nan))
    with refused("numbers-not-finite", parts / "one", "'task_vector'"):
        read_adapter(parts / "one").state()


def test_nothing_that_nobody_could_read_is_written(tmp_path, originals):
    member = read_adapter(originals / "dense")
    with refused("result-not-finite", tmp_path / "out", min(member.deltas())):
        deltas = {site: torch.full_like(delta, torch.nan) for site, delta in member.deltas().items()}
        shapes = {site: tuple(delta.shape) for site, delta in deltas.items()}
        write_dense(tmp_path / "out", shapes, torch.float32, deltas.items(), member.manifest.raw, {})
    assert not list(tmp_path.iterdir())


def test_a_distribution_whose_means_were_overwritten_is_refused_where_inputs_are_routed(package, reference):
    path = package / "yes-no" / FEATURES
    content = bytearray(path.read_bytes())
    content[-64:] = bytes(64)
    path.write_bytes(content)
    known = known_by(reference, read_package([package]), RouteOptions(layer="last"))
    with refused("feature-distribution-damaged", path):
        known.routing(RouteOptions(layer="last"), None, None)


def test_a_distribution_is_hashed_once_in_a_command(package, reference, monkeypatch):
    from clora_cli.store import distribution

    hashed = []
    digest = distribution._digest
    monkeypatch.setattr(distribution, "_digest", lambda tensors: hashed.append(1) or digest(tensors))
    known = known_by(reference, read_package([package]), RouteOptions())
    for count in (1, 2, None):
        known.routing(RouteOptions(), count, None)
    assert len(hashed) == 2


@pytest.mark.parametrize("name", [WEIGHTS, FEATURES, MANIFEST, "adapter_config.json"])
@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)]
)
def test_a_pipe_a_device_and_a_link_to_itself_end_in_one_line(package, name, make, tmp_path):
    (package / "yes-no" / name).unlink()
    make(package / "yes-no" / name)
    start = time.monotonic()
    with pytest.raises((ArtifactError, MismatchError)) as info:
        plan_expand([package / "yes-no", package / "topics-news"], ExpandOptions(out=tmp_path / "both.pkg"))
    assert time.monotonic() - start < 2
    assert "\n" not in str(info.value)


def test_links_back_to_a_folder_lead_nowhere(originals, tmp_path):
    from clora_cli.reporting.collect import collect

    runs = shutil.copytree(originals / "runs", tmp_path / "runs")
    for number in range(3):
        (runs / f"again{number}").symlink_to(runs)
    start = time.monotonic()
    assert len(collect([runs]).scores) == 4
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("pattern", ["(.+)+#", "((a{1000}){1000}){1000}", "(?R)", "(", "x" * 5000])
def test_patterns_of_a_configuration_cannot_stop_a_reader(originals, tmp_path, pattern):
    folder = shutil.copytree(originals / "bare" / "yes-no", tmp_path / "bare")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "rank_pattern": {pattern: 2}}), encoding="utf-8")
    start = time.monotonic()
    try:
        read_adapter(folder).factors()
    except ArtifactError as error:
        assert "rank or alpha of" in str(error)
    assert time.monotonic() - start < 2
