"""No code of a model's folder runs, and what Transformers would do beside loading is not done."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys

import pytest
import torch
import transformers
from refusals import refused
from safetensors.torch import load_file, save_file
from support import write_random_adapter, write_task

from clora_cli.base.errors import ArtifactError
from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.model.loading import load_skeleton, read_config
from clora_cli.model.places import places_of
from clora_cli.options import EvalOptions

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


def weights(model, change):
    """Save the model's weights anew, changed."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    save_file(change(tensors), file, metadata={"format": "pt"})


def test_weights_that_are_not_there_are_never_random_numbers(model):
    weights(model, lambda found: {key: one for key, one in found.items() if "layers.1.mlp.up_proj" not in key})
    with refused("base-weights-missing", model, "layers.1.mlp.up_proj.weight", error=ArtifactError):
        load(model)


def test_weights_under_the_names_of_a_wrapper_are_not_there(model):
    weights(model, lambda found: {f"module.{key}": one for key, one in found.items()})
    with refused("base-weights-missing", model, error=ArtifactError):
        load(model)


def test_more_layers_than_there_are_weights_for_are_refused(model):
    edit(model / "config.json", num_hidden_layers=5)
    with refused("base-weights-missing", model, error=ArtifactError):
        load(model)


def test_a_weight_of_another_shape_is_named_with_both_shapes(model):
    weights(
        model, lambda found: {key: one[:-1] if "layers.0.mlp.up_proj" in key else one for key, one in found.items()}
    )
    with refused("base-weight-shape-differs", model, "layers.0.mlp.up_proj.weight", error=ArtifactError):
        load(model)


def test_no_memory_is_taken_for_a_model_that_the_files_cannot_hold(model, monkeypatch):
    config = json.loads((model / "config.json").read_text())
    for size in ("hidden_size", "intermediate_size", "num_hidden_layers"):
        config.pop(size)
    (model / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with refused("base-model-larger-than-files", model, error=ArtifactError):
        load(model)


@pytest.mark.parametrize("layers", ["four", -1.5, None])
def test_a_configuration_that_is_none_ends_in_one_line_that_names_the_entry(model, layers):
    edit(model / "config.json", num_hidden_layers=layers)
    with refused("base-model-not-loadable", "num_hidden_layers", error=ArtifactError):
        load(model)


@pytest.mark.parametrize("score", ["generate", "labels"])
def test_a_model_whose_outputs_are_no_numbers_has_no_score(model, tmp_path, score):
    weights(
        model,
        lambda found: {key: one * math.nan if "layers.1.mlp.up_proj" in key else one for key, one in found.items()},
    )
    task = load_task(str(write_task(tmp_path / "task")))
    with refused("outputs-not-finite", model):
        evaluate([], [task], EvalOptions(model=str(model), score=score, test_rows=2))
