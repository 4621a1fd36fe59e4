"""Layers that PEFT can adapt are trained, written and read again by PEFT and clora alike; others are refused before training."""

from __future__ import annotations

import pytest
import torch
from other_models import logits, model_of, save_other, through_bank, through_peft
from refusals import refused
from safetensors import safe_open
from support import Signals, options_for, train
from torch.testing import assert_close

from clora_cli.model.linear_layers import find_sites
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.training import make_plan, train_task
from clora_cli.training.build import target_modules
from clora_cli.training.loop import MethodTrainer


@pytest.fixture
def trained(tmp_path, tasks):
    """Train a step on a family's model; return the model's folder and the adapter."""

    def run(family, *targets, **chosen):
        base = save_other(family, tmp_path / family)
        chosen = {"max_steps": 1, "lr": 0.5, "target_modules": targets} | chosen
        return base, train(base, tasks["first"], tmp_path / "adapters", **chosen)

    return run


def endings(adapter):
    return {site.rpartition(".")[2] for site in adapter.factors()}


def acts_as_under_peft(family, base, adapter):
    expected = through_peft(model_of(family, base), adapter.path)
    assert not torch.allclose(expected, logits(model_of(family, base)), atol=1e-4)
    assert_close(through_bank(model_of(family, base), adapter.path), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_output_layer_is_written_without_its_base_weight_tied_or_not(trained, family):
    base, adapter = trained(family, "lm_head", "q_proj" if family == "llama" else "c_attn")
    with safe_open(adapter.weights, "pt") as file:
        assert all(".lora_" in key for key in file.keys())
    acts_as_under_peft(family, base, adapter)


@pytest.mark.parametrize(
    ("family", "kept", "left"),
    [
        ("mixtral", {"q_proj", "k_proj", "v_proj", "o_proj"}, "experts.down_proj, experts.gate_up_proj"),
        ("qwen2-moe", {"q_proj", "k_proj", "v_proj", "o_proj", "shared_expert_gate"}, None),
        ("falcon-h1", None, "out_proj"),
    ],
)
def test_all_linear_leaves_out_what_no_lora_folder_can_hold_and_says_so(tmp_path, tasks, family, kept, left):
    base = save_other(family, tmp_path / "base")
    options = options_for(base, tasks["first"], tmp_path / "p", target_modules=("all-linear",), max_steps=1, lr=0.5)
    told = Signals()
    adapter, _ = train_task(make_plan(options), progress=told)
    note = next(line for line in told.notes if line.startswith("all-linear leaves out"))
    assert kept is None or kept <= endings(adapter)
    assert left is None or left in note
    acts_as_under_peft(family, base, adapter)


def test_endings_that_other_kinds_of_layers_have_too_become_whole_paths():
    model = model_of("gemma4-vision")
    sites = tuple(find_sites(model))
    assert target_modules(("q_proj", "v_proj"), model, sites) == list(sites)
    assert target_modules((), model_of("llama"), tuple(find_sites(model_of("llama")))) == ["q_proj", "v_proj"]


def test_what_text_does_not_pass_is_not_adapted_unless_named(trained):
    base, adapter = trained("gemma3-vision")
    assert all(site.startswith("model.language_model.") for site in adapter.factors())
    acts_as_under_peft("gemma3-vision", base, adapter)
    model = model_of("gemma3-vision", base)
    assert all("vision" not in site for site in find_sites(model, ["all-linear"]))
    assert any("vision" in site for site in find_sites(model, ["q_proj"]))


@pytest.mark.parametrize("target", ["embed_tokens", "experts", "norm", ".*q_proj"])
def test_what_is_no_linear_layer_is_refused_before_training(trained, target):
    with refused("target-modules-match-nothing", "--target-modules", target):
        trained("mixtral", target)


def test_what_peft_turns_into_something_else_is_refused_before_training(trained):
    with refused("target-modules-not-adaptable", "--target-modules"):
        trained("falcon-h1", "out_proj")


def test_a_task_is_trained_on_top_of_an_output_layer_s_adapter(tmp_path, tasks, trained):
    base, _ = trained("llama", "lm_head")
    options = {"target_modules": ("lm_head",), "max_steps": 1, "method": "o-lora"}
    second = train(base, tasks["second"], tmp_path / "adapters", **options)
    assert second.stage == 2
    assert set(second.factors()) == {"lm_head"}


def test_what_a_library_raises_in_training_ends_in_one_line(tmp_path, model_folder, tasks, monkeypatch):
    def fail(self, *arguments, **options):
        raise IndexError("index out of range in self\nand more")

    monkeypatch.setattr(MethodTrainer, "compute_loss", fail)
    with refused("training-failed", model_folder("llama"), "IndexError", "index out of range in self"):
        train(model_folder("llama"), tasks["first"], tmp_path / "p", max_steps=1)
    assert not list((tmp_path / "p").rglob("adapter_config.json"))


def test_nothing_that_cannot_be_read_again_gets_its_name(tmp_path):
    tensors = {
        "base_model.model.q.lora_A.weight": torch.zeros(2, 3),
        "base_model.model.q.base_layer.weight": torch.ones(3, 3),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    with refused("base-weights-need-comparison", "'q'"):
        write_adapter(tmp_path / "p" / "one", tensors, config, {}, {})
    assert not (tmp_path / "p" / "one").exists()
