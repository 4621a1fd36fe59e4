"""What can be wrong with a base model's files, each told apart from the others."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from clora_cli.base.errors import ArtifactError
from clora_cli.model.base_model import ModelReference, check_base, find_model, same_base
from clora_cli.model.checkpoint import Checkpoint
from clora_cli.store.manifest import Manifest

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 1048576\n" % ("0" * 64)
SITE = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def model(model_folder, tmp_path):
    """A copy of a model that may be damaged."""
    return shutil.copytree(model_folder("llama"), tmp_path / "model")


@pytest.fixture
def sharded(model, tmp_path):
    """The same in three files or more."""
    folder = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def check_refused(folder, code, *names):
    with refused(code, folder, *names, error=ArtifactError):
        find_model(str(folder))


@pytest.mark.parametrize(
    ("name", "code"), [("model.safetensors", "base-model-file-damaged"), ("config.json", "file-damaged")]
)
def test_pointers_of_large_file_storage_are_called_that(model, name, code):
    (model / name).write_text(POINTER)
    check_refused(model, code, name, "Git LFS pointer", "git lfs pull")


def test_a_pointer_among_shards_and_an_index_that_is_one_are_called_that(sharded):
    shard = min(sharded.glob("*.safetensors"))
    whole = shard.read_bytes()
    shard.write_text(POINTER)
    check_refused(sharded, "base-model-file-damaged", shard.name, "Git LFS pointer")
    shard.write_bytes(whole)
    (sharded / "model.safetensors.index.json").write_text(POINTER)
    check_refused(sharded, "file-damaged", "index.json", "Git LFS pointer")


def test_a_web_page_in_place_of_a_file_is_called_that(model):
    (model / "model.safetensors").write_text("<!DOCTYPE html><title>Log in</title>")
    check_refused(model, "base-model-file-damaged", "web page")


def test_a_file_that_was_cut_short_says_where(model):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    check_refused(model, "base-model-file-damaged", "model.norm.weight")
    file.write_bytes(b"")
    check_refused(model, "base-model-file-damaged", "empty")


def test_a_missing_shard_is_named(sharded):
    shards = sorted(sharded.glob("*.safetensors"))
    shards[1].unlink()
    check_refused(sharded, "weight-shards-missing", f"1 of {len(shards)}", shards[1].name)


def test_shards_without_an_index_are_refused(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    check_refused(sharded, "weight-index-missing", "model-0", "model.safetensors.index.json")


@pytest.mark.parametrize("places", [None, [], {"a": 1}, {"a": "../model.safetensors"}])
def test_an_index_that_names_no_files_of_its_folder_is_damaged(sharded, places):
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    check_refused(sharded, "weight-index-damaged", "weight_map")


def test_an_index_of_another_download_is_told(sharded):
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    names = sorted(set(content["weight_map"].values()))
    content["weight_map"]["model.norm.weight"] = next(
        n for n in names if n != content["weight_map"]["model.norm.weight"]
    )
    index.write_text(json.dumps(content))
    check_refused(sharded, "weight-index-contradicts-shard", "model.norm.weight")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pytorch_model.bin", "pickled"), ("model.Q4_K_M.gguf", "GGUF"), ("consolidated.safetensors", "consolidated")],
)
def test_weights_of_another_kind_alone_are_named(model, name, kind):
    (model / "model.safetensors").rename(model / name)
    check_refused(model, "base-model-weights-missing", kind)


def test_an_adapter_is_no_base_model(model):
    (model / "config.json").rename(model / "adapter_config.json")
    check_refused(model, "base-model-is-adapter")


def test_what_no_loader_reads_does_no_harm(model):
    before = find_model(str(model))
    (model / "consolidated.safetensors").write_text(POINTER)
    assert find_model(str(model)) == before
    assert list(Checkpoint(model).keys) == list(load_file(model / "model.safetensors"))


@pytest.mark.parametrize("code", ["qweight", "weight_packed", "weight.absmax"])
def test_a_quantised_layer_is_called_that(model, code):
    tensors = load_file(model / "model.safetensors")
    tensors[f"{SITE}.{code}"] = torch.zeros(4, dtype=torch.int32)
    save_file(tensors, model / "model.safetensors")
    with refused("base-weight-quantised", SITE):
        Checkpoint(model).check_whole([SITE])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_a_weight_of_codes_is_quantised(model, dtype):
    tensors = load_file(model / "model.safetensors")
    save_file({**tensors, f"{SITE}.weight": torch.zeros(32, 32).to(dtype)}, model / "model.safetensors")
    with refused("base-weight-quantised", f"{SITE}.weight"):
        Checkpoint(model).check_number(f"{SITE}.weight")


# One model, saved again


def again(model, folder, **keys):
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))
    return find_model(str(folder))


def test_other_keys_of_the_configuration_make_no_other_model(model, tmp_path):
    one, other = find_model(str(model)), again(model, tmp_path / "again", new_key_of_a_later_version=1)
    assert one.fingerprint != other.fingerprint
    check_base(one.described(), other, tmp_path)
    assert one.recorded().keys() == {"id", "revision", "fingerprint", "kind"}  # what 0.1.0 recorded


def test_a_record_without_the_weights_own_fingerprint_is_looked_up_where_its_model_still_is(model, tmp_path):
    one, other = find_model(str(model)), again(model, tmp_path / "again", key=1)
    check_base(one.recorded(), other, tmp_path)
    shutil.rmtree(model)
    with refused("trained-on-other-base-model", "weights", "configuration", "--model"):
        check_base(one.recorded(), other, tmp_path)


def test_what_was_made_on_a_model_is_up_to_date_on_the_same_one_saved_again(model, tmp_path, model_folder):
    one, other = find_model(str(model)), again(model, tmp_path / "again", key=1)
    made = Manifest({"seed": 1, "base_model": one.described()})
    assert not made.changes({"seed": 1, "base_model": other.recorded()})
    assert made.changes({"seed": 2, "base_model": other.recorded()}) == "seed 1 -> 2"
    stranger = find_model(str(model_folder("llama", 1)))
    assert "base_model.fingerprint" in made.changes({"seed": 1, "base_model": stranger.recorded()})


def test_files_names_prefixes_and_tied_heads_are_as_they_like(model_folder, tmp_path):
    one = find_model(str(model_folder("gpt2")))
    tensors = load_file(one.path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare |= {"lm_head.weight": bare["wte.weight"].clone(), "h.0.attn.bias": torch.ones(1, 1, 4, 4)}
    shutil.copytree(one.path, tmp_path / "bare")
    save_file(bare, tmp_path / "bare" / "model.safetensors")
    assert find_model(str(tmp_path / "bare")).weights == one.weights


def test_one_changed_weight_makes_another_model(model, model_folder):
    one = find_model(str(model))
    tensors = load_file(model / "model.safetensors")
    save_file({**tensors, f"{SITE}.weight": tensors[f"{SITE}.weight"] + 1}, model / "model.safetensors")
    other = find_model(str(model))
    assert not same_base(one.described(), other.described())
    with refused("base-model-changed", "weights"):
        check_base(one.described(), other, model)
    swapped = dict(tensors)
    first, second = f"{SITE}.weight", f"{SITE.replace('0', '1')}.weight"
    swapped[first], swapped[second] = swapped[second].clone(), swapped[first].clone()
    save_file(swapped, model / "model.safetensors")
    assert find_model(str(model)).weights != one.weights


@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps", "num_attention_heads", "hidden_act"])
def test_these_weights_under_settings_by_which_they_compute_something_else_are_another_model(model, tmp_path, key):
    one = find_model(str(model))
    config = json.loads((model / "config.json").read_text())
    rope = config.pop("rope_parameters")
    changed = {"rope_theta": 5e5, "rms_norm_eps": 0.1, "num_attention_heads": 2, "hidden_act": "relu"}
    other = again(
        model, tmp_path / "again", **({"rope_parameters": {**rope, key: 5e5}} if key in rope else {key: changed[key]})
    )
    recorded = one.described()
    assert other.weights == one.weights and not same_base(recorded, other.described())
    with refused("trained-on-other-base-model", f"{key} {changed[key]!r}"):
        check_base(recorded, other, tmp_path)
    with refused("trained-on-other-base-model", "settings"):  # of 0.1.0: looked up where the model still is
        check_base(one.recorded(), other, tmp_path)


def test_a_setting_that_a_library_moved_or_left_out_makes_no_other_model(model, tmp_path):
    one, folder = find_model(str(model)), tmp_path / "again"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    del config["head_dim"]
    (folder / "config.json").write_text(json.dumps(config))
    check_base(one.described(), find_model(str(folder)), tmp_path)
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 5e5}))
    with refused("trained-on-other-base-model", "rope_theta", 500000.0, 10000.0):
        check_base(one.described(), find_model(str(folder)), tmp_path)


def test_another_type_of_model_with_these_weights_is_another_model(model):
    one = find_model(str(model))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    assert find_model(str(model)).weights != one.weights


def test_a_bare_adapter_records_no_model_and_passes(model, tmp_path):
    check_base({"id": "someone/else"}, ModelReference("a", model, "causal", "f" * 64), tmp_path)
