"""Ranking and generation against loops without cache, padding or batches."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from refusals import refused
from support import FAMILIES, Signals

from clora_cli.data import IGNORED, Example, Task, encode, encode_answer, load_task
from clora_cli.evaluation.answers import generate, rank_labels
from clora_cli.evaluation.bench import encoded
from clora_cli.evaluation.likelihoods import Likelihoods
from clora_cli.evaluation.prompts import Prompts
from clora_cli.options import EvalOptions


@pytest.fixture
def task(tasks):
    return load_task(str(tasks["first"]))


def logits_after(backbone, ids, answer):
    """Return the logits that predict an answer's tokens, from one row alone."""
    with torch.no_grad():
        if backbone.kind == "causal":
            whole = torch.tensor([ids + answer])
            return backbone.model(input_ids=whole, use_cache=False).logits[0, len(ids) - 1 : -1]
        start = backbone.model.config.decoder_start_token_id
        given = torch.tensor([[start, *answer[:-1]]])
        return backbone.model(input_ids=torch.tensor([ids]), decoder_input_ids=given).logits[0]


def naive_likelihoods(backbone, prompts, labels):
    """Run every prompt with every label on its own."""
    rows = []
    for ids, example in zip(prompts.ids, prompts.examples, strict=True):
        answers = [encode_answer(example, label, backbone.tokenizer, kind=backbone.kind) for label in labels]
        scores = [logits_after(backbone, ids, a).log_softmax(-1)[range(len(a)), a].sum() for a in answers]
        rows.append(torch.stack(scores))
    return torch.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_ranking_equals_a_naive_loop(backbone, task, family, batch_size):
    base = backbone(family)
    base.model.double()
    prompts = Prompts.encode(base, task, task.test, 64, batch_size)
    assert len({len(ids) for ids in prompts.ids}) > 1
    assert len({len(ids) for ids in prompts.labels}) > 1
    expected = naive_likelihoods(base, prompts, task.labels)
    likelihoods = Likelihoods(base, prompts.labels)
    with torch.no_grad():
        for rows, batch in prompts.batches():
            found = likelihoods.of(batch)
            assert torch.allclose(found.double(), expected[rows], rtol=1e-5, atol=1e-5)
    done = []
    ranked = rank_labels(prompts, task.labels, done.append)
    assert ranked == [task.labels[index] for index in expected.argmax(dim=1).tolist()]
    assert sum(done) == len(task.test)


def test_rows_times_labels_stay_within_a_batch(backbone, task):
    base = backbone("llama")
    prompts = Prompts.encode(base, task, task.test, 64, 7)
    widths = []
    rank_labels(prompts, task.labels, lambda count: None, lambda rows, mask: widths.append(len(rows)))
    assert len(task.labels) > 1
    assert max(widths) == 7 // len(task.labels)


def greedy(backbone, ids, length):
    """Return the greedy answer's tokens, without a cache, up to the end of sequence."""
    tokenizer = backbone.tokenizer
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    said: list[int] = []
    while len(said) < length and not ends & set(said):
        said.append(int(logits_after(backbone, ids, [*said, 0])[-1].argmax()))
    return said


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_in_batches_equals_greedy_search_one_by_one(backbone, task, family):
    base = backbone(family)
    base.model.double()
    prompts = Prompts.encode(base, task, task.test, 64, 4)
    answers = generate(prompts, 7, lambda rows: None)
    expected = [base.tokenizer.decode(greedy(base, ids, 7), skip_special_tokens=True).strip() for ids in prompts.ids]
    assert answers == expected
    assert len(set(answers)) > 1
    alone = generate(Prompts.encode(base, task, task.test, 64, 1), 7, lambda rows: None)
    assert answers == alone


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_come_longest_first_and_every_row_once(backbone, task, family):
    prompts = Prompts.encode(backbone(family), task, task.test, 64, 4)
    rows, widths = [], []
    for numbers, batch in prompts.batches():
        rows += numbers
        widths.append(batch["input_ids"].shape[1])
        side = -1 if family in {"llama", "gpt2"} else 0
        assert batch["attention_mask"][:, side].all()
    assert sorted(rows) == list(range(len(task.test)))
    assert widths == sorted(widths, reverse=True)


ENDS = ("", " ", ".", "\n", "", "  ")


@pytest.fixture
def plain():
    """A task of plain prompts, of which some end in white space, with labels that begin with one another."""
    labels = ("great", "great deal", "very bad", "very")
    ends = enumerate(ENDS * 2)
    rows = tuple(Example("", f"the boat was seen {'now ' * (row % 5)}{row}{end}", "", ("very",)) for row, end in ends)
    return Task("plain", (), (), rows, labels, "exact-match", "made up", "plain")


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_ranked_as_training_writes_them_after_each_prompt(backbone, plain, family):
    base = backbone(family)
    base.model.double()
    prompts = Prompts.encode(base, plain, plain.test, 512, 4)
    parts = [numbers for numbers, _ in prompts.by_labels()]
    assert len(parts) == (2 if base.kind == "causal" else 1)
    assert sorted(row for numbers in parts for row in numbers) == list(range(len(plain.test)))
    best = []
    for row, ids in zip(plain.test, prompts.ids, strict=True):
        items = [encode(row, base.tokens, kind=base.kind, max_length=512, answer=label) for label in plain.labels]
        learned = [[token for token in item["labels"] if token != IGNORED] for item in items]
        scores = [logits_after(base, ids, a).log_softmax(-1)[range(len(a)), a].sum().item() for a in learned]
        best.append(plain.labels[scores.index(max(scores))])
    assert rank_labels(prompts, plain.labels, lambda rows: None) == best


def test_whoever_weighs_adapters_is_told_the_rows_of_each_batch_however_prompts_end(backbone, plain):
    base = backbone("llama")
    prompts, told = Prompts.encode(base, plain, plain.test, 512, 4), []

    def before(rows, mask):
        assert mask.sum(dim=1).tolist() == [len(prompts.ids[row]) for row in rows]
        told.extend(rows)

    rank_labels(prompts, plain.labels, lambda rows: None, before)
    assert sorted(told) == list(range(len(plain.test)))


def test_a_label_that_has_no_room_after_some_prompts_alone_is_refused_before_any_is_read(backbone, plain, monkeypatch):
    base = backbone("llama")
    prompts = Prompts.encode(base, plain, plain.test, 512, 4)
    longest = [max(map(len, part.labels)) for _, part in prompts.by_labels()]
    assert longest[0] != longest[1]
    monkeypatch.setattr(base.model, "forward", lambda **given: pytest.fail("a prompt is read"))
    with refused("label-too-long", max(longest) - 1):
        rank_labels(dataclasses.replace(prompts, room=max(longest) - 1), plain.labels, lambda rows: None)


@pytest.mark.parametrize(("family", "told"), [("t5", 1), ("llama", 0)])
def test_labels_that_are_the_same_tokens_are_told(backbone, plain, family, told):
    signs, listener = ("very", "正", "负"), Signals()
    encoded(backbone(family), [dataclasses.replace(plain, labels=signs)], EvalOptions(), listener)
    notes = [note for note in listener.notes if "same tokens" in note]
    assert len(notes) == told and all("'正' and '负'" in note for note in notes)
