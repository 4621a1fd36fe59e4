"""Asking a run's model about its rows: what is asked, that nothing is disturbed, and what is kept of it."""

from __future__ import annotations

import json
import random

import pytest
import torch
from peft import PeftModel
from refusals import refused
from safetensors.torch import load_file
from support import Signals, contents, run_of, write_random_adapter

from clora_cli.base.errors import InterruptedRunError
from clora_cli.data import Collator
from clora_cli.model.attribution import attributions, down_projections
from clora_cli.model.bank import AdapterBank
from clora_cli.training import train_task
from clora_cli.training.build import build
from clora_cli.training.fit import encoded_rows
from clora_cli.training.services import affordable_rows
from clora_cli.training.undisturbed import undisturbed

HOW = {"steps": 3, "rows": 2, "together": False, "answer": "log-probability"}


@pytest.fixture
def past(tmp_path, backbone):
    """Two earlier adapters of ranks 1 and 2."""

    def write(package="adapters", family="llama"):
        for stage, name in enumerate(("second", "third"), start=1):
            write_random_adapter(tmp_path / package / name, backbone(family), stage=stage, rank=stage)

    return write


def asked(plan):
    built = build(plan)
    with torch.no_grad():
        for factor in built.trainable.values():
            factor.b.normal_()
    return built, run_of(plan, built)


@pytest.mark.parametrize("family", ["llama", "t5", "gpt2"])
@pytest.mark.parametrize("adapter", [None, 0, 1])
def test_every_adapter_is_asked_alone(plan_for, past, backbone, family, adapter):
    past(family=family)
    plan = plan_for(family=family)
    built, probe = asked(plan)
    assert len(probe.past) == 2
    found = probe.attribution(adapter, **HOW)
    # The same by hand: the base model afresh, with that one adapter's factors put on.
    base = backbone(family)
    own = (
        {site: factor for site, factor in built.trainable.items()} if adapter is None else plan.past[adapter].factors()
    )
    AdapterBank(base.model).activate([own])
    expected, items = 0, encoded_rows(plan, built)
    for row in probe._chosen[:2]:
        batch = Collator(base.tokenizer)([items[row]])
        labels = batch.pop("labels")
        if base.kind == "seq2seq":
            batch["decoder_input_ids"] = base.model.prepare_decoder_input_ids_from_labels(labels=labels)
        layers = down_projections(base.model)
        with undisturbed(built.model):
            expected = expected + attributions(base.model, batch, labels, layers, steps=3, answer="log-probability")
    assert torch.allclose(found, expected / 2, rtol=1e-3, atol=1e-4 * float(found.abs().max()))


@pytest.mark.parametrize("target", ["down_proj", "all-linear"])
def test_adapted_down_projections_are_found(plan_for, past, target):
    past()
    _, probe = asked(plan_for(target_modules=(target,)))
    vectors = [probe.attribution(adapter, **HOW) for adapter in (None, 0)]
    assert {vector.shape for vector in vectors} == {(128,)}
    assert not torch.equal(*vectors)


@pytest.mark.parametrize("adapter", [None, 0])
def test_nothing_is_disturbed(plan_for, past, adapter):
    past()
    built, probe = asked(plan_for(dropout=0.1))
    built.model.train()
    built.model.base_model.model.model.layers[0].eval()
    for factor in built.trainable.values():
        factor.a.grad = torch.full_like(factor.a, 3.0)
    modes = [module.training for module in built.model.modules()]
    wanted = [parameter.requires_grad for parameter in built.model.parameters()]
    tokens = torch.tensor([[5, 6, 7]])
    torch.manual_seed(1)
    random.seed(1)
    before = built.model(input_ids=tokens).logits
    torch.manual_seed(1)
    states = (torch.get_rng_state(), random.getstate())
    probe.attribution(adapter, **HOW)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert modes == [module.training for module in built.model.modules()]
    assert wanted == [parameter.requires_grad for parameter in built.model.parameters()]
    assert all(bool((factor.a.grad == 3).all()) and factor.b.grad is None for factor in built.trainable.values())
    assert torch.equal(before, built.model(input_ids=tokens).logits)


def test_a_run_that_asks_trains_as_one_that_does_not(plan_for, past):
    digests = set()
    for package, options in (("one", {}), ("other", {"refresh": "3", "warmup": "0", "rows": "1"})):
        past(package)
        # A strength of 0: what is found out plays no part.
        chosen = {"method_options": {"strength": "0", **options}, "dropout": 0.1, "max_steps": 4}
        digests.add(train_task(plan_for(package=package, method="aso-lora", **chosen))[0].digest)
    past("third")
    plain = train_task(plan_for(package="third", method="inc-lora", dropout=0.1, max_steps=4))[0].digest
    assert digests == {plain}


def test_how_many_rows_are_affordable():
    # A tenth of 10 000 passes; 20 copies of 4 layers, of which 2.5 passes run, each at 0.8, for 5 calls.
    assert affordable_rows(10_000, 20 * 5, 4) == pytest.approx(5)
    assert affordable_rows(10_000, 20 * 5, 1) == pytest.approx(12.5)


def test_a_row_that_costs_too_much_is_told_once(plan_for):
    listener = Signals()
    plan = plan_for()
    built = build(plan)
    probe = run_of(plan, built, listener)
    for _ in range(2):
        probe.attribution(None, **{**HOW, "rows": None})
    # 3 copies of 1.5 passes each, at 0.8, for 12 rows of training: 30 %.
    assert listener.warnings == [
        "attributing a single row takes about 30% of the training's own cost; all layers together, or fewer steps, "
        "cost less"
    ]


def test_a_tenth_of_a_long_run_is_enough_for_many_rows(plan_for):
    plan = plan_for(max_steps=5000)
    built = build(plan)
    probe = run_of(plan, built)
    few, all_rows = (probe.attribution(None, **{**HOW, "rows": rows}) for rows in (24, None))
    assert torch.equal(few, all_rows)  # there are 24


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_relations_are_logged_and_the_vector_is_kept(plan_for, past, backbone, family):
    past(family=family)
    folder, _ = train_task(
        plan_for(family=family, method="aso-lora+n-lora", max_steps=6, method_options={"refresh": "2"})
    )
    log = [json.loads(line) for line in (folder.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [(entry["step"], {k: v for k, v in entry.items() if k.startswith("relation/")}) for entry in log]
    assert [step for step, entries in found if entries] == [2, 4]  # before the second and the fourth step
    last = found[3][1]
    assert set(last) == {"relation/aso-lora/second", "relation/aso-lora/third"}
    assert all(-1 <= value <= 1 for value in last.values())
    kept = folder.manifest.raw["scores"]["relations"]
    assert kept == {"aso-lora": {name.rpartition("/")[2]: value for name, value in last.items()}}
    state = folder.state()
    assert {name: (tuple(t.shape), t.dtype) for name, t in state.items()} == {
        "attribution": ((64 * (2 if family == "llama" else 4),), torch.float32)
    }
    assert "state.clora" in folder.manifest.raw["files"]
    loaded = PeftModel.from_pretrained(backbone(family).model, folder.path)
    stored = load_file(folder.path / "adapter_model.safetensors")
    assert len(stored) == sum(".lora_" in name for name, _ in loaded.named_parameters())


def test_the_first_task_keeps_its_vector_and_relates_to_nothing(plan_for):
    listener = Signals()
    folder, _ = train_task(plan_for(method="aso-lora"), progress=listener)
    assert set(folder.state()) == {"attribution"}
    assert set(folder.manifest.raw["scores"]) == {"last_step"}
    assert listener.warnings[0] == "aso-lora: its penalty is inactive in this run: there is no earlier adapter"


def test_stored_vectors_of_earlier_runs_are_used(plan_for):
    for task in ("first", "second"):
        folder, _ = train_task(plan_for(task, method="aso-lora", method_options={"vectors": "stored"}))
    assert list(folder.manifest.raw["scores"]["relations"]["aso-lora"]) == ["first"]


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_run_continues_to_the_same_bytes(plan_for, past, after):
    chosen = {"method": "aso-lora", "dropout": 0.1, "max_steps": 6, "method_options": {"warmup": "0.3"}}
    past("undisturbed")
    past()
    expected = contents(train_task(plan_for(package="undisturbed", **chosen))[0].path)
    plan = plan_for(**chosen)
    with pytest.raises(InterruptedRunError):
        train_task(plan, progress=Signals(after=after))
    files = {path.name for path in plan.work.rglob("methods.safetensors")}
    assert files == ({"methods.safetensors"} if after == 3 else set())
    folder, _ = train_task(plan, resume=True)
    assert contents(folder.path) == expected


def test_a_damaged_checkpoint_of_relations_is_told(plan_for, past):
    past()
    plan = plan_for(method="aso-lora", max_steps=6)
    with pytest.raises(InterruptedRunError):
        train_task(plan, progress=Signals(after=3))
    for path in plan.work.rglob("methods.safetensors"):
        path.write_bytes(b"nothing")
    with refused("no-usable-checkpoint", "methods.safetensors"):
        train_task(plan, resume=True)


@pytest.mark.parametrize("chosen", [{"dtype": "bfloat16"}, {"gradient_checkpointing": True}])
def test_half_precision_and_checkpointing(plan_for, past, chosen):
    past()
    folder, _ = train_task(plan_for(method="aso-lora", **chosen))
    vector = folder.state()["attribution"]
    assert vector.dtype == torch.float32
    assert bool(vector.isfinite().all())
    assert bool(vector.any())


@pytest.mark.parametrize("method", ["aso-lora+n-lora", "aso-lora+ps-lora", "o-lora+ps-lora"])
def test_methods_compose(plan_for, past, method):
    past()
    folder, _ = train_task(plan_for(method=method))
    one, other = method.split("+")
    assert {f"penalty/{one}", f"penalty/{other}"} < set(folder.manifest.raw["scores"]["last_step"])
    assert ("state.clora" in contents(folder.path)) == ("aso-lora" in method)


@pytest.mark.parametrize("family", ["llama", "t5", "gpt2"])
def test_fisher_information_is_the_mean_of_each_row_s_squared_gradient(plan_for, past, backbone, family):
    past(family=family)
    plan = plan_for(family=family, method="seq-lora", dropout=0.2, rank=2, alpha=4)
    built, probe = asked(plan)
    found = probe.fisher(3)
    # By hand: the base model afresh, the adapter's factors as leaves, one row at a time.
    base, items = backbone(family), encoded_rows(plan, built)
    leaves = {
        site: (f.a.detach().clone().requires_grad_(), f.b.detach().clone().requires_grad_())
        for site, f in built.trainable.items()
    }
    for site, (a, b) in leaves.items():
        scaling = built.trainable[site].scaling
        base.model.get_submodule(site).register_forward_hook(
            lambda _, given, output, a=a, b=b, scaling=scaling: output + scaling * (given[0] @ a.T @ b.T)
        )
    flat = [tensor for pair in leaves.values() for tensor in pair]
    expected = [torch.zeros_like(tensor) for tensor in flat]
    for row in probe._chosen[:3]:
        batch = Collator(base.tokenizer)([items[row]])
        labels = batch.pop("labels")
        if base.kind == "seq2seq":
            batch["decoder_input_ids"] = base.model.prepare_decoder_input_ids_from_labels(labels=labels)
        logits = base.model(**batch).logits[0]
        pairs = (
            zip(logits, labels[0], strict=True)
            if base.kind == "seq2seq"
            else zip(logits[:-1], labels[0, 1:], strict=True)
        )
        likelihood = sum(one.log_softmax(-1)[token] for one, token in pairs if token != -100)
        slopes = torch.autograd.grad(likelihood, flat)
        expected = [total + slope**2 / 3 for total, slope in zip(expected, slopes, strict=True)]
    own = [found[side][site] for site in leaves for side in ("lora_A", "lora_B")]
    for one, other in zip(own, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.max()))


def test_asking_for_fisher_information_disturbs_nothing(plan_for):
    built, probe = asked(plan_for(method="seq-lora", dropout=0.2))
    built.model.train()
    for factor in built.trainable.values():
        factor.a.grad = torch.full_like(factor.a, 3.0)
    modes = [module.training for module in built.model.modules()]
    state = torch.get_rng_state()
    one, other = probe.fisher(4), probe.fisher(4)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in built.model.modules()]
    assert all(factor.a.requires_grad and factor.b.grad is None for factor in built.trainable.values())
    assert all(bool((factor.a.grad == 3).all()) for factor in built.trainable.values())
    assert all(torch.equal(one[side][site], other[side][site]) for side in one for site in one[side])
    assert {name: tensor.shape for name, tensor in probe.fisher(99)["lora_B"].items()} == {
        site: factor.b.shape for site, factor in built.trainable.items()
    }
