"""How strongly the layers answer, and gradients filtered by it: what is watched, what is left, what costs nothing."""

from __future__ import annotations

import pytest
import torch
from support import FAMILIES, run_of, trainer_for, write_random_adapter

from clora_cli.training import train_task
from clora_cli.training.activities import Magnitudes
from clora_cli.training.build import build


@pytest.fixture
def watched(plan_for):
    """A run's model whose layers are watched, and the batches of its first step."""

    def make(family="llama", **chosen):
        plan = plan_for(family=family, method="migu", **chosen)
        built = build(plan)
        with torch.no_grad():
            for factor in built.trainable.values():
                factor.b.normal_()
        magnitudes = Magnitudes(built)
        batches = []
        for batch in trainer_for(plan, built).get_train_dataloader():
            batch.pop("row")
            if built.backbone.kind == "seq2seq":
                labels = batch["labels"]
                batch["decoder_input_ids"] = built.backbone.model.prepare_decoder_input_ids_from_labels(labels=labels)
            batches.append(batch)
        return built, magnitudes, batches

    return make


def run(built, inputs):
    return built.model(**{name: value for name, value in inputs.items() if name != "labels"})["logits"]


def outputs_of(built, site, inputs):
    """Return what a site's lora_A and the whole layer answer to each row alone, padding taken off."""
    found = {"a": [], "b": []}
    layer = built.backbone.model.get_submodule(site)
    hooks = [
        layer.lora_A["default"].register_forward_hook(lambda *given: found["a"].append(given[-1].detach())),
        layer.register_forward_hook(lambda *given: found["b"].append(given[-1].detach())),
    ]
    for row in range(len(inputs["input_ids"])):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        length, answer = int(alone["attention_mask"].sum()), int((alone["labels"] != -100).sum())
        cut = {name: value[:, :length] for name, value in alone.items()}
        if "decoder_input_ids" in alone:
            cut |= {name: alone[name][:, :answer] for name in ("labels", "decoder_input_ids")}
        run(built, cut)
    for hook in hooks:
        hook.remove()
    return {side: torch.cat([output[0] for output in outputs]) for side, outputs in found.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_magnitudes_are_means_over_all_tokens_of_a_step_but_padding(watched, family):
    built, magnitudes, batches = watched(family)
    for batch in batches[:2]:  # two micro-batches, padded to different lengths
        with magnitudes.watching(batch) as inputs:
            run(built, inputs)
    activities = magnitudes.take()
    sites = sorted(built.trainable)
    groups = {}
    for site in sites:
        groups.setdefault((built.trainable[site].rank, built.trainable[site].shape[0]), []).append(site)
    assert [activity.sites for activity in activities] == list(groups.values())
    for activity, group in zip(activities, groups.values(), strict=True):
        for index, site in enumerate(group):
            parts = [outputs_of(built, site, batch) for batch in batches[:2]]
            for side in ("a", "b"):
                expected = torch.cat([part[side] for part in parts]).abs().mean(dim=0)
                assert torch.allclose(getattr(activity, side)[index], expected, rtol=1e-3, atol=1e-4)


def test_only_watched_passes_count_and_nothing_outlasts_a_step(watched):
    built, magnitudes, batches = watched()
    for batch in batches[:2]:
        run(built, batches[2])
        with magnitudes.watching(batch) as inputs:
            run(built, inputs)
        last = magnitudes.take()
    fresh = watched()
    for site, factor in fresh[0].trainable.items():
        factor.b.data.copy_(built.trainable[site].b)
    with fresh[1].watching(batches[1]) as inputs:
        run(fresh[0], inputs)
    for old, new in zip(last, fresh[1].take(), strict=True):
        assert torch.equal(old.a, new.a) and torch.equal(old.b, new.b)


def test_rows_of_the_gradients_are_multiplied(plan_for):
    plan = plan_for(method="migu")
    built = build(plan)
    for factor in built.trainable.values():
        factor.a.grad, factor.b.grad = torch.full_like(factor.a, 2.0), torch.full_like(factor.b, 3.0)
    first, *others = sorted(built.trainable)
    factor = built.trainable[first]
    run_of(plan, built).scale_rows([first], torch.tensor([[1.0, 0.0]]), torch.zeros(1, len(factor.b)))
    assert factor.a.grad[0].eq(2).all() and factor.a.grad[1].eq(0).all() and factor.b.grad.eq(0).all()
    assert all(built.trainable[site].b.grad.eq(3).all() for site in others)


def test_prompts_as_long_as_answers_are_told_apart(watched):
    built, magnitudes, _ = watched("t5")
    ids = torch.tensor([[5, 6, 7, 1], [8, 1, 0, 0]])
    labels = torch.tensor([[9, 1, -100, -100], [4, 5, 6, 1]])
    shift = built.backbone.model.prepare_decoder_input_ids_from_labels(labels=labels)
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels, "decoder_input_ids": shift}
    with magnitudes.watching(batch) as inputs:
        run(built, inputs)
    (activity,) = magnitudes.take()
    sites = [site for site in sorted(built.trainable) if "EncDecAttention" in site]
    assert sites
    for index, site in enumerate(sorted(built.trainable)):
        expected = outputs_of(built, site, batch)["b"].abs().mean(dim=0)
        assert torch.allclose(activity.b[index], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("chosen", [{"dropout": 0.2}, {"family": "t5"}, {"dtype": "bfloat16"}], ids=str)
def test_a_share_of_1_is_seq_lora_to_the_last_bit(plan_for, backbone, tmp_path, chosen):
    digests = set()
    for method, options in (("seq-lora", {}), ("migu", {"share": "1"})):
        write_random_adapter(tmp_path / method / "second", backbone(chosen.get("family", "llama")), stage=1)
        plan = plan_for(package=method, method=method, method_options=options, grad_accum=2, **chosen)
        digests.add(train_task(plan)[0].digest)
    assert len(digests) == 1


def test_a_share_of_0_trains_nothing(plan_for, backbone, tmp_path):
    past = write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1)
    folder, _ = train_task(plan_for(method="migu", method_options={"share": "0"}))
    for site, factor in folder.factors().items():
        assert torch.equal(factor.a, past.factors()[site].a)
        assert torch.equal(factor.b, past.factors()[site].b)


def test_one_step_moves_the_strongest_rows_alone(plan_for, backbone, tmp_path):
    past = write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1)
    folder, _ = train_task(plan_for(method="migu", max_steps=1))
    for site, factor in folder.factors().items():
        moved = (factor.b != past.factors()[site].b).any(dim=1)
        assert int(moved.sum()) == len(moved) - int(0.7 * len(moved))
        assert int((factor.a != past.factors()[site].a).any(dim=1).sum()) == 1  # of two


def test_checkpointed_activations_are_watched_once(plan_for, backbone, tmp_path):
    found = []
    for flag in (False, True):
        write_random_adapter(tmp_path / str(flag) / "second", backbone("llama"), stage=1)
        found.append(train_task(plan_for(method="migu", package=str(flag), gradient_checkpointing=flag))[0].factors())
    for site, factor in found[0].items():
        assert torch.allclose(factor.delta(), found[1][site].delta(), atol=1e-5)
