"""What a method asks about training rows is asked as the rows are trained, and cut as they are."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from support import options_for, run_of, sentences

from clora_cli.training import make_plan
from clora_cli.training.build import build
from clora_cli.training.fit import encoded_rows

BEFORE = "an example of " + "many words " * 60 + "and its answer"


@pytest.fixture
def asking(model_folder, tmp_path, monkeypatch):
    """Return a run over rows that are cut, and what it gives to the model."""

    def make(family, **how):
        data = tmp_path / "long.jsonl"
        texts = [("so it went on and on, " * 12 + text, label) for text, label in sentences(0, 8)]
        rows = [{"instruction": "is it good", "input": text, "output": label} for text, label in texts]
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        plan = make_plan(options_for(model_folder(family), data, tmp_path / "adapters", **how))
        run, given = run_of(plan, build(plan)), []
        monkeypatch.setattr(type(run), "_logits", _spied(type(run)._logits, given))
        return plan, run, given

    return make


def _spied(ask, given):
    def asked(self, items):
        given.append(items)
        return ask(self, items)

    return asked


def prompts(run, items):
    """Return the prompts' text: of a causal item what its labels leave out, of another its whole input."""
    alone = [
        [token for token, label in zip(item["input_ids"], item["labels"], strict=True) if label == -100]
        if len(item["input_ids"]) == len(item["labels"]) and item["labels"][0] == -100
        else item["input_ids"]
        for item in items
    ]
    return [run._built.backbone.tokens.text(ids) for ids in alone]


def squeezed(text):
    return "".join(text.split())


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_a_long_row_is_asked_with_its_instruction_and_what_stands_before_it_keeps_its_end(asking, family):
    plan, run, given = asking(family, max_length=70)
    run.said_logits([(0, "aa"), (1, "bb")])
    run.said_logits([(0, "aa"), (1, "bb")], before=[f"{BEFORE} one\n\n", "short two\n\n"])
    asked, shown = (prompts(run, items) for items in given)
    tokens = run._built.backbone.tokens
    asked, shown = ([squeezed(text) for text in texts] for texts in (asked, shown))
    for row, text in zip(plan.rows, asked, strict=False):
        cue = tokens.text(tokens.ids(row.cue, special=False))  # T5's has no capitals here
        assert text.startswith(squeezed(row.head)) and text.endswith(squeezed(cue))
        assert squeezed(row.body) not in text and squeezed(row.body)[-20:] in text
    assert shown[0].endswith("anditsanswerone" + asked[0])
    assert shown[1] == "shorttwo" + asked[1]
    # As much as a question may have, and no more.
    assert 60 <= len(given[1][0]["input_ids"]) - len(given[0][0]["input_ids"]) <= 72


def test_what_stands_before_takes_the_positions_that_are_left(asking):
    _, run, given = asking("gpt2", max_length=200)  # of 256
    run._progress = SimpleNamespace(warn=(told := []).append)
    run.said_logits([(0, "aa")])
    for _ in range(2):
        run.said_logits([(0, "aa")], before=[f"{BEFORE} one\n\n"])
    (own,), (shown,), _ = given
    assert own["labels"].count(-100) > 190 and 250 < len(shown["input_ids"]) <= 256
    assert len(told) == 1 and "has 256 positions" in told[0]
    assert shown["input_ids"][-len(own["input_ids"]) + 1 :] == own["input_ids"][1:]


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_row_s_embedding_is_what_routing_sees_of_it(asking, family):
    _, run, _ = asking(family, max_length=70)
    assert torch.allclose(run.embedded([3, 0]), run.embeddings()[[3, 0]], atol=1e-6)
    text = run.texts[3].question
    assert not torch.allclose(run.embedded([text]), run.embedded([3]), atol=1e-4)  # as a text it loses its instruction


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_a_long_row_as_a_text_is_what_is_trained_on(asking, family):
    plan, run, _ = asking(family, max_length=70)
    tokens = run._built.backbone.tokens
    for text, item in zip(run.texts, encoded_rows(plan, run._built), strict=True):
        (prompt,) = prompts(run, [item])
        assert squeezed(text.question) == squeezed(prompt)
    assert asking(family, max_length=250)[1].texts[0].question == plan.rows[0].prompt
    # and a text of it and its answer ends with the answer
    text = run.texts[0]
    _, again, given = asking(family, max_length=70)
    again.text_losses([("[long]", f"{text.question} and then: {text.answer}")])
    learned = [label for label in given[0][0]["labels"] if label != -100]
    assert squeezed(tokens.text(learned)).endswith(squeezed(f"and then: {text.answer}"))


def test_a_text_for_which_there_are_too_few_positions_loses_its_start(asking):
    _, run, given = asking("gpt2", max_length=70)  # of 256
    run.text_losses([("[long]", BEFORE * 3 + " which ends here")])
    ((item,),) = given
    assert len(item["input_ids"]) == len(item["labels"]) == 256
    spelled = run._built.backbone.tokens.text(item["input_ids"])
    assert spelled.startswith("[long]") and squeezed(spelled).endswith("whichendshere")
