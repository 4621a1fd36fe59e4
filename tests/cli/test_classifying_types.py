"""Every type of model that chooses among classes, through every command that takes one, and PEFT beside it."""

from __future__ import annotations

import json

import encoders
import pytest
import torch
from encoders import scored
from images import FAMILIES, ROUND, STRAIGHT, drawn_again, save_seeing
from peft import PeftModel
from refusals import refused
from safetensors.torch import save_file
from support import one_line, train
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    FunnelConfig,
    FunnelModel,
)

from clora_cli.data import load_task
from clora_cli.model.backbone import load_backbone
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_model import find_model
from clora_cli.model.classifier import Classifier
from clora_cli.model.linear_layers import all_linear, linear_layers
from clora_cli.model.model_types import ENCODERS, SEEING, UNFIT
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.distribution import read_distribution
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
        ("eval", package, *data, "--combine", "route", "--json"),
        ("merge", first, second, "--strategy", "ties", "--out", "merged"),
        ("trim", second, "--by", "density", "--option", "density=0.5", "--out", "trimmed"),
    ]
    for words in commands:
        made = clora(*words)
        assert made.code == 0, (words[0], made.err)


def test_every_type_is_tried():
    assert set(FAMILIES) == SEEING
    assert {*encoders.FAMILIES, *encoders.OTHERS, "funnel"} == ENCODERS


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(encoders.OTHERS))
def test_peft_reads_what_every_type_of_encoder_was_trained_to(bert, colours, here, family):
    model = encoders.save_encoder(family, here / "model", bert)
    made = train(model, colours[0], here / "pkg", max_steps=1, lr=1e-2, target_modules=encoders.OTHERS[family][1])
    inputs = {"input_ids": torch.tensor([[2, 17, 90, 41, 3], [2, 60, 8, 120, 3]])}
    mine, without = by_clora(model, made.path, inputs)
    theirs = by_peft(model, made.path, inputs, AutoModelForSequenceClassification)
    assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.equal(mine, without)


def test_a_norm_in_a_head_is_no_layer_to_merge(clora, bert, colours, here):
    model = encoders.save_encoder("modernbert", here / "model", bert)
    for task in colours:
        made = train(model, task, here / "pkg", method="inc-lora", max_steps=1)
    assert [name for name in head_of(made).inner if "norm" in name]
    merged = clora("merge", *(here / "pkg" / task.name for task in colours), "--strategy", "ties", "--out", "both")
    assert merged.code == 0, merged.err
    assert head_of(read_adapter(here / "both")).inner.keys() == head_of(made).inner.keys()


@pytest.mark.parametrize("kind", UNFIT)
def test_encoders_that_no_adapter_fits_are_refused_by_their_type(clora, here, kind):
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text(json.dumps({"model_type": kind}))
    save_file({"weight": torch.zeros(1)}, here / "model" / "model.safetensors")
    told = clora("train-task", "--model", "model", "--data", "topics-news", "--package", "p")
    assert (told.code, told.error) == (4, "encoder-not-supported")
    assert f"type '{kind}'" in one_line(told)


def test_an_encoder_whose_head_has_no_plain_output_layer_is_refused_for_answers(colours, bert, here):
    layers = {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 32, "block_sizes": [1, 1], "vocab_size": 200}
    FunnelModel(FunnelConfig(**layers)).save_pretrained(here / "model")
    AutoTokenizer.from_pretrained(bert).save_pretrained(here / "model")
    with refused("encoder-cannot-answer", here / "model"):
        train(here / "model", colours[0], here / "pkg")


@pytest.mark.filterwarnings("ignore")
def test_layers_that_make_something_of_positions_alone_are_no_sites_of_features(clora, shapes, here):
    model = save_seeing("swinv2", here / "model")
    positions = "continuous_position_bias_mlp.0"
    made = train(model, shapes[0], here / "every", max_steps=1, target_modules=("all-linear",))
    assert not [site for site in made.sites if positions in site]
    named = train(model, shapes[0], here / "named", max_steps=1, target_modules=("query", positions))
    assert [site for site in named.sites if positions in site]
    taken = clora("stat-features", here / "named")
    assert taken.code == 0, taken.err
    sites = read_distribution(named.features).sites
    assert sites
    assert not [site for site in sites if positions in site]
    routed = clora("eval", here / "named", f"--data={shapes[0]}", "--combine", "route")
    assert (routed.code, routed.error) == (4, "gated-inputs-differ")


def test_deberta_has_layers_of_positions_that_all_linear_leaves_out():
    settings = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "num_hidden_layers": 1}
    for family in ("deberta", "deberta-v2"):
        config = AutoConfig.for_model(family, **settings, hidden_size=16, num_attention_heads=2, intermediate_size=16)
        layers = linear_layers(model := AutoModelForSequenceClassification.from_config(config))
        assert {name.rpartition(".")[2] for name in layers.keys() - set(all_linear(model))} > {"classifier"}
        assert not [name for name in all_linear(model) if "pos" in name.rpartition(".")[2]]
