"""What training leaves out changes neither loss nor gradients."""

from __future__ import annotations

import contextlib

import pytest
import torch
from routed import give_distribution
from support import FAMILIES, trainer_for, write_random_adapter

from clora_cli.data import load_task
from clora_cli.model.output_layer import output_layer
from clora_cli.training.build import build
from clora_cli.training.sparing import Sparing


def begun(plan):
    """Return the Trainer of a run in float64 whose methods have begun, and its model with factors away from their start."""
    built = build(plan)
    trainer = trainer_for(plan, built)
    trainer._moments.begin(None, None)
    built.model.double()
    if built.bank.sites:
        built.bank.activate([member.factors() for member in built.past])  # once more, in float64
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for factor in built.trainable.values():
            factor.b.copy_(torch.randn(factor.b.shape, generator=generator))
    return trainer, built


def loss_and_gradients(trainer, built, batch):
    loss = trainer.compute_loss(built.model.train(), dict(batch), num_items_in_batch=torch.tensor(9))
    tensors = [tensor for factor in built.trainable.values() for tensor in (factor.a, factor.b)]
    return loss.detach(), torch.autograd.grad(loss, [tensor for tensor in tensors if tensor.requires_grad])


@contextlib.contextmanager
def plain(trainer, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Sparing, "forward", lambda self, inputs: contextlib.nullcontext(dict(inputs)))
        yield


def same(trainer, built, batch, monkeypatch):
    """Check that a step is the plain one; return the numbers of vectors that the output layer took, plainly and not."""
    widths = []
    handle = output_layer(built.model).register_forward_hook(
        lambda module, given, output: widths.append(output.numel() // output.shape[-1])
    )
    with plain(trainer, monkeypatch):
        expected, slopes = loss_and_gradients(trainer, built, batch)
    found, own = loss_and_gradients(trainer, built, batch)
    handle.remove()
    assert torch.allclose(found, expected, rtol=1e-10)
    for one, other in zip(own, slopes, strict=True):
        # Llama normalises in float32 whatever its type.
        assert (one - other).norm() <= (
            1e-6 if "Llama" in type(built.backbone.model).__name__ else 1e-11
        ) * other.norm()
        assert other.any()
    return widths


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_layer_computes_answers_alone(plan_for, backbone, tmp_path, family, monkeypatch):
    write_random_adapter(tmp_path / "adapters" / "second", backbone(family), stage=1)
    trainer, built = begun(plan_for(family=family, method="inc-lora"))
    batch = next(iter(trainer.get_train_dataloader()))
    whole, *_, spared = same(trainer, built, batch, monkeypatch)
    assert whole == batch["labels"].numel()
    assert spared == int((batch["labels"] != -100).sum())


def test_a_method_that_compares_logits_gets_the_same(plan_for, backbone, tmp_path, monkeypatch):
    write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1)
    trainer, built = begun(plan_for(method="lwf"))
    same(trainer, built, next(iter(trainer.get_train_dataloader())), monkeypatch)
    assert trainer._moments.last > 0


@pytest.mark.parametrize(("row_by_row", "positions"), [(False, 3), (True, 12)])
def test_an_adapted_output_layer_that_is_weighed_row_by_row_sees_all_positions(plan_for, row_by_row, positions):
    plan = plan_for(target_modules=("q_proj", "lm_head"))
    built = build(plan)
    labels = torch.full((2, 6), -100)
    labels[0, 3:5], labels[1, 5] = 4, 4
    sparing = Sparing(built, plan.options, lambda: row_by_row)
    with sparing.forward({"input_ids": labels.clamp(min=3), "labels": labels}) as inputs:
        logits = built.model(input_ids=inputs["input_ids"]).logits
    assert logits[..., 0].numel() == positions


def with_common_start(batch):
    """Return a causal batch whose rows begin with the same eight tokens of their own kind."""
    start = batch["input_ids"][:1, :8].repeat(len(batch["input_ids"]), 1)
    fill = {"input_ids": start, "attention_mask": start * 0 + 1, "labels": start * 0 - 100}
    return {name: torch.cat([fill[name], one], dim=1) if name in fill else one for name, one in batch.items()}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["inc-lora", "lwf", "cast", "o-lora"])
def test_what_rows_begin_with_is_run_once(plan_for, backbone, tmp_path, family, method, monkeypatch):
    if method != "cast":
        write_random_adapter(tmp_path / "adapters" / "second", backbone(family), stage=1)
    trainer, built = begun(plan_for(family=family, method=method))
    batch = with_common_start(next(iter(trainer.get_train_dataloader())))
    assert len(batch["input_ids"]) == 4
    read = []
    built.backbone.model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].shape))
    same(trainer, built, batch, monkeypatch)
    read.clear()
    loss_and_gradients(trainer, built, batch)
    (rows, first), (others, rest), *_ = read  # and the previous model's pass, where a method asks it
    assert (rows, others, first + rest) == (1, 4, batch["input_ids"].shape[1])
    assert first >= 8


ODD = {
    "all rows alike": lambda batch: {name: one[:1].repeat(4, *[1] * (one.ndim - 1)) for name, one in batch.items()},
    "one row": lambda batch: {name: one[:1] for name, one in batch.items()},
    "prompts and answers of one token": lambda batch: {
        "input_ids": torch.tensor([[5, 1], [5, 6], [7, 1]]),
        "attention_mask": torch.ones(3, 2, dtype=torch.long),
        "labels": torch.tensor([[-100, 1], [-100, 6], [-100, 1]]),
        "row": torch.arange(3),
    },
    "an answer that begins with what others ask": lambda batch: {
        "input_ids": torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 1]]),
        "attention_mask": torch.ones(2, 5, dtype=torch.long),
        "labels": torch.tensor([[-100, -100, -100, -100, 9], [-100, 6, 7, 8, 1]]),
        "row": torch.arange(2),
    },
}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_batches_are_trained_on_as_whole_ones(plan_for, backbone, tmp_path, family, kind, monkeypatch):
    write_random_adapter(tmp_path / "adapters" / "second", backbone(family), stage=1)
    trainer, built = begun(plan_for(family=family, method="inc-lora"))
    batch = ODD[kind](with_common_start(next(iter(trainer.get_train_dataloader()))))
    same(trainer, built, batch, monkeypatch)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["prog-prompt", "dual-prompt"])
def test_virtual_tokens_that_all_rows_begin_with_are_run_once(plan_for, family, method, monkeypatch):
    plan = plan_for(family=family, method=method)
    built = build(plan)
    trainer = trainer_for(plan, built)
    trainer._moments.begin(None, None)
    own = [tensor for run in trainer._moments._runs.values() for tensor in run.own.values()]
    with torch.no_grad():
        for tensor in own:  # a layer that starts at 0 gives others no gradient
            tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7)) * 0.1)
    batch = next(iter(trainer.get_train_dataloader()))
    read, found = [], []
    built.backbone.model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].shape))
    for way in (plain(trainer, monkeypatch), contextlib.nullcontext()):
        with way:
            read.clear()
            loss = trainer.compute_loss(built.model.train(), dict(batch), num_items_in_batch=torch.tensor(9))
            found.append([loss.detach(), *torch.autograd.grad(loss, own)])
    assert read[-2][0] == 1 and read[-1][0] == 4
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() and other.any()


@pytest.mark.parametrize(
    "chosen",
    [
        {"dropout": 0.1},
        {"base_dropout": True},
        {"gradient_checkpointing": True},
        {"method": "migu", "method_options": {"first": "true"}},
        {"method": "pfd"},
    ],
    ids=lambda chosen: next(iter(chosen)) + str(next(iter(chosen.values()))),
)
def test_a_beginning_is_not_shared_where_rows_differ_in_more_than_tokens(plan_for, backbone, tasks, tmp_path, chosen):
    base = backbone("llama")
    past = write_random_adapter(tmp_path / "adapters" / "second", base, stage=1)
    give_distribution(past.path, base, load_task(str(tasks["second"])).train, data="second")
    trainer, built = begun(plan_for(**{"method": "inc-lora", **chosen}))
    batch = with_common_start(next(iter(trainer.get_train_dataloader())))
    read = []
    built.backbone.model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].shape))
    loss_and_gradients(trainer, built, batch)
    assert read[0][0] == 4
