from __future__ import annotations

import json

import pytest
import torch
from encoders import COLD, FAMILIES, WARM, answered, save_encoder, scored, through_peft, train_both
from refusals import refused
from safetensors.torch import load_file
from support import contents, continued, options_for, train
from transformers import AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from clora_cli.base import registry
from clora_cli.data import Example, Rows, Task, load_task
from clora_cli.model.model_types import ENCODERS
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.heads import head_of
from clora_cli.training import class_rows
from clora_cli.training.encoders import check_classes
from clora_cli.training.execute import train_task
from clora_cli.training.plan import make_plan

QUICK = {"max_steps": 1, "target_modules": ("query", "value"), "train_rows": 6}


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_trains_an_encoder_or_refuses_it_by_name(bert, colours, tmp_path, name):
    method = registry.load("methods", name)()
    if not method.takes_classes or method.virtual_tokens():
        with refused("method-not-for-encoders", name):
            make_plan(options_for(bert, colours[0], tmp_path / "pkg", method=name))
        return
    last = [train(bert, task, tmp_path / "pkg", method=name, **QUICK) for task in colours][-1]
    head = head_of(last)
    assert head.tasks["cold"] == COLD
    assert ("warm" in head.tasks) == (method.combine == "last")
    assert bool(head.weight.isfinite().all())


def test_peft_reads_an_adapter_with_its_head(bert, colours, sequence):
    labels = (*WARM, *COLD)
    model, tokenizer = through_peft(bert, sequence / "cold", len(labels)), AutoTokenizer.from_pretrained(bert)
    rows = load_task(str(colours[1])).test
    mine = scored(sequence, colours[1:]).rows[-1].scores["cold"].per_row
    theirs = answered(model, tokenizer, [row.prompt for row in rows], labels)
    assert [float(said in row.references) for said, row in zip(theirs, rows, strict=True)] == list(mine)
    assert len(set(theirs)) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_every_family_are_peft_modules_of_their_own(bert, colours, tmp_path, family):
    model = save_encoder(family, tmp_path / "model", bert)
    made = train(model, colours[0], tmp_path / "pkg", max_steps=1)
    peft, tokenizer = through_peft(model, made.path, 2), AutoTokenizer.from_pretrained(bert)
    head = head_of(made)
    for name, own in head.inner.items():  # what the files lack passes on what it is given
        assert torch.equal(own, torch.eye(32) if own.ndim == 2 else torch.full((32,), float("norm" in name)))
    rows = load_task(str(colours[0])).test
    theirs = answered(peft, tokenizer, [row.prompt for row in rows], WARM)
    mine = scored(tmp_path / "pkg", colours[:1]).rows[-1].scores["warm"].per_row
    assert [float(said in row.references) for said, row in zip(theirs, rows, strict=True)] == list(mine)


def test_what_is_taken_for_an_encoder_has_a_head_in_transformers():
    assert set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES) >= ENCODERS
    assert not ENCODERS & set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)


def test_earlier_classes_stay_as_they_are(sequence):
    before, after = head_of(read_adapter(sequence / "warm")), head_of(read_adapter(sequence / "cold"))
    assert after.classes == (*(("warm", label) for label in WARM), *(("cold", label) for label in COLD))
    assert torch.equal(before.weight, after.of(["warm"]).weight)


def test_earlier_classes_are_trained_where_their_rows_are(bert, colours, tmp_path):
    package = train_both(bert, colours, tmp_path / "pkg", method="replay")
    before, after = head_of(read_adapter(package / "warm")), head_of(read_adapter(package / "cold"))
    assert not torch.equal(before.weight, after.of(["warm"]).weight)


def test_a_memory_that_is_not_trained_on_leaves_its_classes(bert, colours, tmp_path):
    package = train_both(bert, colours, tmp_path / "pkg", method="gem")
    before, after = head_of(read_adapter(package / "warm")), head_of(read_adapter(package / "cold"))
    assert torch.equal(before.weight, after.of(["warm"]).weight)


def test_an_interrupted_run_continues_to_the_same_bytes(bert, colours, tmp_path):
    options = {"max_steps": 4, "save_steps": 1, "target_modules": ("query", "value")}
    whole = train(bert, colours[0], tmp_path / "whole", **options)
    plan = make_plan(options_for(bert, colours[0], tmp_path / "cut", **options))
    resumed = continued(plan, argv=["clora", "train-task"])
    assert contents(resumed.path) == contents(whole.path)
    again, now = train_task(plan, argv=["clora", "train-task"])
    assert (again.path, now) == (resumed.path, False)


def test_a_manifest_and_the_file_name_the_same_classes(sequence):
    manifest = json.loads((sequence / "cold" / "clora.json").read_text())
    assert manifest["head"] == [{"task": "warm", "labels": list(WARM)}, {"task": "cold", "labels": list(COLD)}]
    weight = load_file(sequence / "cold" / "adapter_model.safetensors")["base_model.model.classifier.weight"]
    assert len(weight) == len(WARM) + len(COLD)


@pytest.mark.parametrize("option", [{"shard": True}, {"quantize": "8bit"}])
def test_an_encoder_is_neither_divided_nor_quantised(bert, colours, tmp_path, option):
    with refused("option-not-for-encoders", next(iter(option))):
        make_plan(options_for(bert, colours[0], tmp_path / "pkg", **option))


def test_an_encoder_takes_no_open_ended_task(bert, tmp_path):
    (tmp_path / "open.jsonl").write_text(
        "".join(json.dumps({"prompt": f"say {i}", "completion": f"it is {i}"}) + "\n" for i in range(40))
    )
    with refused("task-has-no-classes", "open"):
        make_plan(options_for(bert, tmp_path / "open.jsonl", tmp_path / "pkg"))


def test_a_row_whose_answer_is_no_label_is_named():
    row = Example("", "a cat", "", ("sofa",))
    task = Task("pets", (row,), (), (), ("cat", "dog"), "exact-match", "made up", "plain")
    with refused("answer-not-a-label", "pets", "sofa"):
        check_classes(Rows(task, "train", [row]))


def test_held_rows_answer_as_they_did_whatever_an_optimizer_does_to_all():
    torch.manual_seed(0)
    layer, texts = torch.nn.Linear(4, 3), torch.randn(5, 4)
    first = layer(texts).detach()
    class_rows._hold(layer, torch.tensor([False, True, False]))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(texts), torch.ones(5, dtype=torch.long)).backward()
        optimizer.step()
    held = layer(texts).detach()
    assert torch.equal(held[:, [0, 2]], first[:, [0, 2]])
    assert not torch.allclose(held[:, 1], first[:, 1])
