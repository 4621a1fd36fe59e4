"""Methods that train soft prompts: examples by hand, and what each promises, measured on what was trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from prompted import through_peft
from refusals import refused
from support import options_for, train

from clora_cli.base import registry
from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.evaluation.prompted import Prompted
from clora_cli.evaluation.prompts import Prompts
from clora_cli.methods.dual_prompt import DualPrompt
from clora_cli.methods.l2p import L2p, distances, nearest
from clora_cli.methods.prog_prompt import residual
from clora_cli.model.soft_prompts import newest_first
from clora_cli.model.task_vectors import embedding_site
from clora_cli.options import EvalOptions
from clora_cli.training import make_plan, train_task
from clora_cli.training.build import build
from clora_cli.training.fit import encoded_rows
from clora_cli.training.run import TrainingRun

METHODS = ("prog-prompt", "l2p", "dual-prompt", "lfpt5")
SMALL = {
    "prog-prompt": {"tokens": "3", "width": "8"},
    "l2p": {"pool": "4", "length": "2", "chosen": "2"},
    "dual-prompt": {"general": "2", "expert": "3"},
    "lfpt5": {"tokens": "3"},
}


@pytest.fixture
def learn(model_folder, tasks, tmp_path):
    def trained(method, task="first", family="llama", package="adapters", **chosen):
        chosen = {"method_options": SMALL[method], "lr": 0.05, **chosen} if method in SMALL else chosen
        return train(model_folder(family), tasks[task], tmp_path / package, method=method, **chosen)

    return trained


@pytest.fixture
def begun(model_folder, tasks, tmp_path):
    """Begin a run, and give what its method sees of it."""

    def begin(method, task="first", family="llama", package="adapters", **chosen):
        chosen = {"method_options": SMALL[method], **chosen}
        plan = make_plan(options_for(model_folder(family), tasks[task], tmp_path / package, method=method, **chosen))
        built = build(plan)
        run = TrainingRun(method, plan, built, encoded_rows(plan, built))
        plan.method.lead.begin(run)
        return plan, built, run

    return begin


def test_prog_prompt_by_hand():
    # down E = (1, -2): relu leaves (1, 0); up adds its first column
    start, down = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    up = torch.tensor([[3.0, 9.0], [4.0, 9.0]])
    assert residual(start, down, up).tolist() == [[4.0, 6.0]]


def test_l2p_by_hand():
    keys, queries = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([[0.6, 0.8], [-1.0, 0.0]])
    far = distances(keys, queries)
    assert torch.allclose(far, torch.tensor([[0.4, 0.2, 1.6], [2.0, 1.0, 0.0]]))
    assert nearest(far, 2).tolist() == [[1, 0], [2, 1]]
    states, method = [{}, {"keys": keys}], L2p(pool=3, length=2, chosen=2)
    # The second pool's tokens follow the first one's six: prompt i has 6 + 2i and 7 + 2i.
    assert method.choose(states, [6, 6], queries).tolist() == [[8, 9, 6, 7], [10, 11, 8, 9]]


def test_l2p_shares_the_pool_out_among_tasks_in_training_alone():
    keys, queries = torch.eye(3), torch.tensor([[0.8, 0.6, 0.0]])
    run = SimpleNamespace(
        own={"keys": keys}, kept={"before": torch.tensor([9.0, 1.0, 0.0])}, embeddings=lambda: queries
    )
    method = L2p(pool=3, length=1, chosen=1)
    places, far = method._nearest(run, torch.tensor([0]))
    assert torch.allclose(far, torch.tensor([[0.2, 0.4, 1.0]]))
    assert places.tolist() == [[2]]  # 0.9 * 0.2, 0.1 * 0.4, 0 * 1
    assert method.choose([{"keys": keys}], [3], queries).tolist() == [[0]]


def test_dual_prompt_by_hand():
    states = [{"key": torch.tensor([1.0, 0.0])}, {"key": torch.tensor([0.0, 2.0])}]
    queries = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    found = DualPrompt(general=1, expert=2).choose(states, [3, 3], queries)
    assert found.tolist() == [[3, 1, 2], [3, 4, 5]]  # the last G, then the expert of the nearest key


@pytest.mark.parametrize("method", METHODS[1:3])
def test_a_choice_is_an_input_s_own_whatever_it_is_batched_with(method):
    generator = torch.Generator().manual_seed(0)
    queries, small = torch.randn(6, 4, generator=generator), {k: int(v) for k, v in SMALL[method].items()}
    states = [
        {"keys": torch.randn(4, 4, generator=generator), "key": torch.randn(4, generator=generator)} for _ in range(2)
    ]
    bound = registry.load("methods", method)(**small)
    together = bound.choose(states, [bound.virtual_tokens()] * 2, queries)
    alone = [bound.choose(states, [bound.virtual_tokens()] * 2, query[None]) for query in queries]
    assert torch.equal(together, torch.cat(alone))
    assert len({tuple(row) for row in together.tolist()}) > 1


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("method", METHODS)
def test_rows_are_read_at_evaluation_as_in_training(begun, backbone, learn, method, family):
    first = learn(method, family=family)
    plan, built, run = begun(method, "second", family=family, lr=1e-9)
    second = learn(method, "second", family=family, lr=1e-9, max_steps=1)  # as it begins
    if method == "l2p":
        run.kept["before"].zero_()  # in training alone, tasks share the pool out
    table = embedding_site(built.backbone)
    ids = torch.zeros(4, 2, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids + 1, "labels": ids}
    given = built.promptings[0].before(torch.arange(4), inputs)
    count = given["input_ids"].shape[1] - 2
    seen = built.model.get_submodule(table)(given["input_ids"])[:, :count]
    assert bool((given["attention_mask"] == 1).all()) and count > 2
    assert torch.equal(given["labels"][:, -2:], ids)
    assert bool((given["labels"][:, :-2] == -100).all()) and given["labels"].shape[1] == (
        2 if family == "t5" else count + 2
    )
    base = backbone(family)
    way = {"prog-prompt": "sum", "lfpt5": "last"}.get(method, "learned")
    combination = Prompted(base, [first, second], way)
    # In training, the expert is the task's own; of one prompt the last is.
    members = [second] if method in {"dual-prompt", "lfpt5"} else [first, second]
    adapted, _ = combination.use(members, Prompts.encode(base, plan.task, plan.rows[:4], 512, 4))
    found = base.model.get_submodule(table)(torch.tensor([row[:count] for row in adapted.ids]))
    assert torch.allclose(found, seen, atol=1e-5)


def test_prog_prompt_never_changes_an_earlier_task_s_answers(learn, tasks):
    members = [learn("prog-prompt", task) for task in ("first", "second", "third")]
    loaded = [load_task(str(tasks[name])) for name in ("first", "second")]
    scores = evaluate(members, loaded, EvalOptions(device="cpu", matrix=True, score="labels"))
    assert scores.combine == "progressive"
    rows = [{name: cell.per_row for name, cell in row.scores.items()} for row in scores.rows]
    assert rows[1]["first"] == rows[2]["first"] == rows[3]["first"]
    assert rows[2]["second"] == rows[3]["second"]
    assert rows[0]["second"] == rows[1]["second"]  # an unknown task gets the base model
    assert [parent.task for parent in members[2].manifest.parents] == ["first", "second"]


def test_texts_keep_all_tokens_that_max_length_allows(begun):
    plain = {
        name: begun("prog-prompt", max_length=24, package=name, method_options={"tokens": name, "width": "0"})
        for name in ("1", "9")
    }
    items = {name: [item["input_ids"] for item in run._items] for name, (_, _, run) in plain.items()}
    assert items["1"] == items["9"] and max(map(len, items["9"])) == 24
    with refused("soft-prompt-too-long", "--max-length", error=MismatchError):
        begun("prog-prompt", family="gpt2", package="long", method_options={"tokens": "250", "width": "0"})


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_what_clora_trains_is_read_by_peft_and_answers_alike(learn, backbone, tasks, family):
    folder = learn("prog-prompt", family=family, lr=0.3)
    base, task = backbone(family), load_task(str(tasks["first"]))
    encoded = Prompts.encode(base, task, task.test, 512, 4)
    adapted, _ = Prompted(base, [folder], "last").use([folder], encoded)
    extra = {"decoder_input_ids": torch.tensor([[0, 5, 6]])} if family == "t5" else {}
    peft = through_peft(backbone(family), folder.path)
    for ids, own in list(zip(adapted.ids, encoded.ids, strict=True))[:3]:
        with torch.no_grad():
            found = base.model(input_ids=torch.tensor([ids]), **extra).logits
            expected = peft(input_ids=torch.tensor([own]), attention_mask=torch.ones(1, len(own)), **extra).logits
        assert torch.allclose(found, expected, atol=1e-5)
    assert (
        folder.manifest.raw["lora"] == {"form": "prompt"} and "Soft prompt" in (folder.path / "README.md").read_text()
    )


def test_what_is_kept_is_what_later_tasks_and_evaluation_need(learn):
    kept = {method: learn(method, package=method) for method in METHODS}
    assert {method: sorted(member.state()) for method, member in kept.items()} == {
        "prog-prompt": [],
        "l2p": ["counts", "keys"],
        "dual-prompt": ["key"],
        "lfpt5": ["cues", "longest"],
    }
    assert {method: len(member.prompt()) for method, member in kept.items()} == {
        "prog-prompt": 3,
        "l2p": 8,
        "dual-prompt": 5,
        "lfpt5": 3,
    }
    beside = {method: member.manifest.scores.get("beside_the_lora") for method, member in kept.items()}
    assert beside == {
        "prog-prompt": {"trained": 2 * 8 * 32},
        "l2p": {"trained": 4 * 32},
        "dual-prompt": {"trained": 32},
        "lfpt5": None,
    }
    later = learn("l2p", "second", package="l2p")
    assert later.state()["counts"].sum() == 2 * kept["l2p"].state()["counts"].sum() > 0
    assert not torch.equal(later.prompt(), kept["l2p"].prompt())


@pytest.mark.parametrize("method", METHODS)
def test_training_learns_and_is_not_done_twice(learn, tasks, tmp_path, method, model_folder):
    folder = learn(method, max_steps=12, lr=0.3)
    log = (folder.path / "log.jsonl").read_text().splitlines()
    losses = [float(line.partition('"loss": ')[2].partition(",")[0]) for line in log]
    assert sum(losses[-4:]) < sum(losses[:4])
    options = options_for(model_folder("llama"), tasks["first"], tmp_path / "adapters", method=method)
    again = make_plan(
        options.__class__(**{**vars(options), "method_options": SMALL[method], "lr": 0.3, "max_steps": 12})
    )
    assert train_task(again)[1] is False


def test_what_does_not_go_together_is_refused(learn, tmp_path):
    lora = learn("inc-lora", package="loras")
    prompt = learn("prog-prompt", package="prompts")
    with refused("adapter-kinds-differ", lora.path, error=MismatchError):
        learn("prog-prompt", "second", package="loras")
    with refused("adapter-kinds-differ", prompt.path, error=MismatchError):
        learn("inc-lora", "second", package="prompts")
    for method in METHODS[1:]:
        with refused("method-state-missing", prompt.path, error=MismatchError):
            learn(method, "second", package="prompts")
    for options, flag in (({"shard": True}, "--shard"), ({"quantize": "4bit"}, "--quantize 4bit")):
        with refused("option-not-for-soft-prompts", flag, error=OptionError):
            learn("prog-prompt", "second", package="prompts", **options)
    with refused("methods-disagree", "prog-prompt", error=OptionError):
        learn("prog-prompt+ewc", method_options={})
    with refused("option-out-of-range", "chosen=5", error=OptionError):
        L2p(pool=4, chosen=5)


def step_of(queries, **given):
    """Return a run whose first step has these rows, and their batch in two parts."""
    run = SimpleNamespace(embeddings=lambda: queries, batches=[range(len(queries))], step=0, **given)
    parts = [SimpleNamespace(rows=rows, logits=queries) for rows in torch.arange(len(queries)).split(1)]
    return run, parts


def test_l2p_pulls_the_chosen_keys_to_their_inputs_and_counts_them():
    # (0.8, 0.6, 0) chooses the first two of three keys, 1 - 0.8 and 1 - 0.6 away; (0, 0, 1) the third and, of two equal ones, the first
    run, parts = step_of(torch.tensor([[0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]), own={"keys": torch.eye(3)})
    run.kept = {"before": torch.zeros(3), "now": torch.zeros(3)}
    method = L2p(pool=3, length=1, chosen=2, pull=0.5)
    found = sum(method.loss(run, part).item() for part in parts)
    assert found == pytest.approx(0.5 * (0.2 + 0.4 + 0.0 + 1.0) / 2)
    assert run.kept["now"].tolist() == [2, 1, 1]
    run.kept["before"] = torch.tensor([5.0, 0.0, 1.0])
    assert method.finish(run)["counts"].tolist() == [7, 1, 2]


def test_dual_prompt_pulls_the_task_s_key_to_its_inputs():
    run, parts = step_of(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), own={"key": torch.tensor([3.0, 0.0])})
    found = sum(DualPrompt(pull=2.0).loss(run, part).item() for part in parts)
    assert found == pytest.approx(2 * (0.0 + 0.4) / 2)


def run_after(last):
    """Return a run after one adapter, which keeps what a method gives it and the tokens that it chooses for two rows."""
    run = SimpleNamespace(past=[last], seed=0, own={}, kept={}, drawn_tokens=lambda count: torch.zeros(count, 4))
    run.embeddings = lambda: torch.eye(4)[:2]
    run.parameter = lambda name, start, lasts=True: run.own.setdefault(name, start)
    run.prompt = lambda vectors, choose: run.own.update(chosen=choose(torch.arange(2)))
    return run


def test_l2p_goes_on_with_the_pool_its_keys_and_their_counts():
    keys = torch.tensor([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    state = {"keys": keys, "counts": torch.tensor([3.0, 3.0])}
    run = run_after(SimpleNamespace(prompt=lambda: torch.full((4, 4), 7.0), state=lambda: state))
    L2p(pool=2, length=2, chosen=1).begin(run)
    assert torch.equal(run.own["pool"], torch.full((4, 4), 7.0))
    assert torch.equal(run.own["keys"], keys)
    assert run.kept["before"].tolist() == [3, 3] and run.kept["now"].tolist() == [0, 0]
    # The first row's key is the second one, whose two tokens come after the last adapter's four and the first prompt's two.
    assert run.own["chosen"].tolist() == [[6, 7], [4, 5]]


def test_dual_prompt_goes_on_with_the_general_prompt_and_draws_an_expert_and_its_key():
    run = run_after(SimpleNamespace(prompt=lambda: torch.full((3, 4), 7.0), state=lambda: {"key": torch.ones(4)}))
    DualPrompt(general=1, expert=2).begin(run)
    assert run.own["prompts"].tolist() == [[7.0] * 4, [0.0] * 4, [0.0] * 4]
    assert run.own["chosen"].tolist() == [[3, 4, 5]]  # the run's own, after those of the last adapter
    assert not torch.equal(run.own["key"], torch.ones(4))


def test_prompts_stand_from_the_newest_to_the_oldest_each_in_its_own_order():
    assert newest_first([2, 1, 3]).tolist() == [3, 4, 5, 2, 0, 1]
