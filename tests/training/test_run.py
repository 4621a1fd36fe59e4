"""Whole runs: what is written, what is kept, what is continued."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from engines import MADE
from peft import PeftModel
from refusals import refused
from routed import give_distribution
from support import FAMILIES, Signals, contents, options_for, train, write_random_adapter

from clora_cli.base import registry
from clora_cli.base.errors import InterruptedRunError
from clora_cli.data import load_task
from clora_cli.methods._gates import Gated
from clora_cli.methods._input_bases import InputBases
from clora_cli.methods.epi import Epi
from clora_cli.model.bank import AdapterBank
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.store.package import read_package
from clora_cli.training import make_plan, train_task

LORAS = [name for name in registry.names("methods") if not registry.load("methods", name)().virtual_tokens()]


def logits(backbone, model=None):
    tokens = backbone.tokenizer(["the boat was"], return_tensors="pt", add_special_tokens=False)["input_ids"]
    extra = {"decoder_input_ids": torch.tensor([[0, 5, 6]])} if backbone.kind == "seq2seq" else {}
    with torch.no_grad():
        return (model or backbone.model)(input_ids=tokens, **extra).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [*LORAS, "o-lora+n-lora"])
def test_every_method_trains_an_adapter_that_peft_loads(tmp_path, plan_for, backbone, tasks, family, method):
    base, other = backbone(family), backbone(family)
    plugin = registry.load("methods", method.partition("+")[0])
    shared = plugin.start == "shared"  # a site may have nothing that is worth a place
    keeps = issubclass(plugin, (Gated, InputBases, Epi))  # what the next task goes on from
    chosen = MADE if method == "ssr" else {}
    if shared or keeps or plugin.full_rank or plugin.recalls or plugin().memory():  # its past must be of its own kind
        past, _ = train_task(plan_for("second", family=family, method=method, max_steps=1, **chosen))
    else:
        past = write_random_adapter(tmp_path / "adapters" / "second", base, stage=1)
        give_distribution(past.path, base, load_task(str(tasks["second"])).train, data="second")
    before = contents(past.path)
    folder, trained = train_task(plan_for(family=family, method=method, **chosen))
    assert trained
    assert contents(past.path) == before
    assert (folder.task, folder.stage) == ("first", 2)
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == ["first", "second"]
    factors = folder.factors()
    assert set(factors) == set(past.factors())
    moved = [float(f.b.abs().max()) > 0 for f in factors.values()]
    # Of all linear layers, which whole weights are trained of by default, BERT's pooler is behind all states that are read.
    assert (any(moved) if shared or plugin.full_rank else all(moved)) if plugin.trains else not any(moved)
    base.model.double()
    AdapterBank(base.model).activate([factors])
    loaded = PeftModel.from_pretrained(other.model, folder.path).eval().double()
    assert torch.allclose(logits(base), logits(other, loaded), rtol=1e-5, atol=1e-5)


def test_a_folder_holds_what_is_said_of_it(plan_for, model_folder):
    folder, _ = train_task(plan_for(method="n-lora"), argv=["clora", "train-task"])
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "clora.json", "log.jsonl"}
    assert set(contents(folder.path)) == names
    assert folder.config["base_model_name_or_path"] == str(model_folder("llama"))
    assert folder.config["inference_mode"] is True
    log = [json.loads(line) for line in (folder.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3]
    assert folder.manifest.raw["scores"]["last_step"] == {key: log[-1][key] for key in ("loss", "penalty/n-lora")}


def test_past_adapters_take_part_in_training_where_the_method_wants_them(tmp_path, plan_for, backbone):
    for package in ("one", "other"):
        write_random_adapter(tmp_path / package / "second", backbone("llama"), stage=1)
    alone, _ = train_task(plan_for(method="inc-lora", package="none", max_steps=1))
    on_top, _ = train_task(plan_for(method="inc-lora", package="one", max_steps=1))
    per_task, _ = train_task(plan_for(method="per-task", package="other", max_steps=1))
    assert per_task.manifest.raw["scores"] == alone.manifest.raw["scores"] != on_top.manifest.raw["scores"]


def test_seq_lora_starts_where_the_last_adapter_ended(tmp_path, plan_for, backbone):
    past = write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1)
    folder, _ = train_task(plan_for(method="seq-lora", lr=1e-12, max_steps=1))
    for site, factor in folder.factors().items():
        assert torch.allclose(factor.delta(), past.factors()[site].delta(), atol=1e-6)


def test_seq_lora_on_other_layers_does_not_fit(tmp_path, plan_for, backbone):
    write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1, targets=["q_proj"])
    with refused("target-modules-differ", tmp_path / "adapters" / "second", "--target-modules"):
        train_task(plan_for(method="seq-lora"))
    with refused("target-modules-differ", tmp_path / "adapters" / "second", "--target-modules"):
        train_task(plan_for(method="seq-lora", target_modules=("v_proj",)))


def test_the_same_run_gives_the_same_bytes(plan_for):
    chosen = {"method": "n-lora", "dropout": 0.1}
    one, other = (train_task(plan_for(package=name, **chosen))[0] for name in ("one", "other"))
    assert contents(one.path) == contents(other.path)
    third = train_task(plan_for(package="third", seed=1, **chosen))[0]
    assert third.digest != one.digest


def test_no_two_tasks_start_alike(plan_for):
    one, other = (train_task(plan_for(task, method="per-task", lr=1e-12))[0] for task in ("first", "second"))
    for site, factor in one.factors().items():
        assert not torch.allclose(factor.a, other.factors()[site].a, atol=1e-3)


def test_all_linear_and_single_targets(plan_for):
    folder, _ = train_task(plan_for(target_modules=("all-linear",), package="all"))
    assert len(folder.factors()) == 14
    folder, _ = train_task(plan_for(target_modules=("0.self_attn.o_proj", "down_proj"), package="some"))
    assert sorted(site.removeprefix("model.layers.") for site in folder.factors()) == [
        "0.mlp.down_proj",
        "0.self_attn.o_proj",
        "1.mlp.down_proj",
    ]


def test_a_second_call_finds_the_adapter_up_to_date(plan_for):
    folder, _ = train_task(plan_for())
    before = contents(folder.path)
    again, trained = train_task(plan_for())
    assert (trained, again.digest, contents(folder.path)) == (False, folder.digest, before)


def test_other_options_are_told_and_force_replaces(plan_for):
    folder, _ = train_task(plan_for())
    before, digest = contents(folder.path), folder.digest
    with refused("output-made-differently", "training.lr 0.01 -> 0.02", "--force"):
        train_task(plan_for(lr=0.02))
    assert contents(folder.path) == before
    forced, trained = train_task(plan_for(lr=0.02), force=True)
    assert trained
    assert forced.digest != digest
    assert forced.manifest.raw["training"]["lr"] == 0.02


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_continues_to_the_same_bytes(plan_for, number):
    chosen = {"method": "o-lora+n-lora", "dropout": 0.1, "max_steps": 6, "grad_accum": 2}
    expected = contents(train_task(plan_for(package="undisturbed", **chosen))[0].path)
    plan = plan_for(**chosen)
    with refused("interrupted", "step 3 of 6", "--resume", error=InterruptedRunError) as info:
        train_task(plan, progress=Signals(after=2, number=number))
    assert info.value.exit_code == 130
    assert not plan.out.exists()
    with refused("unfinished-run-exists", plan.work, "--resume", "--force"):
        train_task(plan)
    with refused("unfinished-run-differs", plan.work, "training.lr 0.01 -> 0.5"):
        train_task(plan_for(**chosen, lr=0.5), resume=True)
    folder, _ = train_task(plan, resume=True)
    assert contents(folder.path) == expected
    assert not plan.work.exists()


def test_force_discards_an_unfinished_run(plan_for):
    with pytest.raises(InterruptedRunError):
        train_task(plan_for(), progress=Signals(after=1))
    folder, _ = train_task(plan_for(lr=0.02), force=True)
    assert folder.manifest.raw["training"]["lr"] == 0.02
    assert folder.digest == train_task(plan_for(lr=0.02, package="other"))[0].digest


def test_resume_without_an_unfinished_run_just_trains(plan_for):
    assert train_task(plan_for(), resume=True)[1]
    assert not train_task(plan_for(), resume=True)[1]


KILLED = """
import contextlib, os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from support import options_for
from clora_cli.base.progress import Silent
from clora_cli.training import make_plan, train_task

class Killed(Silent):
    steps = 0

    @contextlib.contextmanager
    def track(self, title, total):
        def advance(done, status):
            Killed.steps += 1
            if Killed.steps == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        yield advance

model, task, package = map(Path, sys.argv[2:])
options = options_for(model, task, package, method="n-lora", max_steps=6, save_steps=2)
train_task(make_plan(options), progress=Killed())
"""


def test_a_killed_run_continues_to_the_same_bytes(tmp_path, model_folder, tasks, plan_for, request):
    chosen = {"method": "n-lora", "max_steps": 6, "save_steps": 2}
    expected = contents(train_task(plan_for(package="undisturbed", **chosen))[0].path)
    arguments = [request.config.rootpath / "tests", model_folder("llama"), tasks["first"], tmp_path / "adapters"]
    result = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    plan = plan_for(**chosen)
    assert not plan.out.exists()
    assert read_package([tmp_path / "adapters"], missing_ok=True) == []
    checkpoints = sorted(path.name for path in plan.work.glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-2", "checkpoint-4"]
    # A checkpoint that was being written when the process died is passed over.
    (plan.work / "checkpoint-5").mkdir()
    folder, _ = train_task(plan, resume=True)
    assert contents(folder.path) == expected


def test_an_adapter_that_its_base_model_could_not_take_never_gets_its_name(plan_for, monkeypatch):
    def misspelled(target, tensors, *rest):
        return write_adapter(target, {key.replace("layers.1.", "layers.7."): t for key, t in tensors.items()}, *rest)

    monkeypatch.setattr("clora_cli.training.execute.write_adapter", misspelled)
    plan = plan_for(max_steps=1)
    with refused("base-model-lacks-layer", "model.layers.7."):
        train_task(plan)
    assert not plan.out.exists()


def test_a_loss_that_is_no_number_ends_the_run(plan_for, monkeypatch):
    from clora_cli.training import loop

    monkeypatch.setattr(
        loop, "answer_loss", lambda *_, **__: lambda outputs, labels, **_: outputs["logits"].sum() * float("nan")
    )
    with refused("training-diverged", "the loss is nan", "step 1", "--lr"):
        train_task(plan_for())


def test_a_penalty_that_overflows_ends_the_run(tmp_path, plan_for, backbone, monkeypatch):
    write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1)
    o_lora = registry.load("methods", "o-lora")
    real = o_lora.penalty
    monkeypatch.setattr(o_lora, "penalty", lambda *given: replace(real(*given), value=torch.tensor(torch.inf)))
    with refused("training-diverged", "the penalty of o-lora is inf", "step 1"):
        train_task(plan_for(method="o-lora"))


def test_a_run_that_fails_before_its_first_checkpoint_does_not_block_the_next(plan_for, tmp_path):
    with refused("target-modules-match-nothing", "--target-modules nope"):
        train_task(plan_for(target_modules=("nope",)))
    assert list((tmp_path / "adapters").iterdir()) == []
    assert train_task(plan_for())[1]


def test_an_inactive_penalty_warns_once(plan_for):
    listener = Signals()
    train_task(plan_for(method="o-lora+n-lora"), progress=listener)
    assert listener.warnings == ["o-lora: its penalty is inactive in this run: there is no earlier adapter"]


def test_a_penalty_without_a_common_layer_warns(tmp_path, plan_for, backbone):
    write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1, targets=["down_proj"])
    listener = Signals()
    train_task(plan_for(method="o-lora"), progress=listener)
    assert listener.warnings == [
        "o-lora: its penalty is inactive in this run: no earlier adapter shares a layer with the new one"
    ]


def test_gradient_checkpointing_gives_the_same_adapter(plan_for):
    one, other = (train_task(plan_for(package=str(flag), gradient_checkpointing=flag))[0] for flag in (False, True))
    for site, factor in one.factors().items():
        assert torch.allclose(factor.delta(), other.factors()[site].delta(), atol=1e-5)


def test_removing_a_member_unlearns_it_and_the_next_task_builds_on_the_rest(tmp_path, plan_for, model_folder, tasks):
    for task in ("first", "second"):
        train(model_folder("llama"), tasks[task], tmp_path / "adapters")
    shutil.rmtree(tmp_path / "adapters" / "first")
    folder, _ = train_task(plan_for("third"))
    assert folder.stage == 3
    assert [parent["task"] for parent in folder.manifest.raw["parents"]] == ["second"]


def test_replacing_an_early_adapter_names_those_that_stand_on_it(model_folder, tasks, tmp_path):
    for name in ("first", "second"):
        train(model_folder("llama"), tasks[name], tmp_path / "adapters")
    listener = Signals()
    plan = make_plan(options_for(model_folder("llama"), tasks["first"], tmp_path / "adapters"))
    train_task(plan, force=True, progress=listener)
    assert [text.split(" stand on")[0] for text in listener.warnings] == ["second"]
