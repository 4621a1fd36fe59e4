"""Prompts with the task's names: a package that was trained on them is scored, replayed and given features on them."""

from __future__ import annotations

import json

import pytest

from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.distribution import read_record


@pytest.fixture
def package(here, clora, model_folder, monkeypatch):
    """Two tasks of a public layout, learned with such prompts, the first replayed in the second; and how they were trained."""
    for kind, name in (("NLI", "CB"), ("NLI", "RTE")):
        folder = here / "CL_Benchmark" / kind / name
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            rows = [{"sentence": f"{name} {split} {n}", "label": ("yes", "no")[n % 2]} for n in range(16)]
            (folder / f"{split}.json").write_text(json.dumps(rows))
        (folder / "labels.json").write_text('["yes", "no"]')
    monkeypatch.setenv("CLORA_DATA", str(here))
    words = ["--method", "replay", "-m", model_folder("llama"), "-p", "adapters", "--max-steps", 1, "--batch-size", 4]
    for task in ("cb+names", "rte+names"):
        result = clora("train-task", "--data", task, *words, "--device", "cpu", "-q")
        assert result.code == 0, result.err
    return "adapters"


def test_what_was_trained_with_names_is_used_with_names(clora, here, package):
    manifests = [json.loads((here / package / task / "clora.json").read_text()) for task in ("cb", "rte")]
    assert [one["data"]["template"] for one in manifests] == ["options-named"] * 2
    assert [one["data"]["given"] for one in manifests] == ["cb+names", "rte+names"]
    assert manifests[1]["data"]["memory"][0]["fingerprint"] == manifests[0]["data"]["fingerprint"]
    for given in ([], ["--data", "cb", "--data", "rte"]):
        result = clora("eval", package, *given, "--device", "cpu", "-q")
        assert result.code == 0, result.err
        assert "prompts begin with the names" in clora("eval", package, *given, "--device", "cpu").err
    for given in ([], ["--data", "cb", "--data", "rte"]):
        result = clora("stat-features", package, *given, "--device", "cpu", "-q")
        assert result.code == 0, result.err  # the second time they are up to date: the same rows
        for task, manifest in zip(("cb", "rte"), manifests, strict=True):
            record = read_record(read_adapter(here / package / task).features).raw
            assert record["data"][0]["fingerprint"] == manifest["data"]["fingerprint"]
    assert clora("route", package, "--data", "cb", "--device", "cpu", "--limit", 1).code == 0
