"""The model as the last task left it: what it answers, that it disturbs nothing, and what is made of it."""

from __future__ import annotations

import json
import random

import pytest
import torch
from support import FAMILIES, trainer_for, write_random_adapter

from clora_cli.methods import Batch
from clora_cli.methods.lwf import Lwf
from clora_cli.model.bank import AdapterBank
from clora_cli.training import train_task
from clora_cli.training.answer_logits import answer_logits
from clora_cli.training.build import build
from clora_cli.training.fit import encoded_rows, methods_of
from clora_cli.training.loop import answer_loss
from clora_cli.training.previous import Previous


@pytest.fixture
def comparing(plan_for, backbone, tmp_path):
    """A run with an earlier adapter, its model away from its start, and a batch."""

    def make(family="llama", **chosen):
        write_random_adapter(tmp_path / "adapters" / "second", backbone(family), stage=1)
        plan = plan_for(family=family, method="lwf", **chosen)
        built = build(plan)
        with torch.no_grad():
            for factor in built.trainable.values():
                factor.b.normal_()
        batch = next(iter(trainer_for(plan, built).get_train_dataloader()))
        del batch["row"]
        if built.backbone.kind == "seq2seq":
            batch["decoder_input_ids"] = built.backbone.model.prepare_decoder_input_ids_from_labels(
                labels=batch["labels"]
            )
        return plan, built, batch

    return make


def logits_of(model, batch):
    return model(**{name: value for name, value in batch.items() if name != "labels"})["logits"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_term_is_that_of_the_base_model_with_the_last_adapter(comparing, backbone, family):
    plan, built, batch = comparing(family)
    moments = methods_of(plan, built, encoded_rows(plan, built))
    shift = built.backbone.kind == "causal"
    base = backbone(family)
    AdapterBank(base.model).activate([plan.past[0].factors()])
    with torch.no_grad():
        old, _ = answer_logits(logits_of(base.model, batch), batch["labels"], shift)
    new, tokens = answer_logits(logits_of(built.model, batch), batch["labels"], shift)
    assert not torch.allclose(new, old, atol=0.1)
    # The whole of the loss and its gradient, as autograd has them of the published formula.
    parameters = [p for factor in built.trainable.values() for p in (factor.a, factor.b)]
    divergence = torch.nn.functional.kl_div((new / 2).log_softmax(-1), (old / 2).softmax(-1), reduction="sum")
    expected = (torch.nn.functional.cross_entropy(new, tokens, reduction="sum") + 4 * divergence) / len(tokens)
    slopes = torch.autograd.grad(expected, parameters)
    outputs = built.model(**{name: value for name, value in batch.items() if name != "labels"})
    rows = torch.arange(len(batch["labels"]))
    found = answer_loss(shift, lambda *given: moments.loss(Batch(batch, rows, *given)))(outputs, batch["labels"])
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    for own, slope in zip(torch.autograd.grad(found, parameters), slopes, strict=True):
        assert torch.allclose(own, slope, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))
    device = torch.device("cpu")
    assert moments.take(device) == {"penalty/lwf": pytest.approx(4 * divergence.item() / len(tokens), rel=1e-3)}
    assert moments.take(device) == {}


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_nothing_is_disturbed(comparing, family):
    plan, built, batch = comparing(family, dropout=0.3)
    built.model.train()
    before = torch.random.fork_rng()
    with before:
        torch.manual_seed(1)
        expected = logits_of(built.model, batch)
    previous = Previous(built, plan.past[0].factors())
    modes = [module.training for module in built.model.modules()]
    wanted = [parameter.requires_grad for parameter in built.model.parameters()]
    torch.manual_seed(1)
    states = (torch.get_rng_state(), random.getstate())
    previous.logits(batch)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert modes == [module.training for module in built.model.modules()]
    assert wanted == [parameter.requires_grad for parameter in built.model.parameters()]
    assert torch.equal(logits_of(built.model, batch), expected)


def test_at_the_first_task_there_is_nothing_to_compare_with(plan_for):
    digests = {train_task(plan_for(method=method, package=method))[0].digest for method in ("lwf", "seq-lora")}
    assert len(digests) == 1


@pytest.mark.parametrize("chosen", [{"dropout": 0.2}, {"family": "t5"}, {"dtype": "bfloat16"}], ids=str)
def test_a_strength_of_0_is_seq_lora_to_the_last_bit(plan_for, backbone, tmp_path, chosen):
    found = []
    for method, options in (("seq-lora", {}), ("lwf", {"strength": "0"})):
        write_random_adapter(tmp_path / method / "second", backbone(chosen.get("family", "llama")), stage=1)
        plan = plan_for(package=method, method=method, method_options=options, grad_accum=2, **chosen)
        found.append(train_task(plan)[0])
    assert found[0].digest == found[1].digest
    losses = [folder.manifest.raw["scores"]["last_step"] for folder in found]
    assert losses[1] == {"loss": losses[0]["loss"], "penalty/lwf": 0}


def test_the_task_s_loss_and_the_term_are_logged_apart(plan_for, backbone, tmp_path):
    write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1)
    folder, _ = train_task(plan_for(method="lwf", method_options={"strength": "20"}, max_steps=6))
    log = [json.loads(line) for line in (folder.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert abs(log[0]["penalty/lwf"]) < 1e-4  # the new model is still the old one
    assert log[-1]["penalty/lwf"] > 1e-3
    write_random_adapter(tmp_path / "other" / "second", backbone("llama"), stage=1)
    plain, _ = train_task(plan_for(method="seq-lora", package="other", max_steps=6))
    first = json.loads((plain.path / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert log[0]["loss"] == pytest.approx(first["loss"], rel=1e-5)


def test_a_great_strength_keeps_the_old_answers(plan_for, backbone, tmp_path):
    moved = {}
    for name, options in (("seq-lora", {}), ("lwf", {"strength": "1000"})):
        past = write_random_adapter(tmp_path / name / "second", backbone("llama"), stage=1)
        plan = plan_for(package=name, method=name, method_options=options, max_steps=20, lr=2e-3)
        folder, built = train_task(plan)[0], build(plan)
        batch = next(iter(trainer_for(plan, built).get_train_dataloader()))
        del batch["row"]
        answers = []
        for adapter in (past, folder):
            base = backbone("llama")
            AdapterBank(base.model).activate([adapter.factors()])
            with torch.no_grad():
                answers.append(
                    answer_logits(logits_of(base.model, batch), batch["labels"], shift=True)[0].log_softmax(-1)
                )
        moved[name] = Lwf().divergence(answers[1], answers[0]).item()
    assert moved["lwf"] < 0.2 * moved["seq-lora"]
