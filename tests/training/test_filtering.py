"""Gradients filtered by how strongly the layers answered: what is watched, what is left, what costs nothing."""

from __future__ import annotations

import pytest
import torch
from support import FAMILIES, write_random_adapter

from clora_cli.methods import Method
from clora_cli.training import train_task
from clora_cli.training.build import build
from clora_cli.training.execute import _items, _trainer
from clora_cli.training.filtering import GradientFilter


class Watcher(Method):
    """Leaves the first half of the rows, and keeps what it was shown."""

    def __init__(self):
        object.__setattr__(self, "seen", [])

    def filter_gradients(self, activity):
        self.seen.append(activity)
        return tuple(
            (torch.arange(m.shape[1]) < m.shape[1] // 2).float().expand_as(m) for m in (activity.a, activity.b)
        )


@pytest.fixture
def watched(plan_for):
    """A run's model with a filter, and the batches of its first step."""

    def make(family="llama", **chosen):
        plan = plan_for(family=family, method="migu", **chosen)
        built = build(plan)
        with torch.no_grad():
            for factor in built.trainable.values():
                factor.b.normal_()
        watcher = Watcher()
        filtering = GradientFilter(built, {"watcher": watcher}, first=True)
        batches = []
        for batch in _trainer(plan, built, _items(plan, built), penalties=None).get_train_dataloader():
            batch.pop("row")
            if built.backbone.kind == "seq2seq":
                labels = batch["labels"]
                batch["decoder_input_ids"] = built.backbone.model.prepare_decoder_input_ids_from_labels(labels=labels)
            batches.append(batch)
        return built, filtering, watcher, batches

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
    built, filtering, watcher, batches = watched(family)
    for batch in batches[:2]:  # two micro-batches, padded to different lengths
        with filtering.watching(batch) as inputs:
            run(built, inputs)
    filtering.apply()
    sites = sorted(built.trainable)
    groups = {}
    for site in sites:
        groups.setdefault((built.trainable[site].rank, built.trainable[site].shape[0]), []).append(site)
    assert len(watcher.seen) == len(groups)
    for activity, group in zip(watcher.seen, groups.values(), strict=True):
        for index, site in enumerate(group):
            parts = [outputs_of(built, site, batch) for batch in batches[:2]]
            for side in ("a", "b"):
                expected = torch.cat([part[side] for part in parts]).abs().mean(dim=0)
                assert torch.allclose(getattr(activity, side)[index], expected, rtol=1e-3, atol=1e-4)


def test_only_watched_passes_count_and_nothing_outlasts_a_step(watched):
    built, filtering, watcher, batches = watched()
    for batch in batches[:2]:
        run(built, batches[2])
        with filtering.watching(batch) as inputs:
            run(built, inputs)
        filtering.apply()
    half = len(watcher.seen) // 2
    fresh = watched()
    with fresh[1].watching(batches[1]) as inputs:
        run(fresh[0], inputs)
    fresh[1].apply()
    for old, new in zip(watcher.seen[half:], fresh[2].seen, strict=True):
        assert old.b.shape == new.b.shape


def test_rows_of_the_gradients_are_multiplied(watched):
    built, filtering, _, batches = watched()
    with filtering.watching(batches[0]) as inputs:
        run(built, inputs).square().sum().backward()
    before = {site: (factor.a.grad.clone(), factor.b.grad.clone()) for site, factor in built.trainable.items()}
    filtering.apply()
    for site, factor in built.trainable.items():
        for gradient, old in zip((factor.a.grad, factor.b.grad), before[site], strict=True):
            half = len(gradient) // 2
            assert torch.equal(gradient[:half], old[:half])
            assert bool(old[half:].any()) and not bool(gradient[half:].any())


def test_prompts_as_long_as_answers_are_told_apart(watched):
    built, filtering, watcher, _ = watched("t5")
    ids = torch.tensor([[5, 6, 7, 1], [8, 1, 0, 0]])
    labels = torch.tensor([[9, 1, -100, -100], [4, 5, 6, 1]])
    shift = built.backbone.model.prepare_decoder_input_ids_from_labels(labels=labels)
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels, "decoder_input_ids": shift}
    with filtering.watching(batch) as inputs:
        run(built, inputs)
    filtering.apply()
    sites = [site for site in sorted(built.trainable) if "EncDecAttention" in site]
    assert sites
    for index, site in enumerate(sorted(built.trainable)):
        expected = outputs_of(built, site, batch)["b"].abs().mean(dim=0)
        assert torch.allclose(watcher.seen[0].b[index], expected, rtol=1e-3, atol=1e-4)


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
