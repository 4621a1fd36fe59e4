"""A model in a GGUF file is the model that it was made from."""

from __future__ import annotations

import errno
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from gguf_files import write_gguf
from refusals import refused
from support import train, write_task

from clora_cli.base.errors import ArtifactError, OptionError
from clora_cli.model import gguf_file
from clora_cli.model.base_model import find_model, is_local

gguf = pytest.importorskip("gguf")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clora" / "gguf"


@pytest.fixture
def file(model_folder, tmp_path):
    return write_gguf(model_folder("llama"), tmp_path / "small.gguf")


def test_a_gguf_file_computes_what_its_folder_does(model_folder, file):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference = find_model(str(file))
    assert reference.id == str(file) and reference.kind == "causal"
    texts = ["one two three", "a longer text of several words"]
    results = []
    for folder in (model_folder("llama"), reference.path):
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
        tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        with torch.inference_mode():
            results.append((tokens, [model(torch.tensor([ids])).logits for ids in tokens]))
    assert results[0][0] == results[1][0]
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)


def test_it_is_converted_once_wherever_it_lies(file, cache, tmp_path, monkeypatch):
    first = find_model(str(file))
    monkeypatch.setattr(gguf_file, "_convert", lambda *_: pytest.fail("converted again"))
    copy = shutil.copy(file, tmp_path / "elsewhere.gguf")
    assert find_model(str(file)).path == find_model(str(copy)).path == first.path
    assert is_local(str(copy)) and list(cache.iterdir()) == [first.path]


def test_of_two_that_come_at_once_one_converts_it(file, cache, monkeypatch):
    convert, turns = gguf_file._convert, []

    def slow(*given):
        turns.append(time.sleep(0.5))
        convert(*given)

    monkeypatch.setattr(gguf_file, "_convert", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(gguf_file.gguf_folder, [file, file])
    assert first == second and len(turns) == 1
    assert list(cache.iterdir()) == [first]


def test_a_setting_that_is_changed_in_place_makes_another_model(tmp_path):
    content = bytearray(b"GGUF" + bytes(4_000_000))
    (tmp_path / "a.gguf").write_bytes(content)
    before = gguf_file.gguf_digest(tmp_path / "a.gguf")
    content[6_000] = 1  # between two samples
    (tmp_path / "a.gguf").write_bytes(content)
    assert gguf_file.gguf_digest(tmp_path / "a.gguf") != before


def test_a_cache_that_cannot_be_written_is_named(file, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    with refused("gguf-cache-not-writable", file, "blocked", "XDG_CACHE_HOME"):
        find_model(str(file))


def test_where_no_home_is_known_a_cache_is_asked_for(file, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda name: name)
    with refused("gguf-cache-not-writable", file, "XDG_CACHE_HOME"):
        find_model(str(file))


def test_a_cache_without_room_is_not_taken_for_a_damaged_file(file, cache, monkeypatch):
    from transformers import PreTrainedModel

    def full(*given, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with refused("gguf-cache-not-writable", file, "No space left", "XDG_CACHE_HOME"):
        find_model(str(file))
    assert not [*cache.glob("*")]


def test_an_adapter_is_trained_on_it_and_names_the_file(file, tmp_path):
    adapter = train(file, write_task(tmp_path / "task"), tmp_path / "package", epochs=1)
    assert adapter.base["id"] == str(file)
    assert adapter.base["fingerprint"] == find_model(str(file)).fingerprint


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "text.gguf").write_text("no model")
    with refused("gguf-damaged", tmp_path / "text.gguf", error=ArtifactError):
        find_model(str(tmp_path / "text.gguf"))


def test_a_cut_off_file_is_refused_and_nothing_stays_in_the_cache(file, cache):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with refused("gguf-damaged", file, error=ArtifactError):
        find_model(str(file))
    assert not [*cache.glob("*")]


def test_a_file_without_some_weights_is_refused(model_folder, tmp_path):
    file = write_gguf(model_folder("llama"), tmp_path / "lacking.gguf", without="layers.1.mlp.up_proj")
    with refused("base-weights-missing", file, "up_proj", error=ArtifactError):
        find_model(str(file))


def test_the_package_that_reads_gguf_is_named_where_it_is_missing(file, monkeypatch):
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    with refused("extra-not-installed", "clora-cli[gguf]", error=OptionError):
        find_model(str(file))


def test_a_name_of_no_file_is_refused_as_no_model(tmp_path):
    with refused("base-model-not-found", tmp_path / "none.gguf", error=ArtifactError):
        find_model(str(tmp_path / "none.gguf"))


def test_a_gguf_file_that_holds_no_model_is_refused_before_memory_is_taken(tmp_path, cache):
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_type("adapter")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with refused("gguf-no-model", tmp_path / "adapter.gguf", "adapter", error=ArtifactError):
        find_model(str(tmp_path / "adapter.gguf"))


def test_a_part_of_a_model_is_refused_with_how_to_join_the_parts(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m-00001-of-00003.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with refused("gguf-no-model", "--merge", error=ArtifactError):
        find_model(str(tmp_path / "m-00001-of-00003.gguf"))


def test_a_file_without_the_model_s_sizes_is_refused_before_memory_is_taken(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_tensor("token_embd.weight", torch.zeros(4, 4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with refused("base-model-larger-than-files", tmp_path / "odd.gguf", error=ArtifactError):
        find_model(str(tmp_path / "odd.gguf"))


@pytest.mark.parametrize("size", [4, 20, 60])
def test_a_file_cut_in_its_header_is_refused(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with refused("gguf-damaged", file, error=ArtifactError):
        find_model(str(file))


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "files.clora", ""])
def test_a_cached_model_of_which_something_was_removed_is_made_again(file, cache, damage):
    first = find_model(str(file))
    before = {path.name: path.stat().st_size for path in first.path.iterdir()}
    for path in first.path.glob(damage or "*"):
        path.unlink()
    again = find_model(str(file))
    assert again == first and list(cache.iterdir()) == [first.path]
    assert {path.name: path.stat().st_size for path in again.path.iterdir()} == before


def test_a_cached_model_that_was_cut_short_is_made_again(file):
    first = find_model(str(file))
    weights = first.path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-8])
    assert find_model(str(file)) == first and weights.read_bytes() == content


def test_the_cached_weights_can_be_read_by_all_who_share_the_cache(file):
    modes = {path.name: path.stat().st_mode & 0o777 for path in find_model(str(file)).path.iterdir()}
    assert set(modes.values()) == {0o644}, modes


@pytest.mark.parametrize("name", ["sha256-90d2e4", "SMALL.GGUF"])
def test_a_gguf_file_may_be_called_anything(file, tmp_path, name):
    copy = shutil.copy(file, tmp_path / name)
    assert find_model(str(copy)).fingerprint == find_model(str(file)).fingerprint and is_local(str(copy))


def test_another_file_of_a_model_is_refused_with_what_to_name(model_folder):
    weights = model_folder("llama") / "model.safetensors"
    with refused("gguf-damaged", weights, "name a folder", error=ArtifactError):
        find_model(str(weights))


def test_an_architecture_that_is_not_read_is_refused_with_what_to_name(file):
    file.write_bytes(file.read_bytes().replace(b"llama", b"lxama"))
    with refused("gguf-damaged", file, "lxama", "name a folder of Transformers", error=ArtifactError):
        find_model(str(file))
