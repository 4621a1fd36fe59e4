"""One call makes a merge, whoever asks: ``clora merge``, an evaluation, a matrix, a recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from support import write_random_adapter

from clora_cli.algebra.lora import Factor
from clora_cli.base import registry
from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.evaluation.evaluate import check_combination
from clora_cli.model.bank import AdapterBank
from clora_cli.options import EvalOptions, MergeOptions, merges
from clora_cli.recipes import read_recipe
from clora_cli.recipes.planning import check_inputs
from clora_cli.recipes.steps import units_of
from clora_cli.store.adapter_folder import STATE, read_adapter
from clora_cli.store.package import read_package
from clora_cli.store.tensors import save_tensors
from clora_cli.transforming import merge_adapters, plan_merge

NAMES = ("first", "second", "third")
QUICK = {"score": "labels", "test_rows": 1, "batch_size": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, model_folder):
    """Three adapters of different ranks that keep Fisher information, as a package."""
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    base = load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))
    folder = tmp_path_factory.mktemp("everywhere") / "adapters"
    generator = torch.Generator().manual_seed(3)
    for stage, (task, rank) in enumerate(zip(NAMES, (2, 3, 1), strict=True), start=1):
        member = write_random_adapter(folder / task, base, stage=stage, rank=rank)
        sites = member.factors().items()
        save_tensors(member.path / STATE, {f"fisher/{s}": torch.rand(f.shape, generator=generator) for s, f in sites})
    return folder


@pytest.fixture
def acting(monkeypatch):
    """What was put into a model, each time: dense deltas by site."""
    seen, activate = [], AdapterBank.activate

    def remember(bank, deltas):
        seen.append([dense(one) for one in deltas])
        activate(bank, deltas)

    monkeypatch.setattr(AdapterBank, "activate", remember)
    return seen


def dense(deltas):
    return {site: delta.delta() if isinstance(delta, Factor) else delta for site, delta in deltas.items()}


def merged(members, out, strategy):
    plan = plan_merge(members, MergeOptions(strategy=strategy, out=out))
    merge_adapters(plan)
    return dense(read_adapter(out).deltas())


def equal(acted, wanted):
    (one,) = acted
    assert one.keys() == wanted.keys()
    assert all(torch.allclose(one[site], wanted[site], rtol=1e-5, atol=1e-6) for site in wanted)


@pytest.mark.parametrize("strategy", merges())
def test_a_merge_is_the_same_whoever_asks_for_it(adapters, acting, tmp_path, tasks, strategy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    members, task = read_package([adapters]), load_task(str(tasks["first"]))
    wanted = [merged(members[:count], tmp_path / f"merged-{count}", strategy) for count in (1, 2, 3)]
    evaluate(members, [task], EvalOptions(combine=strategy, matrix=True, **QUICK))
    assert acting[0] == []  # the base model alone
    for acted, expected in zip(acting[1:], wanted, strict=True):
        equal(acted, expected)
    evaluate(members, [task], EvalOptions(combine=strategy, **QUICK))
    equal(acting[-1], wanted[-1])
    # A recipe's last command, on adapters that its first ones made.
    clora, words = command(monkeypatch), steps(tmp_path, tasks, strategy, adapters)
    assert clora(words) == 0
    equal(acting[-1], wanted[-1])


@pytest.mark.parametrize("strategy", merges())
def test_a_merge_is_the_same_as_deltas_and_within_the_model_s_weights(adapters, tmp_path, strategy):
    members = read_package([adapters])
    wanted = merged(members, tmp_path / "merged", strategy)
    merge_adapters(plan_merge(members, MergeOptions(strategy=strategy, out=tmp_path / "dense", dense=True)))
    equal([dense(read_adapter(tmp_path / "dense").deltas())], wanted)
    plan = plan_merge(members, MergeOptions(strategy=strategy, into_model=tmp_path / "model"))
    merge_adapters(plan)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (Path(members[0].base["id"]), tmp_path / "model")
    )
    changed = {site: after[f"{site}.weight"] - before[f"{site}.weight"] for site in wanted}
    assert all(torch.allclose(changed[site], wanted[site], atol=1e-6) for site in wanted)


def command(monkeypatch):
    def run(words):
        import sys

        from clora_cli.cli import main

        monkeypatch.setattr(sys, "argv", ["clora", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    return run


def recipe_of(tasks, model, strategy):
    text = (
        f"name: small\nmodel: {model}\ntasks: [{', '.join(str(tasks[name]) for name in NAMES)}]\nmethods: [inc-lora]\n"
        f"train: {{max-steps: 1}}\neval: {{combine: {strategy}, score: labels, test-rows: 1, device: cpu}}\n"
    )
    return read_recipe(text, "small.yaml")


def steps(folder, tasks, strategy, adapters):
    model = read_package([adapters])[0].base["id"]
    (unit,) = units_of(recipe_of(tasks, model, strategy))
    shutil.copytree(adapters, unit.package)
    return next(step.words for step in unit.steps if step.kind == "eval" and step.stage == len(NAMES))


def test_a_merge_that_needs_what_adapters_do_not_keep_is_refused_before_the_model_is_loaded(
    adapters, tmp_path, tasks, monkeypatch
):
    lacking = shutil.copytree(adapters, tmp_path / "lacking")
    (lacking / "second" / STATE).unlink()
    monkeypatch.setattr("clora_cli.model.backbone.load_backbone", None)
    members, options = read_package([lacking]), EvalOptions(combine="fisher")
    for call in (
        lambda: evaluate(members, [load_task(str(tasks["first"]))], options),
        lambda: check_combination(members, options),
        lambda: plan_merge(members, MergeOptions(strategy="fisher")),
    ):
        with refused("merge-state-missing", "lacking/second", "'fisher'", "model.layers.0"):
            call()


def test_a_recipe_whose_methods_keep_not_what_its_merge_needs_is_refused_in_its_dry_run(
    model_folder, tasks, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    units = units_of(recipe_of(tasks, model_folder("llama"), "fisher"))
    with refused("merge-state-missing", "fisher", "--method inc-lora"):
        check_inputs(units)
    for strategy in set(registry.names("merges")) - {"fisher"}:
        check_inputs(units_of(recipe_of(tasks, model_folder("llama"), strategy)))
