"""Task vectors: E(x) against each prompt alone, the loss by hand and by finite differences, what is learned."""

from __future__ import annotations

import math

import pytest
import torch
from parts import write_parts
from refusals import refused
from safetensors.torch import save_file
from support import random_factors, sentences, write_random_adapter
from torch.nn import functional

from clora_cli.data import Example
from clora_cli.model.backbone import load_skeleton
from clora_cli.model.bank import AdapterBank
from clora_cli.model.features import prompt_ids
from clora_cli.model.task_vectors import (
    KEY,
    embedding_site,
    embeddings,
    learn_task_vector,
    read_task_vector,
    routing_loss,
    table_of,
)
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.side_files import STATE

SITES = {
    "llama": "model.embed_tokens",
    "gpt2": "transformer.wte",
    "t5": "encoder.embed_tokens",
    "encoder-decoder": "encoder.embeddings.word_embeddings",
    "bert": "bert.embeddings.word_embeddings",
}
EXAMPLES = [Example("Choose a word.\n", text, "\nAnswer:", (label,)) for text, label in sentences(3, 9)]


def directions(*rows):
    return functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


def around(centre, count=40, spread=0.3, seed=0):
    """Return unit vectors about a direction."""
    noise = spread * torch.randn(count, len(centre), generator=torch.Generator().manual_seed(seed))
    return functional.normalize(centre + noise / math.sqrt(len(centre)), dim=1)


def steps(count, rows, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, rows, (size,), generator=generator).tolist() for _ in range(count)]


@pytest.mark.parametrize("family", SITES)
def test_an_inputs_embedding_is_the_normalised_mean_of_its_tokens_rows_of_the_table(backbone, family):
    base = backbone(family)
    ids = prompt_ids(base, EXAMPLES)
    assert len({len(tokens) for tokens in ids}) > 3
    assert embedding_site(base) == table_of(load_skeleton(base.reference), base.kind) == SITES[family]
    table = base.model.get_submodule(SITES[family]).weight
    expected = torch.stack([functional.normalize(table[tokens].mean(dim=0), dim=0) for tokens in ids])
    found = embeddings(base, ids)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert torch.allclose(found, expected, atol=1e-6)


def test_no_block_is_run_and_no_adapter_seen(backbone):
    base, run = backbone("llama"), []
    ids = prompt_ids(base, EXAMPLES)
    before = embeddings(base, ids)
    AdapterBank(base.model).activate([random_factors(base.model, 1, 2)])
    base.model.model.layers[0].register_forward_pre_hook(lambda *_: run.append(0))
    assert torch.equal(embeddings(base, ids), before)
    assert run == []


def test_the_first_tasks_loss_is_one_minus_the_cosine():
    """(1 - 0.6 + 1 - 0.8) / 2 for (3, 4) against the two axes, of whatever length it is."""
    inputs = directions([1.0, 0.0], [0.0, 1.0])
    for length in (1.0, 5.0):
        vector = length * torch.tensor([0.6, 0.8], dtype=torch.float64)
        assert routing_loss(vector, inputs, torch.empty(0, 2, dtype=torch.float64), 7.0).item() == pytest.approx(0.3)


def test_later_tasks_compare_with_the_nearest_earlier_vector():
    """E = (1, 0): s_pos = 0.6, s_neg = max(0, -1, 0.8); softplus(0.8 - 0.6 + 0.1) = ln(1 + e^0.3)."""
    inputs, vector = directions([1.0, 0.0]), torch.tensor([0.6, 0.8], dtype=torch.float64)
    past = directions([0.0, 1.0], [-1.0, 0.0], [0.8, 0.6])
    found = routing_loss(vector, inputs, past, 0.1).item()
    assert found == pytest.approx(math.log1p(math.exp(0.3)))
    assert routing_loss(vector, inputs, past[:2], 0.1).item() == pytest.approx(math.log1p(math.exp(-0.5)))


@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_the_gradient_is_that_of_finite_differences_and_tangent_to_the_sphere(earlier):
    generator = torch.Generator().manual_seed(earlier)
    inputs, past = (
        functional.normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64), dim=1)
        for count in (7, earlier)
    )
    vector = functional.normalize(torch.randn(5, generator=generator, dtype=torch.float64), dim=0).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: routing_loss(v, inputs, past, 0.1), vector)
    (gradient,) = torch.autograd.grad(routing_loss(vector, inputs, past, 0.1), vector)
    assert gradient.abs().max() > 0.01
    assert abs((gradient @ vector).item()) < 1e-12


def test_the_gradient_by_hand():
    """One input (1, 0) and v = (0, 1): the tangent part of -sigmoid(s_neg - s_pos + m) E is along (-1, 0)."""
    inputs, vector = directions([1.0, 0.0]), torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(routing_loss(vector, inputs, inputs[:0], 0.1), vector)
    assert first.tolist() == [-1.0, 0.0]
    (later,) = torch.autograd.grad(routing_loss(vector, inputs, directions([0.6, 0.8]), 0.1), vector)
    assert later.tolist() == pytest.approx([-1 / (1 + math.exp(-0.7)), 0.0])


def test_the_first_vector_comes_to_lie_amid_its_inputs():
    """The sphere's minimum of the mean of 1 - <E, v> is the direction of the inputs' sum."""
    inputs = around(torch.randn(64, generator=torch.Generator().manual_seed(5)))
    found = learn_task_vector(inputs, inputs[:0], steps(300, 40))
    assert (found.shape, found.dtype) == ((64,), torch.float32)
    assert found.norm().item() == pytest.approx(1, abs=1e-6)
    assert (found @ functional.normalize(inputs.sum(dim=0), dim=0)).item() > 0.999


def test_a_later_vector_turns_to_those_inputs_that_the_past_attracts():
    """Half of the inputs lie near an earlier task's vector: the loss weighs them more, as eq. 10 means it."""
    first, second = directions([1.0, 0.2, 0.0], [1.0, -0.2, 0.0]).float()
    inputs = torch.cat([around(first, spread=0.02), around(second, spread=0.02, seed=1)])
    past = directions([1.0, 0.4, 0.0]).float()
    batches = [list(range(80))] * 400
    alone = learn_task_vector(inputs, past[:0], batches)
    beside = learn_task_vector(inputs, past, batches)
    assert (beside @ first) - (beside @ second) > (alone @ first) - (alone @ second) + 1e-3
    assert (inputs @ beside > (inputs @ past[0]) - 0.2).all()


def test_one_step_is_one_step_of_adam_and_its_projection():
    """Adam's first step moves every coordinate by the rate, against the gradient's sign."""
    inputs = around(torch.ones(6))
    generator = torch.Generator().manual_seed(3)
    start = functional.normalize(torch.randn(6, generator=generator, dtype=torch.float64), dim=0).requires_grad_()
    (gradient,) = torch.autograd.grad(routing_loss(start, inputs[:4].double(), inputs[:0].double(), 0.1), start)
    expected = functional.normalize(start.detach() - 0.05 * gradient.sign(), dim=0)
    found = learn_task_vector(inputs, inputs[:0], [[0, 1, 2, 3]], lr=0.05, seed=3)
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_another_seed_another_vector():
    inputs, past = around(torch.ones(16)), around(torch.ones(16), 2, seed=2)
    kept = past.clone(), inputs.clone()
    once, again, other = (learn_task_vector(inputs, past, steps(5, 40), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(past, kept[0]) and torch.equal(inputs, kept[1])


def test_it_learns_where_gradients_are_switched_off():
    inputs = around(torch.ones(8))
    with torch.no_grad():
        found = learn_task_vector(inputs, inputs[:0], steps(60, 40), lr=0.05)
    assert (found @ functional.normalize(torch.ones(8), dim=0)).item() > 0.95


def test_an_adapters_vector_is_read_alone(tmp_path, backbone):
    base = backbone("llama")
    folder = write_parts(tmp_path / "package", base, ["first"], [torch.arange(32.0)]) / "first"
    found = read_task_vector(read_adapter(folder))
    assert torch.allclose(found, functional.normalize(torch.arange(32.0), dim=0))
    assert read_task_vector(write_random_adapter(tmp_path / "other", base, stage=1)) is None


@pytest.mark.parametrize("wrong", [torch.zeros(4), torch.ones(2, 2), torch.tensor([1.0, math.nan])])
def test_what_is_no_direction_is_refused(tmp_path, backbone, wrong):
    folder = write_random_adapter(tmp_path / "first", backbone("llama"), stage=1)
    save_file({KEY: wrong}, folder.path / STATE)
    with refused("task-vector-damaged", folder.path):
        read_task_vector(folder)


def test_a_damaged_state_is_told(tmp_path, backbone):
    folder = write_random_adapter(tmp_path / "first", backbone("llama"), stage=1)
    (folder.path / STATE).write_bytes(b"nothing")
    with refused("tensor-file-damaged", "state.clora"):
        read_task_vector(folder)
