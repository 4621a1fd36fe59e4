"""What prompts share is read once, and answers, ranks and features are those of prompts read whole."""

from __future__ import annotations

import pytest
import torch
from routed import give_distribution
from support import write_random_adapter, write_task

from clora_cli.algebra.lora import Factor
from clora_cli.data import load_task
from clora_cli.evaluation.answers import generate, rank_labels
from clora_cli.evaluation.likelihoods import Likelihoods
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.bank import AdapterBank
from clora_cli.model.features import prompt_sites, read_features
from clora_cli.model.linear_layers import find_sites
from clora_cli.options import RouteOptions
from clora_cli.routing.guide import Guide
from clora_cli.routing.routed_adapters import RoutedAdapters

START = "all of these are short notes on what was seen: "


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return load_task(str(write_task(tmp_path_factory.mktemp("shared") / "task", seed=7, test=30, start=START)))


def with_adapter(base):
    generator = torch.Generator().manual_seed(3)
    bank = AdapterBank(base.model)
    factors = {
        site: Factor(torch.randn(2, shape[1], generator=generator), torch.randn(shape[0], 2, generator=generator), 0.2)
        for site, shape in find_sites(base.model).items()
    }
    bank.activate([factors])
    return bank


def read_by(base, work):
    """Return what some work gives with prompts read whole, what it gives with what they share, and the tokens read then."""
    embedded, passes = base.model.get_input_embeddings(), []
    found = []
    for shares in (False, True):
        base.sharing.shares = shares
        work()  # once, what the model can share is tried out
        passes.clear()
        handle = embedded.register_forward_hook(lambda _, given, __: passes.append(tuple(given[0].shape)))
        found.append(work())
        handle.remove()
        found.append(list(passes))
    return found


def tokens(passes):
    return sum(rows * width for rows, width in passes)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_labels_and_answers_are_those_of_prompts_read_whole(backbone, task, family, batch_size):
    base = backbone(family)
    base.model.double()
    with_adapter(base)
    prompts = Prompts.encode(base, task, task.test, 96, batch_size)
    for work in (
        lambda: rank_labels(prompts, task.labels, lambda rows: None),
        lambda: generate(prompts, 5, lambda rows: None),
    ):
        whole, whole_passes, shared, passes = read_by(base, work)
        assert shared == whole
        assert len(set(whole)) > 1
        assert tokens(passes) < 0.8 * tokens(whole_passes)
        assert passes[0][0] == 1  # the beginning


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_likelihoods_are_those_of_prompts_read_whole(backbone, task, family, dtype, bound):
    base = backbone(family)
    base.model.to(dtype)
    with_adapter(base)
    prompts = Prompts.encode(base, task, task.test, 96, 8)
    alone = Likelihoods(base, prompts.labels)
    together = Likelihoods(base, prompts.labels, prompts.ids)
    assert together.behind > 0 == alone.behind
    with torch.no_grad():
        begun = prompts.begin(together.behind)
        expected = {
            row: one for rows, batch in prompts.batches() for row, one in zip(rows, alone.of(batch), strict=True)
        }
        for rows, batch in prompts.batches(begun):
            for row, one in zip(rows, together.of(batch, begun), strict=True):
                assert torch.allclose(one, expected[row], rtol=0, atol=bound * expected[row].abs().max().item())


@pytest.mark.parametrize("pool", ["prompt-mean", "last"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_features_are_those_of_prompts_read_whole(backbone, task, family, pool):
    base = backbone(family)
    with_adapter(base)
    prompts = Prompts.encode(base, task, task.test, 96, 8)
    sites = prompt_sites(base, find_sites(base.model))

    def features():
        return {
            (row, site): vector
            for rows, found in read_features(base, prompts.ids, sites, pool=pool, batch_size=8)
            for site, vectors in found.items()
            for row, vector in zip(rows, vectors, strict=True)
        }

    whole, whole_passes, shared, passes = read_by(base, features)
    assert tokens(passes) < 0.8 * tokens(whole_passes)
    for key, vector in whole.items():
        assert torch.allclose(shared[key], vector, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("source", "top_k", "behind"), [("base", 1, True), ("base", 0, True), ("adapted", 0, False)])
def test_adapters_that_are_weighed_row_by_row_read_whole_prompts(
    backbone, tasks, task, tmp_path, source, top_k, behind
):
    base, members = backbone("llama"), []
    for stage, name in enumerate(("first", "second"), start=1):
        member = write_random_adapter(tmp_path / name, base, stage=stage, alpha=16)
        give_distribution(member.path, base, load_task(str(tasks[name])).train, data=name, source=source)
        members.append(member)
    base.model.double()
    bank = AdapterBank(base.model)
    prompts = Prompts.encode(base, task, task.test, 96, 8)
    options = RouteOptions(similarity="l2", top_k=top_k)
    before = RoutedAdapters(bank, Guide(base.reference, members, options, backbone=base), members).gates(
        prompts.examples, 2
    )
    rank_labels(prompts, task.labels, lambda rows: None)  # tries out what can be shared, under no adapter
    whole, whole_passes, shared, passes = read_by(
        base, lambda: rank_labels(prompts, task.labels, lambda rows: None, before)
    )
    assert shared == whole
    assert all(rows > 1 for rows, _ in passes)  # no beginning
    assert (tokens(passes) < tokens(whole_passes)) is behind
    whole, whole_passes, shared, passes = read_by(base, lambda: generate(prompts, 5, lambda rows: None, before))
    assert (shared, passes) == (whole, whole_passes)
