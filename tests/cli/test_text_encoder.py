"""Inputs find adapters by what a model beside the base model makes of them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from support import save_model, train

from clora_cli.data import load_task
from clora_cli.model.features import prompt_ids
from clora_cli.model.text_encoder import EMBEDDING, find_text_encoder, load_text_encoder
from clora_cli.store.distribution import read_distribution


@pytest.fixture
def package(here, model_folder, tasks, clora):
    for name in ("first", "second"):
        train(model_folder("llama"), tasks[name], here / "pkg", method="per-task", max_steps=2)
    save_model("bert", here / "encoder", 3)
    (here / "one.jsonl").write_text('{"prompt": "a"}\n', encoding="utf-8")
    return here / "pkg"


def embeddings(encoder, rows):
    loaded = load_text_encoder(find_text_encoder(str(encoder)), device=torch.device("cpu"))
    found = []
    for ids in prompt_ids(loaded, rows):
        with torch.no_grad():
            found.append(loaded.loaded.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0))
    return torch.stack(found).double()


def test_inputs_go_where_embeddings_by_hand_say(package, tasks, clora, here):
    made = clora("stat-features", "pkg", "--encoder", "encoder")
    assert made.code == 0, made.err
    means = []
    for name in ("first", "second"):
        found = read_distribution(package / name / "features.clora")
        assert list(found.sites) == [EMBEDDING] and found.record.encoder.id == "encoder"
        means.append(embeddings("encoder", load_task(str(tasks[name])).train).mean(dim=0))
        assert torch.allclose(found.sites[EMBEDDING].mean.double(), means[-1], atol=1e-5)
    rows = [row for name in ("first", "second") for row in load_task(str(tasks[name])).test]
    inputs = here / "rows.jsonl"
    inputs.write_text("".join(json.dumps({"prompt": row.prompt}) + "\n" for row in rows), encoding="utf-8")
    cosines = torch.nn.functional.cosine_similarity(
        embeddings("encoder", rows)[:, None], torch.stack(means)[None], dim=2
    )
    told = clora("route", "pkg", "--data", "rows.jsonl", "--similarity", "cosine")
    answers = [json.loads(line) for line in told.out.splitlines()]
    weights = torch.tensor([[answer["weights"][name] for name in ("first", "second")] for answer in answers])
    assert torch.allclose(weights.double(), cosines.softmax(dim=1), atol=1e-5)
    assert (
        clora("stat-features", "pkg", "--encoder", "encoder").err.count("up to date")
        or "up to date" in clora("stat-features", "pkg", "--encoder", "encoder").out
    )
    scored = clora("eval", "pkg", "--combine", "route", "--data", str(tasks["first"]), "-L", "4", "--json")
    assert scored.code == 0, scored.err


def test_distributions_of_another_encoder_are_told_apart(package, clora, here):
    assert clora("stat-features", "pkg/first", "--encoder", "encoder").code == 0
    assert clora("stat-features", "pkg/second").code == 0
    refused = clora("route", "pkg", "--data", "one.jsonl")
    assert (refused.code, refused.error) == (4, "feature-distributions-incomparable")
    assert "encoder encoder and the base model's own" in refused.err
    union = clora("expand", "pkg/first", "pkg/second", "-o", "both")
    assert union.code == 4 and "--encoder encoder" in union.err and "--force" in union.err
    again = clora("stat-features", "pkg/second", "--encoder", "encoder")
    assert again.error == "output-made-differently" and "encoder" in again.err
    shutil.copytree("encoder", "moved")
    assert clora("stat-features", "pkg/second", "--encoder", "moved", "--force").code == 0
    assert clora("expand", "pkg/first", "pkg/second", "-o", "both").code == 0  # one encoder, wherever it lies


def test_an_encoder_that_is_gone_or_another_is_named(package, clora, here):
    assert clora("stat-features", "pkg", "--encoder", "encoder").code == 0
    (here / "encoder").rename(here / "elsewhere")
    gone = clora("route", "pkg", "--data", "one.jsonl")
    assert gone.code == 3 and "text encoder of pkg/first" in gone.err and "--encoder MODEL" in gone.err
    save_model("bert", here / "encoder", 4)
    other = clora("route", "pkg", "--data", "one.jsonl")
    assert (other.code, other.error) == (4, "feature-distribution-other-encoder")


@pytest.mark.parametrize("words", [("--layer", "0"), ("--module", "v_proj"), ("--source", "adapted")])
def test_an_encoder_has_no_layers_to_choose(package, clora, words):
    refused = clora("stat-features", "pkg", "--encoder", "encoder", *words)
    assert (refused.code, refused.error) == (2, "options-exclude-each-other")
