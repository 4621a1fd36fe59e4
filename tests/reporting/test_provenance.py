"""Where a report's numbers come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from reported import stage_scores

from clora_cli.reporting import assemble
from clora_cli.reporting.collect import Material, Package
from clora_cli.reporting.provenance import Training, provenance_of
from clora_cli.reporting.run_folders import NO_RUN_FOLDER
from clora_cli.store.manifest import Manifest


def member(base="nano", **changes):
    manifest = {
        "method": {"options": {"weight": [1, 2]}},
        "seed": 1,
        "lora": {"rank": 8},
        "training": {"lr": 0.1},
        "versions": {"torch": "2"},
    }
    return SimpleNamespace(base={"id": base, "fingerprint": "f0"}, manifest=Manifest(manifest | changes))


def test_everything_is_named_once_whatever_its_type():
    files = [
        replace(stage_scores(1, {"first": 5}, name, name), settings={"route": {"sites": ["a"]}, "note": "", "limit": n})
        for n, name in enumerate("ab")
    ]
    package = Package(Path("p"), NO_RUN_FOLDER, (member(), member(versions={"torch": "3"}), member("other", seed=2)))
    provenance = provenance_of(Material(packages=[package]), assemble(files))
    assert provenance.bases == (("nano", "f0"), ("other", "f0"))
    assert provenance.evaluation == {"route": [{"sites": ["a"]}], "limit": [0, 1]}
    assert provenance.versions == {"torch": ["2", "3"]}
    settings = {"rank": 8, "lr": 0.1}
    assert provenance.trainings == (
        Training(Path("p"), ({"weight": [1, 2]},), ({"seed": 1} | settings, {"seed": 2} | settings)),
    )


def test_packages_without_manifests_have_no_training_and_perhaps_no_base_model():
    bare = SimpleNamespace(base={"id": None}, manifest={})
    provenance = provenance_of(Material(packages=[Package(Path("p"), NO_RUN_FOLDER, (bare,))]), [])
    assert (provenance.trainings, provenance.bases) == ((), ())
