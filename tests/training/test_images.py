from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from encoders import scored
from images import ROUND, STRAIGHT, drawn_again
from peft import LoraConfig, PeftModel, get_peft_model
from refusals import refused
from support import contents, continued, options_for, train
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from clora_cli.base import registry
from clora_cli.data import load_task
from clora_cli.model.model_types import SEEING
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.heads import head_of
from clora_cli.training.execute import train_task
from clora_cli.training.plan import make_plan

ALL = (*ROUND, *STRAIGHT)
# By embeddings, features, second moments, gradients of single rows, attributions, activities, states; as dense deltas; with rows again.
LOOKING = [
    "aso-lora",
    "cast",
    "epi",
    "ewc",
    "gem",
    "inf-lora",
    "lb-cl",
    "migu",
    "mocl",
    "moe-lora",
    "pfd",
    "replay",
    "sd-lora",
    "seq-ft",
]


@torch.no_grad()
def answered(model, processor, task, labels):
    """Return whether PEFT's model gives each test image its right class, with pixels made by Transformers' own pipeline."""
    found = []
    for row in load_task(str(task)).test:
        pixels = processor(drawn_again(row), return_tensors="pt")["pixel_values"]
        found.append(float(labels[model(pixel_values=pixels).logits.argmax().item()] == row.references[0]))
    return found


def peft_base(vit, classes, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForImageClassification.from_pretrained(vit, num_labels=classes, **more)


@pytest.mark.parametrize("name", LOOKING)
def test_methods_that_look_at_rows_themselves_train_an_image_model(vit, shapes, tmp_path, name):
    chosen = {"method": name, "max_steps": 1, "train_rows": 6}
    head = head_of([train(vit, task, tmp_path / "pkg", **chosen) for task in shapes][-1])
    assert head.tasks["straight"] == STRAIGHT
    assert ("round" in head.tasks) == (registry.load("methods", name).combine == "last")
    assert bool(head.weight.isfinite().all())


@pytest.mark.parametrize("name", ["l2p", "lamol", "lwf"])
def test_methods_that_need_texts_refuse_an_image_model_by_name(vit, shapes, tmp_path, name):
    with refused("method-not-for-encoders", name):
        make_plan(options_for(vit, shapes[0], tmp_path / "pkg", method=name))


def test_what_is_learned_is_seen_in_new_drawings(drawings, shapes):
    among_all = scored(drawings, shapes).rows[-1].scores
    own = scored(drawings, shapes, score="labels").rows[-1].scores
    assert own["straight"].value > 60
    for task in ("round", "straight"):
        assert all(a <= b for a, b in zip(among_all[task].per_row, own[task].per_row, strict=True))


def test_peft_reads_an_adapter_with_its_head(vit, shapes, drawings):
    config = json.loads((drawings / "straight" / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == (None, ["classifier"])
    theirs = PeftModel.from_pretrained(peft_base(vit, len(ALL)), str(drawings / "straight")).eval()
    processor = AutoImageProcessor.from_pretrained(vit, backbone="pil")
    mine = scored(drawings, shapes).rows[-1].scores
    for task, folder in zip(("round", "straight"), shapes, strict=True):
        assert answered(theirs, processor, folder, ALL) == list(mine[task].per_row)


def test_an_adapter_that_peft_made_is_scored_and_built_upon(vit, shapes, tmp_path):
    torch.manual_seed(3)
    base = peft_base(vit, 2, id2label=dict(enumerate(ROUND)))
    given = {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"], "init_lora_weights": False}
    model = get_peft_model(base, LoraConfig(**given)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(tmp_path / "pkg" / "round"))
    base.config.save_pretrained(tmp_path / "pkg" / "round")
    processor = AutoImageProcessor.from_pretrained(vit, backbone="pil")
    cell = scored(tmp_path / "pkg" / "round", shapes[:1], model=str(vit)).rows[-1].scores["round"]
    assert answered(model, processor, shapes[0], ROUND) == list(cell.per_row)
    later = train(vit, shapes[1], tmp_path / "pkg", method="inc-lora")
    assert head_of(later).tasks == {"straight": STRAIGHT}


def test_an_interrupted_run_ends_as_if_it_had_not_been(vit, shapes, tmp_path):
    whole = train(vit, shapes[0], tmp_path / "whole", max_steps=4)
    plan = make_plan(options_for(vit, shapes[0], tmp_path / "parts", max_steps=4))
    resumed = continued(plan)
    kept = "adapter_model.safetensors"
    assert contents(resumed.path)[kept] == contents(whole.path)[kept]


def test_an_image_that_changes_under_a_run_is_told(vit, shapes, tmp_path):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    plan = make_plan(options_for(vit, folder, tmp_path / "pkg"))
    path = next((folder / "train" / "disc").iterdir())
    path.write_bytes(next((folder / "train" / "ring").iterdir()).read_bytes())
    with refused("image-changed", path.name):
        train_task(plan)


def test_a_file_that_is_no_image_is_told_before_the_first_step(vit, shapes, tmp_path):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    (folder / "train" / "disc" / "000.png").write_bytes(b"no image")
    with refused("image-unreadable", "000.png cannot be read: it is in no format that Pillow knows"):
        train(vit, folder, tmp_path / "pkg")


def test_images_need_a_model_that_sees_and_texts_one_that_reads(vit, bert, model_folder, shapes, colours, drawings):
    for model in (bert, model_folder("llama")):
        with refused("rows-of-other-kind", "reads texts"):
            make_plan(options_for(model, shapes[0], drawings.parent / "none"))
    with refused("rows-of-other-kind", "reads images"):
        make_plan(options_for(vit, colours[0], drawings.parent / "none"))
    with refused("rows-of-other-kind", "reads images"):
        scored(drawings, colours[:1])


def test_images_without_pillow_name_the_extra(vit, shapes, tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "PIL" else found(name, *rest))
    with refused("extra-not-installed", "clora-cli[images]"):
        train(vit, shapes[0], tmp_path / "pkg")


def test_adapters_keep_the_names_that_peft_gives_a_vit(drawings):
    sites = read_adapter(drawings / "round").sites
    assert sites and all(site.startswith("vit.layers.0.attention.") for site in sites)


def test_image_models_are_those_that_transformers_has_a_head_for():
    assert set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES) >= SEEING


@pytest.mark.parametrize("method", ["seq-lora", "replay"])
def test_a_class_that_no_other_competes_with_is_told_and_one_of_several_is_not(vit, shapes, tmp_path, method):
    for number, shape in enumerate(ROUND):
        for split in ("train", "test"):
            shutil.copytree(shapes[0] / split / shape, tmp_path / f"task{number}" / split / shape)
    notes = []
    for number in range(len(ROUND)):
        options = {"method": method, "max_steps": 1, "train_rows": 4}
        plan = make_plan(options_for(vit, tmp_path / f"task{number}", tmp_path / "pkg", **options))
        notes.append([note for note in plan.task.notes if "one class alone" in note])
        train_task(plan)
    assert [len(found) for found in notes] == [1, 0 if method == "replay" else 1]


def test_a_model_whose_processor_has_changed_trains_no_further_adapter(vit, shapes, tmp_path):
    model = shutil.copytree(vit, tmp_path / "vit")
    train(model, shapes[0], tmp_path / "pkg", max_steps=1)
    file = model / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_std": [1.0, 1.0, 1.0]}))
    with refused("base-model-changed", "image_processor.image_std"):
        make_plan(options_for(model, shapes[1], tmp_path / "pkg"))
