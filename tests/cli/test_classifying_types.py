"""Every type of model that chooses among classes, through every command that takes one, and PEFT beside it."""

from __future__ import annotations

import pytest
import torch
from encoders import scored
from images import FAMILIES, ROUND, STRAIGHT, drawn_again, save_seeing
from peft import PeftModel
from refusals import refused
from support import train
from transformers import AutoImageProcessor, AutoModelForImageClassification

from clora_cli.data import load_task
from clora_cli.model.backbone import load_backbone
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_model import find_model
from clora_cli.model.classifier import Classifier
from clora_cli.model.model_types import SEEING
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.heads import head_of


@torch.no_grad()
def by_clora(model, adapter, inputs):
    """Return the numbers that a base model with an adapter and its head gives each class, and those without the adapter."""
    backbone = load_backbone(find_model(str(model)), device=torch.device("cpu"))
    folder, bank = read_adapter(adapter), AdapterBank(backbone.model)
    Classifier(backbone).put(head_of(folder))
    without = backbone.model(**inputs).logits
    bank.activate([folder.on(bank.places).deltas()])
    return backbone.model(**inputs).logits, without


@torch.no_grad()
def by_peft(model, adapter, inputs, kind):
    """Return what PEFT makes of the same folder."""
    base = kind.from_pretrained(model, num_labels=len(head_of(read_adapter(adapter)).classes))
    return PeftModel.from_pretrained(base, str(adapter)).eval()(**inputs).logits


def taken_through(clora, package, tasks):
    """Run what can be done with a package of two tasks."""
    data = [f"--data={task}" for task in tasks]
    first, second = (package / task.name for task in tasks)
    commands = [
        ("stat-features", package),
        ("route", package, *data),
        ("eval", package, *data, "--combine", "route", "--json"),
        ("merge", first, second, "--strategy", "ties", "--out", "merged"),
        ("trim", second, "--by", "density", "--option", "density=0.5", "--out", "trimmed"),
        ("show", second),
        ("eval", "merged", *data, "--json"),
    ]
    for words in commands:
        made = clora(*words)
        assert made.code == 0, (words[0], made.err)


def test_every_type_of_image_model_is_tried():
    assert set(FAMILIES) == SEEING


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(SEEING))
def test_every_command_takes_every_type_of_image_model(clora, shapes, here, family):
    model, modules = save_seeing(family, here / "model"), FAMILIES[family][1]
    if modules:
        with refused("no-default-target-modules", *modules):
            train(model, shapes[0], here / "pkg", max_steps=1)
    for task in shapes:
        train(model, task, here / "pkg", method="inc-lora", max_steps=2, lr=1e-2, target_modules=modules)
    taken_through(clora, here / "pkg", shapes)
    assert head_of(read_adapter(here / "merged")).tasks == {"round": ROUND, "straight": STRAIGHT}
    adapter, rows = here / "pkg" / "straight", load_task(str(shapes[1])).test
    processor = AutoImageProcessor.from_pretrained(model, backend="pil")
    inputs = processor([drawn_again(row) for row in rows], return_tensors="pt")
    mine, without = by_clora(model, adapter, inputs)
    theirs = by_peft(model, adapter, inputs, AutoModelForImageClassification)
    assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(mine, without, rtol=1e-5, atol=1e-6)
    said = [STRAIGHT[number] for number in theirs.argmax(dim=1).tolist()]
    cell = scored(adapter, shapes[1:]).rows[-1].scores["straight"]
    assert [float(one in row.references) for one, row in zip(said, rows, strict=True)] == list(cell.per_row)
