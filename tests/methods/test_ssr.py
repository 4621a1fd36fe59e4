from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from support import Signals, contents, options_for, run_of, train

from clora_cli.base.errors import InterruptedRunError
from clora_cli.methods import MadeRow
from clora_cli.methods.ssr import Ssr
from clora_cli.model.drawing import Draw
from clora_cli.training import make_plan, train_task
from clora_cli.training.build import build
from clora_cli.training.rehearsal import rehearsed


def state_of(questions):
    return {"questions": torch.frombuffer(bytearray(json.dumps(questions).encode()), dtype=torch.uint8)}


def test_by_hand():
    # six near (0, 0), the nearest to their mean (0.5, 0) are 2 and 3; three near (9, 0), the nearest to theirs is 7; three rows: 2 and 1
    near, far = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [8.0, 9.0, 10.0]
    vectors = torch.tensor([[place, 0.0] for place in near + far])
    assert Ssr(rows=3, groups=2).chosen(vectors, seed=0) == [2, 3, 7]
    assert Ssr(rows=20, groups=2).chosen(vectors, seed=0) == list(range(9))
    assert len(Ssr(rows=5, groups=4).chosen(vectors, seed=1)) == 5


def test_questions_are_kept_as_they_are_made_and_answered_by_the_latest_model():
    made = ["wörld?", "two\nlines", "third"]
    run = SimpleNamespace(
        seed=0, imagined=lambda count, shots, draw: made[:count], embedded=lambda questions: torch.eye(3)
    )
    state = Ssr(rows=3, surplus=2).finish(run)
    assert state["questions"].dtype == torch.uint8
    writer = SimpleNamespace(
        answers=lambda questions: ["" if "two" in question else f"({question})" for question in questions]
    )
    earlier = SimpleNamespace(state=lambda: state)
    assert Ssr().rehearse(earlier, 3, writer) == [MadeRow("wörld?", "(wörld?)"), MadeRow("third", "(third)")]
    assert Ssr().rehearse(earlier, 1, writer) == [MadeRow("wörld?", "(wörld?)")]


def test_nothing_made_is_nothing_kept():
    run = SimpleNamespace(seed=0, imagined=lambda count, shots, draw: [])
    assert state_of([])["questions"].tolist() == Ssr().finish(run)["questions"].tolist()


HOW = {"method": "ssr", "method_options": {"rows": "4", "temperature": "1.5"}, "max_steps": 4}


def test_no_row_of_the_task_is_kept_and_made_ones_are_trained_on(model_folder, tasks, tmp_path):
    """What public code reads again, rows of earlier tasks, is not needed: the data may be gone."""
    data = shutil.copytree(tasks["first"], tmp_path / "first")
    first = train(model_folder("llama"), data, tmp_path / "adapters", **HOW)
    questions = json.loads(bytes(first.state()["questions"].tolist()))
    rows = [json.loads(line)["text"] for line in (data / "train.jsonl").read_text().splitlines()]
    assert 1 <= len(questions) <= 4 and all(question.endswith("\nAnswer:") for question in questions)
    assert not {question.removesuffix("\nAnswer:") for question in questions} & {*rows}
    shutil.rmtree(data)
    second = train(model_folder("llama"), tasks["second"], tmp_path / "adapters", **HOW)
    assert second.manifest.scores["rehearsed"]["first"]["wanted"] == 4
    plan = make_plan(options_for(model_folder("llama"), tasks["second"], tmp_path / "adapters", **HOW))
    assert plan.finished() is not None and not plan.method.lead.reuses_data


def test_an_interrupted_run_rehearses_the_same_rows(model_folder, tasks, tmp_path):
    def plan(task, package):
        return make_plan(options_for(model_folder("llama"), tasks[task], tmp_path / package, **HOW))

    for package in ("undisturbed", "adapters"):
        train_task(plan("first", package))
    expected = contents(train_task(plan("second", "undisturbed"))[0].path)
    with pytest.raises(InterruptedRunError):
        train_task(plan("second", "adapters"), progress=Signals(after=4 + 2))  # rows that are made, then steps
    assert contents(train_task(plan("second", "adapters"), resume=True)[0].path) == expected


def test_questions_are_the_bare_base_model_s_and_their_answers_those_of_the_model_as_it_is(
    model_folder, tasks, tmp_path, backbone, monkeypatch
):
    chosen = {"method": "ssr", "method_options": {"rows": "2"}}
    train(model_folder("llama"), tasks["first"], tmp_path / "adapters", lr=0.05, **chosen)
    plan = make_plan(options_for(model_folder("llama"), tasks["second"], tmp_path / "adapters", **chosen))
    built, ids, seen = build(plan), torch.tensor([[5, 6, 7]]), {}

    def spy(name):
        def write(given, prompts, *rest, **how):
            with torch.no_grad():
                seen[name] = given.model(input_ids=ids).logits
            return ["x"] * len(prompts)

        return write

    monkeypatch.setattr("clora_cli.training.rehearsal.write", spy("answers"))
    monkeypatch.setattr("clora_cli.model.imagining.write", spy("questions"))
    rehearsed(plan, built, Signals())
    for factor in built.trainable.values():
        torch.nn.init.normal_(factor.b, generator=torch.Generator().manual_seed(0))
    run_of(plan, built).imagined(2, 1, Draw(temperature=1.0))
    with torch.no_grad():
        base = backbone("llama").model(input_ids=ids).logits
    assert torch.allclose(seen["questions"], base, atol=1e-5)
    assert not torch.allclose(seen["answers"], base, atol=1e-3)
