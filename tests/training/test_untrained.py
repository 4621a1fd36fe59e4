"""Methods that train nothing: an adapter of zeros, in no time."""

from __future__ import annotations

import pytest
import torch
from support import FAMILIES, contents

from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.options import EvalOptions
from clora_cli.training import describe, train_task


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_is_that_of_training_but_for_its_numbers(plan_for, family):
    folder, _ = train_task(plan_for(family=family, method="zero-shot"))
    trained, _ = train_task(plan_for(family=family, method="per-task", package="other", max_steps=1))
    for site, factor in trained.factors().items():
        own = folder.factors()[site]
        assert (own.a.shape, own.b.shape, own.scaling) == (factor.a.shape, factor.b.shape, factor.scaling)
        assert not own.a.any() and not own.b.any()
    assert len(folder.factors()) == len(trained.factors())
    differing = {key for key in trained.config if folder.config.get(key) != trained.config[key]}
    assert folder.config.keys() == trained.config.keys()
    assert differing <= {"auto_mapping"}


def test_it_scores_as_the_base_model(plan_for, tasks, model_folder):
    folders = [train_task(plan_for(name, method="zero-shot"))[0] for name in ("first", "second")]
    assert [folder.stage for folder in folders] == [1, 2]
    task = load_task(str(tasks["first"]))
    alone = evaluate([], [task], EvalOptions(model=str(model_folder("llama")), score="labels", device="cpu"))
    scores = evaluate(folders, [task], EvalOptions(score="labels", device="cpu"))
    assert scores.combine == "none"
    assert scores.rows[-1].scores == alone.rows[-1].scores


def test_no_model_is_loaded_and_nothing_is_trained(plan_for, monkeypatch):
    from clora_cli.training import build

    monkeypatch.setattr(build, "load_backbone", None)
    plan = plan_for(method="zero-shot")
    description = describe(plan)
    assert (plan.steps, description.trainable) == (0, 0)
    folder, trained = train_task(plan)
    assert trained
    assert (folder.path / "log.jsonl").read_bytes() == b""
    assert folder.manifest.raw["scores"] == {}
    before = contents(folder.path)
    assert train_task(plan_for(method="zero-shot"))[1] is False
    assert contents(folder.path) == before


def test_all_linear_layers(plan_for):
    folder, _ = train_task(plan_for(method="zero-shot", target_modules=("all-linear",)))
    assert len(folder.factors()) == 14
    assert {factor.a.dtype for factor in folder.factors().values()} == {torch.float32}
