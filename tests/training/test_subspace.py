"""Tasks as sparse subspaces of one LoRA: what is chosen, what never moves, what is refused."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from mixtures import batch_of, logits, weights_of
from refusals import refused
from support import FAMILIES, Signals, contents, continued, train, write_random_adapter, write_task

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import OptionError
from clora_cli.methods import Trimming
from clora_cli.methods.cast import Cast
from clora_cli.model.bank import AdapterBank
from clora_cli.recipes import shipped_recipe
from clora_cli.store.ledger import read_ledger, read_masks
from clora_cli.store.package import read_package
from clora_cli.training import train_task
from clora_cli.training.composition import compose
from clora_cli.training.confinement import Confinement, warmup_steps
from clora_cli.training.describe import describe

SOME = {"trim": "density,density=0.25", "most": "1"}


@pytest.fixture
def learn(plan_for):
    """Train tasks with cast, one after another, and return the last one's folder."""

    def run(*tasks, options=SOME, **chosen):
        for task in tasks:
            folder, _ = train_task(plan_for(task, method="cast", method_options=options, **chosen), progress=Signals())
        return folder

    return run


def confinement(idle, **trimming):
    """Return a confinement of one site with a lora_B of 2 x 3, and that lora_B."""
    b = torch.nn.Parameter(torch.zeros(2, 3))
    trainable = {"site": Factor(torch.ones(3, 4), b, 1.0)}
    return Confinement(Trimming(**trimming), trainable, {"site": torch.tensor(idle, dtype=torch.bool)}, 2), b


def test_the_entries_that_moved_most_are_kept_and_the_others_go_back_to_zero():
    held, b = confinement([[1, 1, 1], [1, 1, 0]], trim="density,density=0.4")
    b.data = torch.tensor([[0.1, -0.9, 0.2], [0.3, 0.8, 5.0]])  # the last entry is another task's
    held.after_step(1)
    assert b.tolist()[1][2] == 0
    assert int((b != 0).sum()) == 5
    held.after_step(2)
    expected = torch.tensor([[0, -0.9, 0], [0, 0.8, 0]])
    assert torch.equal(b.data, expected)
    assert held.recorded() == {
        "entries": 6,
        "warmup_steps": 2,
        "owned": 2 / 6,
        "idle": 3 / 6,
        "of_idle": 2 / 5,
        "warnings": [],
    }
    b.grad = torch.ones(2, 3)
    held.clear_gradients()
    assert torch.equal(b.grad, (expected != 0).float())


def test_each_site_may_choose_for_itself():
    values = {"near": torch.tensor([[0.1, 0.2], [0.3, 0.4]]), "far": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    counts = {}
    for scope in ("all", "site"):
        trainable = {site: Factor(torch.ones(2, 4), torch.nn.Parameter(b.clone()), 1.0) for site, b in values.items()}
        idle = {site: torch.ones(2, 2).bool() for site in values}
        Confinement(Trimming(trim="density,density=0.5", scope=scope), trainable, idle, 1).after_step(1)
        counts[scope] = [int((trainable[site].b != 0).sum()) for site in values]
    assert counts == {"all": [0, 4], "site": [2, 2]}


def test_no_task_owns_more_than_its_share_of_all():
    held, b = confinement([[1, 1, 1], [1, 1, 0]], trim="density,density=0.8", most=0.34)
    b.data = torch.tensor([[0.1, -0.9, 0.2], [0.3, 0.8, 5.0]])
    held.after_step(2)
    assert torch.equal(b.data, torch.tensor([[0, -0.9, 0], [0, 0.8, 0]]))


@pytest.mark.parametrize(
    ("warmup", "rows", "batch", "steps", "expected"),
    [(0.5, 100, 10, 40, 5), (0.5, 101, 10, 40, 6), (3, 100, 10, 40, 20), (0.01, 10, 10, 4, 1), (1, 10, 10, 1, 1)],
)
def test_the_warm_up_is_a_part_of_the_run(warmup, rows, batch, steps, expected):
    assert warmup_steps(Trimming(warmup=warmup), rows, batch, steps) == expected


def test_the_warm_up_has_a_learning_rate_of_its_own(learn):
    options = {"trim": "density,density=0.1", "most": "0.2", "warmup": "0.5"}
    rates = {}
    for rate in (None, "0.5", "1"):
        chosen = options if rate is None else options | {"warmup_lr": rate}
        path = learn("first", package=f"rate-{rate}", options=chosen, max_steps=6, lr=0.01).path
        logged = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        rates[rate] = [line["learning_rate"] for line in logged if "learning_rate" in line]
    linear = [0.01 * (1 - step / 6) for step in range(6)]
    warmup = sum(rate < whole * 0.99 for rate, whole in zip(rates["0.5"], linear, strict=True))
    assert 0 < warmup < 6
    for given, factor in ((None, 0.2), ("0.5", 0.5), ("1", 1)):
        expected = [rate * (factor if step < warmup else 1) for step, rate in enumerate(linear)]
        assert rates[given] == pytest.approx(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_tasks_own_disjoint_parts_of_one_lora(learn, tmp_path, family):
    learn("first", "second", family=family)
    first, second = read_package([tmp_path / "adapters"])
    masks = [read_masks(member) for member in (first, second)]
    ledger = read_ledger([first, second])
    assert ledger.shares.keys() == {first.task, second.task}
    for site, factor in first.factors().items():
        other = second.factors()[site]
        assert torch.equal(factor.a, other.a)
        assert not bool((masks[0][site] & masks[1][site]).any())
        assert torch.equal(factor.b != 0, masks[0][site])
        assert torch.equal(other.b != 0, masks[1][site])
    assert ledger.owned[0] == round(0.25 * ledger.size)
    assert ledger.owned[1] == round(0.25 * (ledger.size - ledger.owned[0]))
    recorded = second.manifest.raw["scores"]["subspace"]
    assert recorded["idle"] == pytest.approx(ledger.idle / ledger.size)
    assert [parent["task"] for parent in second.manifest.raw["parents"]] == [first.task]


def test_after_ten_tasks_the_first_has_the_bytes_and_the_outputs_it_had(tmp_path, model_folder, backbone):
    options = {"method": "cast", "method_options": {"most": "0.08"}, "rank": 8, "max_steps": 2}
    base = backbone()
    inputs, bank = batch_of(base), AdapterBank(base.model)
    train(model_folder("llama"), write_task(tmp_path / "task0"), tmp_path / "adapters", **options)
    (first,) = read_package([tmp_path / "adapters"])
    files = contents(first.path)
    bank.activate([first.deltas()])
    outputs = logits(base, inputs)
    for number in range(1, 10):
        train(model_folder("llama"), write_task(tmp_path / f"task{number}", number), tmp_path / "adapters", **options)
    members = read_package([tmp_path / "adapters"])
    bank.activate([member.deltas() for member in members])
    bank.gate(weights_of(bank, len(inputs["input_ids"]), 10, [0] * len(inputs["input_ids"])))
    assert contents(first.path) == files
    assert torch.equal(logits(base, inputs), outputs)
    bank.gate(weights_of(bank, len(inputs["input_ids"]), 10, [9] * len(inputs["input_ids"])))
    assert not torch.equal(logits(base, inputs), outputs)


@pytest.mark.parametrize(
    "chosen",
    [
        {"weight_decay": 0.5},
        {"max_grad_norm": 0.01, "grad_accum": 2},
        {"dtype": "bfloat16"},
        {"schedule": "constant", "dropout": 0.2},
    ],
    ids=str,
)
def test_what_lies_outside_the_mask_is_zero_to_the_last_bit(learn, chosen):
    folder = learn("first", "second", max_steps=6, **chosen)
    for site, mask in read_masks(folder).items():
        outside = folder.factors()[site].b[~mask]
        assert torch.equal(outside.view(torch.int32), torch.zeros_like(outside).view(torch.int32))  # not even -0.0


def test_the_mask_goes_on_learning_from_where_the_warm_up_left_it(learn):
    # Adam moves an entry by at most about lr a step: at the end of six steps some are further than the warm-up's three.
    folder = learn("first", max_steps=6, lr=1e-3, schedule="constant")
    largest = max(float(factor.b.abs().max()) for factor in folder.factors().values())
    assert 3.5e-3 < largest <= 6.5e-3


def test_packages_of_one_seed_share_their_a(learn, tmp_path):
    one = learn("first", package="one")
    other = learn("second", package="other")
    another = learn("second", package="another", seed=7)
    for site, factor in one.factors().items():
        assert torch.equal(factor.a, other.factors()[site].a)
        assert not torch.equal(factor.a, another.factors()[site].a)
        bound = factor.a.shape[1] ** -0.5
        assert 0.8 * bound < float(factor.a.abs().max()) <= bound


@pytest.mark.parametrize("options", [SOME, {"trim": "knee,maximum=0.02"}], ids=["quiet", "with a warning"])
@pytest.mark.parametrize("after", [1, 4], ids=["in the warm-up", "after it"])
def test_an_interrupted_run_continues_to_the_same_bytes(learn, plan_for, after, options):
    chosen = {"method": "cast", "method_options": options, "max_steps": 6, "save_steps": 1}
    learn("second")
    learn("second", package="undisturbed")
    expected = contents(train_task(plan_for(package="undisturbed", **chosen))[0].path)
    plan = plan_for(**chosen)
    folder = continued(plan, after, signal.SIGTERM)
    assert contents(folder.path) == expected
    assert bool(folder.manifest.raw["scores"]["subspace"]["warnings"]) == (options is not SOME)


def test_an_earlier_task_trained_again_leaves_later_tasks_entries_alone(learn, plan_for):
    learn("first")
    second = learn("second")
    before = contents(second.path)
    again = train_task(plan_for("first", method="cast", method_options=SOME, max_steps=4), force=True)[0]
    assert contents(second.path) == before
    assert again.stage == 1
    read_ledger([again, second])  # raises if two own one entry


def test_a_full_lora_is_told_before_training_with_what_it_would_take(learn, plan_for):
    learn("first", options={"trim": "density,density=1", "most": "1"})
    with refused("package-full", "100.0%", "--rank 5"):
        plan_for("second", method="cast")
    assert plan_for("first", method="cast", method_options={"trim": "density,density=1", "most": "1"}).finished()


def test_the_plan_tells_what_is_idle(learn, plan_for):
    learn("first")
    description = describe(plan_for("second", method="cast"))
    assert description.data()["idle_share"] == pytest.approx(0.75, abs=0.01)
    assert "75.0% of lora_B is idle" in description.text()
    alone = describe(plan_for("second", method="inc-lora", package="other"))
    assert alone.trainable > description.trainable


def test_other_adapters_are_no_parts_of_the_shared_lora(plan_for, learn, tmp_path, backbone):
    write_random_adapter(tmp_path / "foreign" / "second", backbone("llama"), stage=1)
    with refused("no-shared-lora-masks", tmp_path / "foreign" / "second"):
        plan_for(method="cast", package="foreign")
    learn("first")
    with refused("rank-or-alpha-differs", "--rank 2 --alpha 4"):
        plan_for("second", method="cast", rank=4)
    with refused("target-modules-differ", "--target-modules"):
        train_task(plan_for("second", method="cast", target_modules=("q_proj",)))


def test_a_damaged_mask_is_refused(learn, tmp_path, plan_for):
    folder = learn("first")
    state = folder.path / "state.clora"
    state.write_bytes(state.read_bytes()[:-8])
    with refused("adapter-file-changed", folder.path, "state.clora"):
        plan_for("second", method="cast")


def test_the_task_vector_is_kept(learn, tmp_path):
    learn("first", "second")
    for member in read_package([tmp_path / "adapters"]):
        vector = member.state()["task_vector"]
        assert vector.ndim == 1
        assert float(vector.norm()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "code", "value"),
    [
        ({"warmup": 0}, "option-out-of-range", "warmup=0"),
        ({"least": 1}, "option-out-of-range", "least=1"),
        ({"most": 0}, "option-out-of-range", "most=0"),
        ({"margin": -1}, "option-out-of-range", "margin=-1"),
        ({"top_k": -1}, "option-out-of-range", "top_k=-1"),
        ({"vector_lr": 0}, "option-out-of-range", "vector_lr=0"),
        ({"temperature": 0}, "option-out-of-range", "temperature=0"),
        ({"trim": "sign"}, "trim-needs-reference", "trim=sign"),
        ({"minimum": 0}, "option-out-of-range", "minimum=0"),
        ({"maximum": 1.5}, "option-out-of-range", "maximum=1.5"),
        ({"flat": 1}, "option-out-of-range", "flat=1"),
        ({"minimum": 0.5}, "option-out-of-range", "minimum=0.5 of knee"),
        ({"trim": "density,density=0.1", "maximum": 0.5}, "trim-without-limit", "density"),
        ({"trim": "knee,minimum=0.02", "minimum": 0.1}, "option-given-twice", "minimum=0.02"),
        ({"trim": "kne"}, "unknown-name", "'kne'"),
        ({"similarity": "l3"}, "unknown-name", "'l3'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, code, value):
    with refused(code, value, error=OptionError):
        Cast(**options)


@pytest.mark.parametrize(
    ("options", "trim"),
    [
        ({}, "knee"),
        ({"minimum": None, "maximum": None, "flat": None}, "knee,minimum=none,maximum=none,flat=none"),
        ({"trim": "knee,minimum=0.05", "maximum": 0.5}, "knee,minimum=0.05,maximum=0.5"),
        ({"trim": "density,density=0.1"}, "density,density=0.1"),
    ],
)
def test_limits_of_the_knee_are_options_of_the_method(options, trim):
    assert Cast(**options).trimming().trim == trim


def test_options_that_came_later_leave_earlier_manifests_as_they_are(learn, plan_for):
    quick = {"max_steps": 2}
    made = learn("first", options={"most": "1"}, max_steps=2)
    assert set(made.manifest.raw["method"]["options"]["cast"]) == {
        "trim", "scope", "warmup", "warmup_lr", "most", "least", "margin", "vector_lr", "similarity", "top_k", "temperature",
    }  # fmt: skip
    for limit in ("minimum", "maximum", "flat"):
        with refused("output-made-differently", f"options.cast.{limit}"):
            plan_for(method="cast", method_options={"most": "1", limit: "none"}, **quick).finished()
    free = plan_for(method="cast", method_options={"most": "1", "maximum": "0.5"}, package="free", **quick)
    assert train_task(free)[0].manifest.raw["method"]["options"]["cast"]["maximum"] == 0.5
    with refused("output-made-differently", "options.cast.maximum 0.5 -> default"):
        plan_for(method="cast", method_options={"most": "1"}, package="free", **quick).finished()


def test_with_the_papers_options_the_knee_alone_decides(learn):
    (method,) = shipped_recipe("cast-qwen3-8b-order1").methods
    options = {name: text for name, text in method.option_texts(1).items() if name != "warmup"}
    assert Cast(minimum=None, maximum=None, flat=None, most=1, warmup_lr=1).trimming() == (
        compose("cast", options).lead.trimming()
    )
    folder = learn("first", options=options, max_steps=6)
    assert not folder.manifest.raw["scores"]["subspace"]["warnings"]
