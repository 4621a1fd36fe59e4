"""What a report keeps of the adapters that it examined, and when it examines them again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from clora_cli.base.progress import Silent
from clora_cli.reporting import examination
from clora_cli.reporting.examination import KEPT, examined
from clora_cli.store.package import read_package
from clora_cli.store.tensors import save_tensors


def write_package(folder, count):
    for number in range(count):
        member = folder / f"task{number:02}"
        member.mkdir(parents=True)
        generator = torch.Generator().manual_seed(number)
        key = "base_model.model.layer.q_proj.lora_{}.weight"
        tensors = {"A": torch.randn(2, 8, generator=generator), "B": torch.randn(12, 2, generator=generator)}
        save_tensors(member / "adapter_model.safetensors", {key.format(side): value for side, value in tensors.items()})
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        (member / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture
def package(tmp_path):
    return write_package(tmp_path / "package", 3)


@pytest.fixture
def times(monkeypatch):
    """Count how often adapters are examined."""
    calls, examine = [], examination.examine_members
    monkeypatch.setattr(examination, "examine_members", lambda *given: calls.append(1) or examine(*given))
    return calls


def look(package):
    return examined(package, read_package([package]), Silent())


def same(one, other):
    assert one.earlier.survey.earlier == other.earlier.survey.earlier
    assert one.pairs.survey.pairs == other.pairs.survey.pairs
    assert one.pairs.labels == other.pairs.labels
    for shift, again in zip(one.shifts, other.shifts, strict=True):
        assert shift.zeros == again.zeros and (shift.shares == again.shares).all()


def test_a_second_look_reads_what_the_first_one_kept(package, times):
    first = look(package)
    same(first, look(package))
    assert len(times) == 1


@pytest.mark.parametrize("change", ["remove", "scale", "retrain"])
def test_a_changed_package_is_examined_again(package, times, change):
    before = look(package)
    member = package / "task01"
    if change == "remove":
        shutil.rmtree(member)
    elif change == "scale":
        config = json.loads((member / "adapter_config.json").read_text(encoding="utf-8"))
        (member / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 400}), encoding="utf-8")
    else:
        shutil.copy(package / "task00" / "adapter_model.safetensors", member)
    after = look(package)
    assert len(times) == 2
    moved = any((a.shares != b.shares).any() for a, b in zip(after.shifts, before.shifts, strict=False))
    assert moved and len(after.shifts) == (2 if change == "remove" else 3)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": "clora.anatomy/1"}', "nan", "short"])
def test_a_damaged_record_is_made_again(package, times, damage):
    first = look(package)
    kept = json.loads((package / KEPT).read_text(encoding="utf-8"))
    if damage == "nan":
        kept["earlier"]["shares"][0][1][-1] = 1e400
    elif damage == "short":
        kept["pairs"]["shares"].pop()
    text = json.dumps(kept) if damage in ("nan", "short") else damage
    (package / KEPT).write_text(text, encoding="utf-8")
    same(first, look(package))
    assert len(times) == 2
    same(first, look(package))
    assert len(times) == 2


def test_a_package_that_cannot_be_written_to_is_examined_all_the_same(package, times, monkeypatch):
    def refuse(path, text):
        raise examination.CloraError(f"cannot write {path}")

    monkeypatch.setattr(examination, "write_text", refuse)
    same(look(package), look(package))
    assert len(times) == 2 and not (package / KEPT).exists()


def test_nothing_is_kept_in_an_adapter_folder(package):
    member = package / "task00"
    found = examined(member, read_package([member]), Silent())
    assert (found.earlier, found.pairs) == (None, None)
    assert not (member / KEPT).exists()


def test_of_many_adapters_a_sample_is_compared_pair_by_pair_and_all_with_those_before(tmp_path, times):
    package = write_package(tmp_path / "many", 30)
    found = look(package)
    assert len(found.shifts) == len(found.earlier.labels) == 30
    assert len(found.pairs.labels) == 24 and set(found.pairs.labels) < set(found.earlier.labels)
    same(found, look(package))
    assert len(times) == 1


def test_large_packages_are_sampled_and_say_so(package, monkeypatch):
    monkeypatch.setattr(examination, "_WHOLE", 100)
    monkeypatch.setattr(examination, "_ROWS", 6)
    found = look(package)
    assert found.earlier.survey.rows == 6 and 0 < found.earlier.survey.margin < 1
    assert found.shifts[0].shares.sum() + found.shifts[0].zeros == pytest.approx(1)
