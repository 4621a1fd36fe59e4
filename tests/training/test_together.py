"""Memory, penalty, comparison and filter at once: split batches, several processes, interruptions, other types."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from support import Signals, contents

from clora_cli.base.errors import InterruptedRunError
from clora_cli.training import train_task
from clora_cli.training.composition import compose

METHOD = "ewc+lwf+migu+replay"
CHOSEN = {"method": METHOD, "method_options": {"replay.rows": "5", "ewc.rows": "5"}, "lr": 1e-3}
JOINED = {"method": "inc-lora+migu", "method_options": {}, "lr": 1e-3}


@pytest.fixture
def learn(plan_for):
    """Train a task and return its folder."""

    def run(task, package="adapters", **chosen):
        return train_task(plan_for(task, package=package, **{**CHOSEN, **chosen}))[0]

    return run


def largest_difference(one, other):
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    return max(float((first[key] - second[key]).abs().max()) for key in first)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_gradient_accumulation_does_not_change_the_adapter(learn, family):
    found = []
    for batch_size, grad_accum in ((8, 1), (2, 4)):
        package = f"{family}-{grad_accum}"
        learn("first", package, family=family)
        found.append(learn("second", package, family=family, batch_size=batch_size, grad_accum=grad_accum))
    assert largest_difference(found[0].path, found[1].path) < 1e-5
    scores = [folder.manifest.raw["scores"]["last_step"] for folder in found]
    assert set(scores[0]) == {"loss", "penalty/ewc", "penalty/lwf"}
    assert scores[0] == pytest.approx(scores[1], rel=1e-3, abs=1e-6)  # the old answers and the new ones nearly cancel


@pytest.mark.parametrize("given", [CHOSEN, JOINED], ids=["together", "joined"])
def test_two_processes_train_the_adapter_that_one_trains(learn, ranks, tmp_path, model_folder, tasks, given):
    for package in ("one", "two"):
        learn("first", package, **given)
    one = learn("second", "one", **given).path
    chosen = "--max-steps 3 --batch-size 4 --rank 2 --alpha 4 --lr 1e-3".split()
    chosen += [word for key, text in given["method_options"].items() for word in ("-o", f"{key}={text}")]
    command = ("train-task", "--data", tasks["second"], "--model", model_folder("llama"), "--device", "cpu")
    found = ranks(*command, "--package", "two", "--method", given["method"], *chosen, folders=[tmp_path] * 2)
    assert found.codes == [0, 0], found.err
    two = tmp_path / "two" / "second"
    assert largest_difference(one, two) < 1e-5
    if given is JOINED:
        return
    states = [load_file(folder / "state.clora") for folder in (one, two)]
    for name, kept in states[0].items():
        assert torch.allclose(kept, states[1][name], rtol=1e-2, atol=1e-4 * float(kept.max()))
    # Of zeros there is nothing to train together, and yet no process runs ahead.
    found = ranks(*command, "--package", "none", "--method", "zero-shot", folders=[tmp_path] * 2)
    assert (found.codes, found.err) == ([0, 0], ["", ""])


@pytest.mark.parametrize(
    "method", ["inc-lora+migu", "o-lora+migu", "ps-lora+migu", "aso-lora+migu", "pfd+migu", "replay+migu"]
)
def test_a_filter_joins_every_way_of_treating_earlier_adapters(learn, method):
    options = {"rows": "1"} if "aso" in method else {}
    first = learn("first", method=method, method_options=options)
    second = learn("second", method=method, method_options=options)
    assert [parent["task"] for parent in second.manifest.raw["parents"]] == ["first"]
    for site, factor in second.factors().items():
        assert bool(factor.b.isfinite().all()) and bool(factor.b.any())
        start = (
            first.factors()[site].b
            if second.manifest.raw["method"]["start"] == "previous"
            else torch.zeros_like(factor.b)
        )
        still = (factor.b == start).all(dim=1)
        assert bool(still.any())  # rows that no step of three chose
    assert first.manifest.raw["method"]["combine"] == compose(method, options).lead.combine


@pytest.mark.parametrize(("after", "given"), [(1, CHOSEN), (4, CHOSEN), (4, JOINED)], ids=["1", "4", "joined"])
def test_an_interrupted_run_continues_to_the_same_bytes(learn, plan_for, after, given):
    chosen = {**given, "dropout": 0.1, "max_steps": 6, "grad_accum": 2}
    learn("first", "undisturbed", **given)
    learn("first", **given)
    expected = contents(learn("second", "undisturbed", **chosen).path)
    plan = plan_for("second", **chosen)
    with pytest.raises(InterruptedRunError):
        train_task(plan, progress=Signals(after=after))
    assert contents(train_task(plan, resume=True)[0].path) == expected


@pytest.mark.parametrize("chosen", [{"dtype": "bfloat16"}, {"gradient_checkpointing": True}], ids=str)
def test_half_precision_and_checkpointing(learn, chosen):
    learn("first", **chosen)
    folder = learn("second", **chosen)
    assert all(bool(factor.b.isfinite().all()) for factor in folder.factors().values())
    if "dtype" not in chosen:
        learn("first", "plain")
        assert largest_difference(folder.path, learn("second", "plain").path) < 1e-4


def test_two_memories_do_not_go_together(plan_for):
    with refused("methods-disagree", "replay", "mtl"):
        plan_for(method="replay+mtl")
