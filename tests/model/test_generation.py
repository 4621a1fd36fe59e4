from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from support import FAMILIES

from clora_cli.data import Example, load_task
from clora_cli.model.drawing import Draw, Drawing
from clora_cli.model.generation import write
from clora_cli.model.imagining import imagine

PROMPTS = [Example("", text, "", ()) for text in ("the boat was", "our lunch", "a new lamp remained here")]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_drawn_depends_on_the_row_s_seed_and_not_on_the_batch(backbone, family):
    base = backbone(family)
    draws = [Draw(temperature=1.0, seed=seed) for seed in (1, 2, 3)]
    limits = {"most": 6, "max_length": 64}
    whole = write(base, PROMPTS, draws, batch_size=3, **limits)
    alone = [write(base, [row], [draw], batch_size=1, **limits)[0] for row, draw in zip(PROMPTS, draws, strict=True)]
    assert whole == alone
    assert write(base, PROMPTS, [Draw(temperature=1.0, seed=9)] * 3, batch_size=3, **limits) != whole


def test_tokens_are_drawn_as_often_as_they_are_likely_among_those_left():
    scores = torch.log(torch.tensor([0.1, 0.4, 0.3, 0.2]))

    def shares(**how):
        drawing = Drawing([Draw(temperature=1.0, seed=0, **how)])
        counts = Counter(int(drawing(torch.zeros(1, 1), scores[None].clone()).argmax()) for _ in range(2000))
        return [counts[token] / 2000 for token in range(4)]

    assert shares() == pytest.approx([0.1, 0.4, 0.3, 0.2], abs=0.03)
    assert shares(top_k=2) == pytest.approx([0, 4 / 7, 3 / 7, 0], abs=0.03)
    assert shares(top_p=0.75) == pytest.approx([0, 4 / 9, 3 / 9, 2 / 9], abs=0.03)
    assert shares(top_k=1) == shares(top_p=1e-9) == [0, 1, 0, 0]


def test_new_questions_keep_instruction_and_cue_and_repeat_no_row(backbone, tasks):
    rows = load_task(str(tasks["first"])).train
    how = {"shots": 2, "draw": Draw(temperature=1.5, seed=3), "max_length": 128}
    found = imagine(backbone("llama"), rows, 5, batch_size=5, **how)
    assert len(found) == 5 == len(set(found))
    assert all(question.endswith(rows[0].cue) and "\nText" not in question for question in found)
    assert not {*found} & {row.prompt for row in rows}
    assert imagine(backbone("llama"), rows, 5, batch_size=2, **how) == found


def test_a_new_question_that_is_too_long_loses_the_start_of_its_text_alone(backbone, tasks):
    rows = [dataclasses.replace(row, head="is it good\n") for row in load_task(str(tasks["first"])).train]
    model = backbone("llama")
    how = {"shots": 1, "draw": Draw(temperature=1.5, seed=3), "batch_size": 5}
    whole, cut = (imagine(model, rows, 5, max_length=most, **how) for most in (128, 24))
    assert max(len(model.tokens.ids(question, special=True)) for question in whole) > 30
    assert all(len(model.tokens.ids(question, special=True)) <= 25 for question in cut)
    assert all(question.startswith("is it good\n") and question.endswith(rows[0].cue) for question in cut)


def test_a_model_that_repeats_itself_gives_fewer_questions(backbone, tasks):
    rows = load_task(str(tasks["first"])).train[:1]
    how = {"shots": 1, "draw": Draw(seed=3), "max_length": 128, "batch_size": 4}
    assert len(imagine(backbone("llama"), rows, 4, **how)) <= 1
