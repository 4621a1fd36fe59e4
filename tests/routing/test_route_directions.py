"""Routing by adapters' factors alone: the directions by hand, and the choice in ``route`` and ``eval``."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from refusals import refused
from support import write_random_adapter

from clora_cli.algebra.directions import leading_input
from clora_cli.algebra.lora import Factor
from clora_cli.algebra.statistics import Moments, Prototypes
from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.model.features import prompt_ids
from clora_cli.options import EvalOptions, RouteOptions
from clora_cli.routers.arrow import Arrow
from clora_cli.routing.guide import Guide
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.testing.requirements import draw

ARROW = RouteOptions(similarity="arrow", top_k=0)


def test_the_leading_input_by_hand():
    # B A = (3, 0)^T (0, 1) + (0, 1)^T (1, 0): 3 along e2 and 1 along e1
    pair = Factor(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 0.5)
    assert torch.allclose(leading_input(pair).abs(), torch.tensor([0.0, 1.0]).double())
    assert torch.allclose(leading_input(pair.delta()).abs(), torch.tensor([0.0, 1.0]).double())
    assert not leading_input(Factor(pair.a, torch.zeros(2, 2), 1.0)).any()


def test_factors_give_what_the_whole_delta_gives():
    pair = Factor(draw(3, 9), draw(7, 3, seed=1), 2.0)
    first = torch.linalg.svd(pair.b @ pair.a).Vh[0]
    assert abs(float(first @ leading_input(pair))) == pytest.approx(1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_inputs_are_what_the_layers_take_in(backbone, tasks, tmp_path, family):
    base = backbone(family)
    members = [write_random_adapter(tmp_path / name, base, stage=stage) for stage, name in ((1, "one"), (2, "two"))]
    examples = load_task(str(tasks["first"])).test[:3]
    guide = Guide(base.reference, members, ARROW, backbone=base, batch_size=2)
    similarities = guide.routing().similarities(guide.features(examples))
    assert not any("decoder" in site for site in similarities)
    site = next(iter(similarities))
    taken = []
    handle = base.model.get_submodule(site).register_forward_pre_hook(lambda module, given: taken.append(given[0][0]))
    model = base.model.get_encoder() if family == "t5" else base.model
    for ids in prompt_ids(base, examples):
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]))
    handle.remove()
    means = torch.stack([one.mean(dim=0) for one in taken]).double()
    for place, member in enumerate(members):
        right = torch.linalg.svd(member.factors()[site].delta().double()).Vh[0]
        assert torch.allclose(similarities[site][:, place], (means @ right).abs(), rtol=1e-3, atol=1e-5)


def test_adapters_without_a_row_or_a_manifest_are_chosen_among(backbone, tasks, tmp_path, monkeypatch):
    base = backbone("llama")
    members = [
        write_random_adapter(tmp_path / "pkg" / name, base, stage=stage) for stage, name in ((1, "one"), (2, "two"))
    ]
    task = load_task(str(tasks["first"]))
    options = EvalOptions(score="labels", device="cpu", combine="route", similarity="arrow")
    scores = evaluate(members, [task], options)
    assert scores.combine == "route" and len(scores.rows) == 1
    assert not any(member.features.exists() for member in members)


def test_adapters_with_no_layer_in_common_are_refused(backbone, tmp_path):
    base = backbone("llama")
    first = write_random_adapter(tmp_path / "one", base, stage=1, targets=["q_proj"])
    second = write_random_adapter(tmp_path / "two", base, stage=2, targets=["v_proj"])
    with refused("no-layer-in-common", "--similarity l2"):
        Guide(base.reference, [first, second], ARROW, backbone=base)


def test_the_size_and_sign_of_an_adapter_do_not_matter():
    vectors, features = draw(3, 5), draw(4, 5, seed=1)
    plain, other = (
        Arrow().fit(Prototypes(Moments(1, scale * vector) for vector in vectors))(features) for scale in (1.0, -7.0)
    )
    assert torch.allclose(plain, other)


def test_a_table_of_embeddings_takes_in_tokens_and_has_no_direction(backbone, tasks, tmp_path):
    both = [_with_table(tmp_path / name, backbone("llama"), ["q_proj", "embed_tokens"]) for name in ("one", "two")]
    alone = _with_table(tmp_path / "table", backbone("llama"), ["embed_tokens"])
    base = backbone("llama")
    guide = Guide(base.reference, both, ARROW, backbone=base)
    assert {site.rpartition(".")[2] for site in guide.sites} == {"q_proj"}
    found = guide.routing().similarities(guide.features(load_task(str(tasks["first"])).test[:2]))
    assert all(one.shape == (2, 2) and bool((one > 0).all()) for one in found.values())
    with refused("no-layer-in-common"):
        Guide(base.reference, [alone], ARROW, backbone=base)


def _with_table(folder, base, targets):
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets, init_lora_weights=False)
    get_peft_model(base.model, config).save_pretrained(folder, save_embedding_layers=True)
    return read_adapter(folder)


def test_an_adapter_that_changes_nothing_is_similar_to_no_input():
    pairs = [Factor(draw(2, 9), draw(5, 2, seed=1), 2.0), Factor(draw(2, 9), torch.zeros(5, 2), 2.0)]
    found = Arrow().fit(Prototypes(Moments(1, leading_input(pair)) for pair in pairs))(draw(4, 9, seed=2))
    assert not found[:, 1].any() and bool((found[:, 0] > 0).all())
