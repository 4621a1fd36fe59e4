"""What one optimizer step computes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from support import FAMILIES, options_for, train, trainer_for, write_random_adapter

from clora_cli.training import make_plan
from clora_cli.training.arguments import training_arguments
from clora_cli.training.build import build
from clora_cli.training.loop import answer_loss
from clora_cli.training.penalties import Penalties


def first_batch(plan, built):
    return next(iter(trainer_for(plan, built).get_train_dataloader()))


def built_for(plan):
    """Build a run's model with factors away from their start, where B is 0 and half of the gradients vanish."""
    built = build(plan)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for factor in built.trainable.values():
            factor.b.copy_(torch.randn(factor.b.shape, generator=generator))
    return built


@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_model_s_own(tmp_path, model_folder, tasks, family):
    plan = make_plan(options_for(model_folder(family), tasks["first"], tmp_path))
    built = built_for(plan)
    batch = first_batch(plan, built)
    outputs = built.model(**batch)
    loss = answer_loss(shift=built.backbone.kind == "causal")
    own = loss(outputs, batch["labels"])
    assert torch.allclose(own, outputs.loss, rtol=1e-6)
    count = int((batch["labels"] != -100).sum())
    assert torch.allclose(loss(outputs, batch["labels"], torch.tensor(2 * count)), own / 2)


def test_one_process_trains_on_one_device_however_many_it_sees(tmp_path, model_folder, tasks, monkeypatch):
    plan = make_plan(options_for(model_folder("llama"), tasks["first"], tmp_path, batch_size=4))
    backbone = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, sharded=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = training_arguments(plan, backbone)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 4)


def test_the_type_asked_for_wins_over_the_launcher_s(tmp_path, model_folder, tasks, monkeypatch):
    plan = make_plan(options_for(model_folder("llama"), tasks["first"], tmp_path))
    for dtype, expected in ((torch.float32, "no"), (torch.bfloat16, "bf16")):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        arguments = training_arguments(plan, SimpleNamespace(device=torch.device("cpu"), dtype=dtype, sharded=False))
        assert arguments.mixed_precision == expected


def test_penalties_are_computed_once_a_step(tmp_path, model_folder, backbone, tasks, monkeypatch):
    write_random_adapter(tmp_path / "old", backbone("llama"), stage=1)
    plan = make_plan(options_for(model_folder("llama"), tasks["first"], tmp_path, method="n-lora"))
    built, calls = built_for(plan), []
    penalty = type(plan.method.lead).penalty
    monkeypatch.setattr(type(plan.method.lead), "penalty", lambda self, f: calls.append(1) or penalty(self, f))
    penalties = Penalties(plan.method.at("penalty"), built.trainable, built.bank)
    for _ in range(3):
        penalties.add("n-lora", {})
        penalties.end_step()
    assert len(calls) == 3 * 2  # query and value projections have different shapes


@pytest.mark.parametrize("family", FAMILIES)
def test_only_answers_are_trained(tmp_path, model_folder, tasks, family):
    plan = make_plan(options_for(model_folder(family), tasks["first"], tmp_path))
    built = build(plan)
    tokenizer = built.backbone.tokenizer
    batch = first_batch(plan, built)
    rows = [plan.rows[index] for index in plan.order[:4]]
    for row, labels, ids in zip(rows, batch["labels"], batch["input_ids"], strict=True):
        trained = labels[labels != -100]
        assert tokenizer.decode(trained[-1:]) in {"</s>", "<|endoftext|>", "[SEP]"}
        assert tokenizer.decode(trained[:-1]).strip() == row.references[0]
        if built.backbone.kind == "causal":
            at = labels != -100
            assert torch.equal(ids[at], labels[at])
            assert tokenizer.decode(ids[: int(at.nonzero()[0])], skip_special_tokens=True) == row.prompt


def printed_penalties(built):
    """Return o-lora's and n-lora's terms with their defaults, as the papers print them, for autograd."""
    total = torch.zeros(())
    for site, factor in built.trainable.items():
        past_a, _ = built.bank.past(site)
        total = total + 0.5 * ((past_a @ factor.a.T) ** 2).sum()
        size = (factor.shape[0] * factor.shape[1]) ** 0.5 * len(built.trainable)  # n-lora's is a mean over sites
        total = total + 0.4 * (factor.scaling * factor.b @ factor.a).abs().sum() / size
    return total


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_gradients_are_those_of_task_loss_plus_penalties(tmp_path, model_folder, backbone, tasks, family):
    for stage, name in enumerate(("second", "third"), start=1):
        write_random_adapter(tmp_path / name, backbone(family), stage=stage, rank=stage)
    plan = make_plan(options_for(model_folder(family), tasks["first"], tmp_path, method="o-lora+n-lora"))
    built = built_for(plan)
    batch = first_batch(plan, built)
    task_loss = built.model(**batch).loss
    parameters = [p for factor in built.trainable.values() for p in (factor.a, factor.b)]
    expected = torch.autograd.grad(task_loss + printed_penalties(built), parameters, retain_graph=True)
    task_loss.backward()
    penalties = Penalties(plan.method.at("penalty"), built.trainable, built.bank)
    for name in plan.method.parts:
        penalties.add(name, {})
    penalties.end_step()
    assert all(torch.allclose(p.grad, e, rtol=1e-4, atol=1e-5) for p, e in zip(parameters, expected, strict=True))
    assert sum(penalties.take().values()) == pytest.approx(printed_penalties(built).item(), rel=1e-5)
    assert penalties.take() == {}
    # The loss scale of mixed precision multiplies the penalties as it multiplied the task's gradient.
    before = [p.grad.clone() for p in parameters]
    for name in plan.method.parts:
        penalties.add(name, {}, scale=3.0)
    own = torch.autograd.grad(printed_penalties(built), parameters)
    for p, old, slope in zip(parameters, before, own, strict=True):
        assert torch.allclose(p.grad - old, 3 * slope, rtol=1e-3, atol=1e-4)


def test_nothing_but_the_new_adapter_is_trained(tmp_path, model_folder, backbone, tasks):
    write_random_adapter(tmp_path / "second", backbone("llama"), stage=1)
    built = build(make_plan(options_for(model_folder("llama"), tasks["first"], tmp_path)))
    trained = {name for name, p in built.model.named_parameters() if p.requires_grad}
    assert len(trained) == 8
    assert all(".lora_A.default." in name or ".lora_B.default." in name for name in trained)
    assert {p.dtype for p in built.model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_gradient_accumulation_does_not_change_the_adapter(tmp_path, model_folder, backbone, tasks, family):
    found = []
    for batch_size, grad_accum in ((8, 1), (2, 4)):
        package = tmp_path / str(grad_accum)
        write_random_adapter(package / "second", backbone(family), stage=1)
        chosen = {"method": "o-lora+n-lora", "batch_size": batch_size, "grad_accum": grad_accum, "lr": 1e-3}
        folder = train(model_folder(family), tasks["first"], package, **chosen)
        found.append((load_file(folder.path / "adapter_model.safetensors"), folder.manifest.raw["scores"]["last_step"]))
    (one, scores), (other, other_scores) = found
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-6
    assert scores == pytest.approx(other_scores, rel=1e-4)
    assert set(scores) == {"loss", "penalty/o-lora", "penalty/n-lora"}


def test_penalties_that_act_on_nothing_are_named(tmp_path, model_folder, tasks):
    plan = make_plan(options_for(model_folder("llama"), tasks["first"], tmp_path, method="o-lora+n-lora"))
    built = build(plan)
    assert Penalties(plan.method.at("penalty"), built.trainable, built.bank).inactive() == {"o-lora": False}
