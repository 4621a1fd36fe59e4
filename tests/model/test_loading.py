"""No code of a model's folder runs, and what Transformers would do beside loading is not done."""

from __future__ import annotations

import io
import json
import shutil
import sys

import pytest
import torch
from refusals import refused
from support import write_random_adapter

from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.model.loading import load_skeleton, read_config
from clora_cli.model.places import places_of

CODE = "import pathlib\npathlib.Path({!r}).touch()\nraise RuntimeError\n"


@pytest.fixture
def model(model_folder, tmp_path):
    return shutil.copytree(model_folder("llama"), tmp_path / "model")


@pytest.fixture
def ran(model, tmp_path, monkeypatch):
    """Whether code that lies in the model's folder ran, although whoever is asked says yes."""
    mark = tmp_path / "ran"
    for name in ("own.py", "custom_generate/generate.py"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(CODE.format(str(mark)))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    return mark.exists


def edit(file, **entries):
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | entries))


def load(model):
    return load_backbone(find_model(str(model)), device=torch.device("cpu"))


OWN = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoModel": "own.Model"}


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("config.json", {"model_type": "new", "auto_map": OWN}),
        ("config.json", {"model_type": "new", "auto_map": {key: f"someone/else--{own}" for key, own in OWN.items()}}),
        ("tokenizer_config.json", {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}),
    ],
)
def test_a_model_that_needs_code_of_its_own_is_refused_in_one_line_and_nobody_is_asked(model, ran, name, entries):
    edit(model / name, **entries)
    with refused("base-model-needs-own-code", model):
        load(model)
    assert not ran()
    assert sys.stdin.read(1) == "y"
    if name == "config.json":
        with refused("base-model-needs-own-code", model):
            load_skeleton(find_model(str(model)))
        assert not ran()


def test_a_model_that_transformers_knows_is_loaded_without_the_code_beside_it(model, ran):
    edit(model / "config.json", auto_map=OWN)
    edit(model / "generation_config.json", custom_generate="custom_generate")
    backbone = load(model)
    assert type(backbone.model).__module__.startswith("transformers.")
    backbone.model.generate(torch.tensor([[5, 9]]), max_new_tokens=1)
    assert not ran()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_that_a_configuration_names_on_the_hub_are_not_fetched(model, key):
    edit(model / "config.json", **{key: "someone/kernel"})
    config = read_config(find_model(str(model)))
    assert "/" not in f"{config._attn_implementation}{config._experts_implementation}"
    load(model)


def test_an_adapter_in_a_models_folder_is_not_put_into_it_unseen(model, backbone, tmp_path):
    adapter = write_random_adapter(tmp_path / "ad", backbone("llama"), stage=1)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(adapter.path / name, model / name)
    with refused("base-model-holds-adapter", model):
        load(model)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_is_a_pointer_is_called_that(model, name):
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with refused("file-is-stand-in", model / name, "Git LFS pointer"):
        load(model)


def test_the_skeleton_has_the_layers_of_the_model(model):
    assert places_of(find_model(str(model))).place("model.layers.1.mlp.up_proj").shape == (64, 32)
