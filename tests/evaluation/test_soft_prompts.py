"""Soft prompts at evaluation: clora answers as PEFT does, row by row, whatever is in the batch and however fast it goes."""

from __future__ import annotations

import pytest
import torch
from prompted import peft_prompt, through_peft
from refusals import refused
from support import FAMILIES, write_task
from torch.testing import assert_close

from clora_cli.base.errors import OptionError
from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.evaluation.answers import generate, rank_labels
from clora_cli.evaluation.prompted import Prompted
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.soft_prompts import SoftPrompts
from clora_cli.options import EvalOptions
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.package import read_package

pytestmark = pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT's own


def of_peft(base, adapter, prompts):
    """Return PEFT's answers, one row at a time: in its batches, padding comes between a soft prompt and its text."""
    model, tokens, found = through_peft(base, adapter), base.tokens, []
    start = {"decoder_start_token_id": tokens.start} if base.kind == "seq2seq" else {}
    for ids in prompts.ids:
        given = torch.tensor([ids])
        settings = {"max_new_tokens": prompts.room, "do_sample": False, "eos_token_id": list(tokens.ends())}
        answer = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), pad_token_id=tokens.pad, **settings, **start
        )[0].tolist()
        answer = answer[1:] if base.kind == "seq2seq" else answer[len(ids) :]
        end = next((place for place, token in enumerate(answer) if token in tokens.ends()), len(answer))
        found.append(base.tokenizer.decode(answer[:end], skip_special_tokens=True).strip())
    return found


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", "PROMPT_TUNING"), ("gpt2", "PROMPT_TUNING"), ("t5", "PROMPT_TUNING"), ("llama", "P_TUNING")],
)
def test_a_prompt_that_peft_trained_gives_peft_s_answers(backbone, tasks, tmp_path, family, kind):
    folder = peft_prompt(backbone(family), tmp_path / "theirs", steps=3, kind=kind)
    base, task = backbone(family), load_task(str(tasks["first"]))
    prompts = Prompts.encode(base, task, task.test, 512, 4)
    bare = generate(prompts, prompts.room, lambda rows: None)
    combination, members = Prompted(base, [read_adapter(folder)], "sum"), [read_adapter(folder)]
    adapted, before = combination.use(members, prompts)
    found = generate(adapted, prompts.room, lambda rows: None, before)
    combination.use([], prompts)
    assert generate(prompts, prompts.room, lambda rows: None) == bare != found
    assert found == of_peft(backbone(family), folder, prompts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", ["", "a long start that all of these texts have in common: "])
def test_batches_and_what_is_read_once_change_no_answer(backbone, tmp_path, family, start, monkeypatch):
    base, task = backbone(family), load_task(str(write_task(tmp_path / "task", start=start)))
    vectors = 0.5 * torch.randn(2, 3, SoftPrompts(base.model, base.kind).width)
    if base.kind == "causal":  # plainly: every row by itself, everything read anew
        monkeypatch.setattr(type(base.sharing), "shares", False)
    first = SoftPrompts(base.model, base.kind).first
    beginnings = [[first + 3 * (row % 2) + place for place in range(3)] for row in range(len(task.test))]

    def answers(batch_size):
        soft = SoftPrompts(base.model, base.kind)
        prompts = Prompts.encode(base, task, task.test, 512, batch_size).after(beginnings)
        soft.activate(vectors.flatten(0, 1))
        found = generate(prompts, 5, lambda rows: None), rank_labels(prompts, task.labels, lambda rows: None)
        soft.activate(None)
        return found

    plain = answers(1)
    monkeypatch.undo()
    assert answers(4) == plain
    beginnings = [beginnings[0]] * len(beginnings)  # now all have it in common
    shared = answers(4)
    assert shared != plain
    if base.kind == "causal":
        assert base.sharing._goes_on or not start
        monkeypatch.setattr(type(base.sharing), "shares", False)
    assert answers(1) == shared


def test_vectors_stand_where_the_virtual_tokens_are_and_the_model_is_left_as_it_was(backbone):
    base = backbone("llama")
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base.model(input_ids=ids).logits
    soft = SoftPrompts(base.model, "causal")
    vectors = torch.randn(2, soft.width)
    soft.activate(vectors)
    given = torch.tensor([[soft.first + 1, 5, 6, soft.first]])
    table = base.model.get_input_embeddings().weight
    embedded = torch.stack([vectors[1], table[5], table[6], vectors[0]])[None]
    found = base.model(input_ids=given).logits
    soft.activate(None)
    assert_close(found, base.model(inputs_embeds=embedded).logits)
    assert torch.equal(base.model(input_ids=ids).logits, before)
    assert given.tolist() == [[soft.first + 1, 5, 6, soft.first]]
    with refused("soft-prompt-width-differs", soft.width, soft.width + 1):
        soft.activate(torch.zeros(2, soft.width + 1))


def test_eval_scores_peft_s_folders_by_every_way_that_soft_prompts_have(backbone, tasks, tmp_path, model_folder):
    base = backbone("llama")
    for seed, name in enumerate(("first", "second")):
        peft_prompt(base, tmp_path / "theirs" / name, tokens=2 + seed, seed=seed)
    members = read_package([tmp_path / "theirs"])
    loaded = [load_task(str(tasks[name])) for name in ("first", "second")]

    def scores(combine, chosen=members):
        options = EvalOptions(combine=combine, score="labels", device="cpu", model=str(model_folder("llama")))
        return [entry.per_row for entry in evaluate(chosen, loaded, options).rows[-1].scores.values()]

    assert scores("task-id") == [scores("sum", members[:1])[0], scores("sum", members[1:])[1]]
    assert scores("last") == scores("auto", members[1:])
    assert scores("none") == scores("none", [])
    assert scores("progressive") == scores("task-id")  # nothing says that one was trained on top of the other
    for combine in ("magmax", "weighted", "route"):
        with refused("soft-prompts-not-combined-so", combine, members[0].path, error=OptionError):
            scores(combine)
    with refused("method-learns-no-weights"):
        scores("learned")


def test_general_ability_is_measured_without_the_soft_prompt_s_own_positions(backbone, tasks, tmp_path, model_folder):
    members = [read_adapter(peft_prompt(backbone(), tmp_path / "first", scale=0.0))]
    task = load_task(str(tasks["first"]))
    options = EvalOptions(
        combine="sum", device="cpu", model=str(model_folder("llama")), retention=(str(tasks["second"]),)
    )
    kept = evaluate(members, [task], options).rows[-1].retention
    (found,) = kept.values()
    assert found.divergence > 0
    probe = load_task(str(tasks["second"]))
    assert found.tokens == sum(map(len, Prompts.encode(backbone(), probe, probe.test, 512, 4).ids))


def test_a_prompt_too_long_for_the_model_is_refused(backbone, tasks):
    base, task = backbone("gpt2"), load_task(str(tasks["first"]))
    prompts = Prompts.encode(base, task, task.test, 512, 4)
    positions = base.tokens.positions
    with refused("soft-prompt-too-long", positions, "--max-length"):
        prompts.after([list(range(positions))] * len(prompts.ids))
    longest = max(map(len, prompts.ids))
    assert prompts.after([[1] * (positions - longest - 2)] * len(prompts.ids)).room == 2
