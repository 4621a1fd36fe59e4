from __future__ import annotations

import json
import shutil

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from support import Signals, config_of, contents, manifest_of, random_factors, write_random_adapter

from clora_cli.algebra.lora import factor_keys
from clora_cli.base.files import sha256, to_json
from clora_cli.model.base_model import find_model
from clora_cli.store.adapter_folder import WEIGHTS, read_adapter
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.store.manifest import MANIFEST, SCHEMA
from clora_cli.store.package import base_at_hand, find_base, read_package


@pytest.fixture(scope="module")
def shared(model_folder):
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    return {
        seed: load_backbone(find_model(str(model_folder("llama", seed))), device=torch.device("cpu")) for seed in (0, 1)
    }


@pytest.fixture
def base(shared):
    return shared[0]


@pytest.fixture
def adapter(tmp_path, base):
    return write_random_adapter(tmp_path / "adapters" / "first", base, stage=1)


def edit(folder, change, *, reseal=False):
    """Change a manifest; ``reseal`` makes its checksums those of the files as they are now."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    if reseal:
        manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    path.write_text(to_json(manifest), encoding="utf-8")


def test_what_is_written_is_what_is_read(tmp_path, base):
    factors = random_factors(base.model, 0, 2)
    tensors = {key: t for site, f in factors.items() for key, t in zip(factor_keys(site), (f.a, f.b), strict=True)}
    config, manifest = config_of(base, factors, 2, 6), manifest_of("first", 1, base.reference)
    folder = write_adapter(tmp_path / "deep" / "first", tensors, config, manifest, {"README.md": "card\n"})
    assert set(contents(folder.path)) == {"README.md", "adapter_config.json", WEIGHTS, MANIFEST}
    assert folder.config == config
    assert {key: folder.manifest.raw[key] for key in manifest} == manifest
    assert folder.manifest.raw["schema"] == SCHEMA
    assert (folder.task, folder.stage, folder.combine, folder.base) == ("first", 1, "sum", manifest["base_model"])
    read = folder.factors()
    assert list(read) == sorted(factors)
    for site, factor in factors.items():
        assert torch.equal(read[site].a, factor.a) and torch.equal(read[site].b, factor.b)
        assert read[site].scaling == 3.0
    assert folder.digest == sha256(folder.path / WEIGHTS) == folder.manifest.raw["files"][WEIGHTS]


def test_equal_contents_give_equal_bytes_whatever_the_order(tmp_path, base):
    factors = random_factors(base.model, 0, 2)
    tensors = {key: t for site, f in factors.items() for key, t in zip(factor_keys(site), (f.a, f.b), strict=True)}
    config, manifest = config_of(base, factors, 2, 6), manifest_of("first", 1, base.reference)
    one = write_adapter(tmp_path / "one", tensors, config, manifest, {})
    turned = [dict(reversed(mapping.items())) for mapping in (tensors, config, manifest)]
    two = write_adapter(tmp_path / "two", *turned, {})
    assert contents(one.path) == contents(two.path)


def test_a_folder_may_be_copied_and_moved(tmp_path, adapter):
    shutil.copytree(adapter.path, tmp_path / "elsewhere")
    assert read_adapter(tmp_path / "elsewhere").digest == adapter.digest


def test_a_truncated_tensor_file_is_refused_in_one_line(adapter):
    weights = adapter.path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-7])
    with refused("adapter-file-changed", adapter.path, WEIGHTS):
        read_adapter(adapter.path)
    (adapter.path / MANIFEST).unlink()  # without checksums the file itself must tell
    with refused("tensor-file-damaged", weights):
        read_adapter(adapter.path).factors()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "tensor-file-damaged"),
        (b"\x08", "tensor-file-damaged"),
        (b"\xff" * 64, "tensor-file-damaged"),
        (b"\x02\0\0\0\0\0\0\0{}", "lora-factors-missing"),
    ],
)
def test_what_is_no_tensor_file_is_refused(adapter, content, code):
    (adapter.path / MANIFEST).unlink()
    (adapter.path / WEIGHTS).write_bytes(content)
    with refused(code, adapter.path, WEIGHTS):
        read_adapter(adapter.path).factors()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (WEIGHTS, "adapter-file-changed"),
        ("adapter_config.json", "file-damaged"),  # it is JSON no more
        ("README.md", "adapter-file-changed"),
    ],
)
def test_a_file_that_was_changed_is_refused(adapter, name, code):
    content = bytearray((adapter.path / name).read_bytes())
    content[-2] ^= 1
    (adapter.path / name).write_bytes(content)
    with refused(code, adapter.path, name):
        read_adapter(adapter.path)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (WEIGHTS, "adapter-weights-missing"),
        ("adapter_config.json", "not-an-adapter-folder"),
        ("README.md", "adapter-file-missing"),
    ],
)
def test_a_missing_file_is_refused_by_its_name(adapter, name, code):
    (adapter.path / name).unlink()
    with refused(code, adapter.path, name):
        read_adapter(adapter.path)


@pytest.mark.parametrize("schema", ["clora.adapter/2", "clora.package/1", 1, None])
def test_another_format_is_refused(adapter, schema):
    edit(adapter.path, lambda manifest: manifest.update(schema=schema))
    with refused("format-not-supported", adapter.path, repr(schema), "'clora.adapter/1'"):
        read_adapter(adapter.path)


@pytest.mark.parametrize("key", ["base_model", "files", "method", "parents", "stage", "task", "training"])
def test_a_manifest_without_a_required_key_is_damaged(adapter, key):
    edit(adapter.path, lambda manifest: manifest.pop(key))
    with refused("manifest-damaged", adapter.path / MANIFEST, key):
        read_adapter(adapter.path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", []),
        ("files", None),
        ("stage", "second"),
        ("stage", None),
        ("task", 7),
        ("method", "n-lora"),
        ("method", {}),
        ("base_model", {"id": "x"}),
        ("base_model", None),
        ("data", {}),
        ("parents", {}),
        ("parents", ["a"]),
        ("parents", [{"task": "a"}]),
        ("lora", 3),
        ("stage", 0),
        ("stage", True),
        ("method", {"name": "n-lora", "combine": "sum"}),
        ("files", {"../x": "0"}),
        ("scores", [1]),
        ("origin", "here"),
    ],
)
def test_a_manifest_whose_entries_are_of_another_kind_is_damaged(adapter, key, value):
    edit(adapter.path, lambda manifest: manifest.update({key: value}))
    with refused("manifest-damaged", adapter.path / MANIFEST, key):
        read_adapter(adapter.path)


def test_unknown_manifest_keys_are_kept(adapter):
    edit(adapter.path, lambda manifest: manifest.update(note="mine"))
    assert read_adapter(adapter.path).manifest.raw["note"] == "mine"


def test_members_follow_their_stages_whatever_their_names(tmp_path, base):
    package = tmp_path / "adapters"
    for stage, task in ((3, "a"), (1, "c"), (2, "b")):
        write_random_adapter(package / task, base, stage=stage)
    (package / ".hidden").mkdir()
    (package / "notes").mkdir()
    (package / "file.txt").write_text("x", encoding="utf-8")
    assert [member.task for member in read_package([package])] == ["c", "b", "a"]
    assert [member.task for member in read_package(sorted(package.glob("?")))] == ["c", "b", "a"]
    shutil.rmtree(package / "b")
    assert [member.task for member in read_package([package])] == ["c", "a"]


def test_two_base_models_in_one_package_do_not_fit(tmp_path, shared):
    write_random_adapter(tmp_path / "adapters" / "first", shared[0], stage=1)
    write_random_adapter(tmp_path / "adapters" / "second", shared[1], stage=2)
    with refused("base-models-differ", "first", "second") as info:
        read_package([tmp_path / "adapters"])
    assert info.value.exit_code == 4


def test_two_members_of_one_task_do_not_fit(tmp_path, adapter):
    shutil.copytree(adapter.path, adapter.path.parent / "copy")
    with refused("task-twice", adapter.path, adapter.path.parent / "copy", "'first'"):
        read_package([adapter.path.parent])


def test_missing_and_empty_packages(tmp_path):
    with refused("package-missing", tmp_path / "none"):
        read_package([tmp_path / "none"])
    assert read_package([tmp_path / "none"], missing_ok=True) == []
    with refused("package-empty", tmp_path):
        read_package([tmp_path])
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with refused("not-a-package", tmp_path / "file"):
        read_package([tmp_path / "file"])
    with refused("adapter-missing", tmp_path / "none"):
        read_adapter(tmp_path / "none")


def test_a_folder_saved_by_peft_is_an_adapter_folder_and_follows_the_staged_ones(tmp_path, base, backbone, adapter):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(backbone("llama").model, config)
    model.save_pretrained(tmp_path / "adapters" / "alien")
    members = read_package([tmp_path / "adapters"])
    assert [(member.task, member.stage) for member in members] == [("first", 1), ("alien", None)]
    alien = members[1]
    assert (alien.manifest, alien.combine) == (None, None)
    for site, factor in alien.factors().items():
        module = model.get_submodule(f"base_model.model.{site}")
        assert torch.equal(factor.delta(), module.get_delta_weight("default"))


def damaged(folder, change):
    (folder / MANIFEST).unlink()
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return read_adapter(folder)


def test_a_lone_factor_is_damage_and_other_tensors_do_not_fit(adapter):
    key = factor_keys("model.layers.0.self_attn.q_proj")[1]
    with refused("lora-factors-unmatched", adapter.path, "'model.layers.0.self_attn.q_proj'"):
        damaged(adapter.path, lambda tensors: tensors.pop(key)).factors()


def test_factors_of_two_ranks_at_a_site_are_damage(adapter):
    key = factor_keys("model.layers.0.self_attn.q_proj")[1]
    with refused("lora-factors-unmatched", adapter.path, "'model.layers.0.self_attn.q_proj'"):
        damaged(adapter.path, lambda tensors: tensors.update({key: torch.zeros(32, 5)})).factors()


def test_an_adapter_that_is_more_than_lora_does_not_fit(adapter):
    (adapter.path / MANIFEST).unlink()
    config = {**adapter.config, "use_dora": True}
    (adapter.path / "adapter_config.json").write_text(to_json(config), encoding="utf-8")
    with refused("adapter-not-plain-lora", adapter.path, "use_dora"):
        read_adapter(adapter.path).factors()


def test_a_failed_write_keeps_the_adapter_that_was_there(tmp_path, adapter, base, monkeypatch):
    from safetensors import SafetensorError

    before = contents(adapter.path)

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with refused("cannot-write", adapter.path, "No space left on device") as info:
        write_random_adapter(adapter.path, base, stage=1)
    assert info.value.exit_code == 1
    assert contents(adapter.path) == before
    assert [path.name for path in adapter.path.parent.iterdir()] == ["first"]


# The base model that adapters name


def named(folder, name):
    edit(folder, lambda manifest: manifest["base_model"].update(id=str(name)))
    return read_adapter(folder)


@pytest.mark.parametrize("inner", [".", "base", "base/deeper"])
def test_a_base_model_within_the_adapter_that_names_it_is_not_followed(adapter, base, inner):
    place = adapter.path / inner
    shutil.copytree(base.reference.path, place, dirs_exist_ok=True)
    member = named(adapter.path, place)
    with refused("base-model-inside-adapter", adapter.path, f"--model {place}"):
        find_base([member])
    assert base_at_hand([member]) is None
    assert find_base([member], str(place)).path == place  # given by the user


def test_a_way_around_leads_into_the_adapter_no_less(adapter, base, tmp_path):
    shutil.copytree(base.reference.path, adapter.path / "base")
    (tmp_path / "link").symlink_to(adapter.path / "base")
    for name in (tmp_path / "link", tmp_path / "adapters" / ".." / "link"):
        with refused("base-model-inside-adapter", adapter.path, f"--model {name}"):
            find_base([named(adapter.path, name)])


def test_a_base_model_on_the_hub_is_followed_with_a_note(adapter, monkeypatch):
    heard = Signals()
    monkeypatch.setattr("clora_cli.store.package.find_model", lambda name, revision: name)
    assert find_base([named(adapter.path, "someone/model")], progress=heard) == "someone/model"
    (note,) = heard.notes
    assert f"{adapter.path} names base model 'someone/model', which comes from the Hub" in note
    assert find_base([adapter], "someone/other", progress=heard) == "someone/other"
    assert len(heard.notes) == 1


def test_adapters_of_one_model_that_was_saved_twice_are_one_package(adapter, base, tmp_path):
    again = tmp_path / "again"
    base.model.save_pretrained(again)
    config = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps({**config, "a_later_key": 1}))
    reference = find_model(str(again))
    assert reference.fingerprint != base.reference.fingerprint
    other = write_random_adapter(tmp_path / "adapters" / "second", base, stage=2)
    edit(other.path, lambda manifest: manifest.update(base_model=reference.described()))
    members = read_package([tmp_path / "adapters"])
    assert [member.task for member in members] == ["first", "second"]
    assert base_at_hand(members) == base.reference
