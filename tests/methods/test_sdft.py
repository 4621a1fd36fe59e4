from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from support import options_for, run_of, train

from clora_cli.methods import Text
from clora_cli.methods.sdft import Sdft
from clora_cli.model.drawing import Draw
from clora_cli.training import make_plan
from clora_cli.training.build import build

LOGS = [[math.log(0.5), math.log(0.25), math.log(0.25)]]


def test_by_hand():
    # teacher (1/2, 1/4, 1/4), student uniform: ln 3 - 1.5 ln 2; of the likeliest alone, 1/2 ln 3/2 + 1/2 ln 3/4
    student, teacher = torch.zeros(1, 3), torch.tensor(LOGS)
    assert Sdft(top_k=0).divergence(student, teacher).item() == pytest.approx(math.log(3) - 1.5 * math.log(2))
    expected = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
    assert Sdft(top_k=1).divergence(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert Sdft(top_k=2).divergence(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_rows_are_weighed_by_their_right_answers_and_odd_ones_left_out():
    # tokens of drawn answers: 2, 1, 2; the third is parted otherwise after the other prompt. Right answers have 1, 3 and 5 tokens.
    asked = []

    def said_logits(said, instead=None, before=None):
        asked.append((said, before))
        counts = torch.tensor([2, 1, 3 if instead is not None else 2])
        logits = torch.tensor(LOGS * int(counts.sum())) if instead is not None else torch.zeros(int(counts.sum()), 3)
        return logits, counts

    run = SimpleNamespace(
        texts=[Text("t", f"q{n}", f"a{n}") for n in range(3)],
        sampled=lambda rows, draw: [f"said {row}" for row in rows],
        said_logits=said_logits,
        kept={},
        trainable={},
    )
    labels = torch.tensor([[-100] * 4 + [1], [-100] * 2 + [1] * 3, [1] * 5])
    batch = SimpleNamespace(rows=torch.arange(3), inputs={"labels": labels}, tokens=9)
    one = math.log(3) - 1.5 * math.log(2)
    assert Sdft(top_k=0).loss(run, batch).item() == pytest.approx((1 + 3) * one / 9, rel=1e-5)
    assert asked[0][0] == asked[1][0] == [(0, "said 0"), (1, "said 1"), (2, "said 2")]
    assert asked[0][1] is None and asked[1][1] == ["q0 a0\n\n", "q1 a1\n\n", "q2 a2\n\n"]


def test_right_answers_teach_through_the_teacher_alone(model_folder, tasks, tmp_path):
    """With a teacher that is the student under the same prompt there is nothing to learn: no cross-entropy is left."""
    how = {"method": "sdft", "max_steps": 1, "method_options": {"top_k": "0"}}

    def slope(package):
        folder = train(model_folder("llama"), tasks["first"], tmp_path / package, **how)
        return json.loads((folder.path / "log.jsonl").read_text())["grad_norm"]

    taught = slope("adapters")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("clora_cli.methods.sdft._shown", lambda text: "")
        untaught = slope("same")
    assert untaught < 1e-5 and taught > 1e-3


def test_answers_are_drawn_anew_at_each_step_and_alike_in_each_run(model_folder, tasks, tmp_path):
    plan = make_plan(options_for(model_folder("llama"), tasks["first"], tmp_path / "adapters", method="sdft"))
    run = run_of(plan, build(plan))
    how = Draw(temperature=1.0)
    first = run.sampled([0, 1, 2], how)
    assert run.sampled([0, 1, 2], how) == first and run.sampled([1], how) == first[1:2]
    run.step = 1
    assert run.sampled([0, 1, 2], how) != first


def test_the_likeliest_tokens_are_the_teacher_s():
    # teacher (1/8, 7/8), student (3/4, 1/4): over the teacher's likeliest token and the rest
    student, teacher = torch.tensor([[0.75, 0.2, 0.05]]).log(), torch.tensor([[0.05, 0.875, 0.075]]).log()
    expected = 0.875 * math.log(0.875 / 0.2) + 0.125 * math.log(0.125 / 0.8)
    assert Sdft(top_k=1).divergence(student, teacher).item() == pytest.approx(expected, rel=1e-5)
