"""A model of few positions is trained, evaluated, given features and routed within them; what is cut is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from refusals import refused
from support import Signals, options_for
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.options import EvalOptions, FeatureOptions, RouteOptions, RouteSettings
from clora_cli.routing.dispatch import Dispatcher
from clora_cli.routing.inputs import inputs_of_task
from clora_cli.store.package import read_package
from clora_cli.training import make_plan, train_task
from clora_cli.transforming import plan_features, take_features


@pytest.fixture
def short(tmp_path, model_folder):
    """A GPT-2 of 48 positions."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder("gpt2"))
    torch.manual_seed(0)
    size = {"n_positions": 48, "n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.5}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **size)).save_pretrained(
        tmp_path / "short"
    )
    tokenizer.save_pretrained(tmp_path / "short")
    return tmp_path / "short"


def write_rows(path: Path, label: str, key: str) -> Path:
    rows = [{key: "word " * 60 + str(number), label: "ab"[number % 2]} for number in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_command_stays_within_the_positions(short, tmp_path):
    data = write_rows(tmp_path / "long.jsonl", "label", "text")
    told = Signals()
    train_task(make_plan(options_for(short, data, tmp_path / "package", max_steps=1)), progress=told)
    assert any("48 positions: prompts are cut to 48 tokens, not to 512" in note for note in told.notes)
    members, tasks = read_package([tmp_path / "package"]), [load_task(str(data))]
    for score in ("generate", "labels"):
        told = Signals()
        scores = evaluate(members, tasks, EvalOptions(score=score, device="cpu"), progress=told)
        assert scores.rows[0].scores["long"].total == len(tasks[0].test)
        assert any("has 48 positions" in note for note in told.notes)
    told = Signals()
    take_features(plan_features(members, FeatureOptions(device="cpu", data=(str(data),))), told)
    assert any("has 48 positions" in note for note in told.notes)
    members = read_package([tmp_path / "package"])
    dispatcher = Dispatcher(members, RouteOptions(top_k=0), RouteSettings(device="cpu"))
    dispatcher.start()
    assert len(list(dispatcher.decide(inputs_of_task(tasks[0], "test", 0)))) == 1


def test_answers_that_are_cut_off_are_counted_and_told(short, tmp_path):
    task = load_task(str(write_rows(tmp_path / "open.jsonl", "completion", "prompt")), metric="rouge-l")
    for length, room, reason in ((5, 5, "--max-new-tokens allows no more"), (500, 24, "no more positions")):
        told = Signals()
        options = EvalOptions(model=str(short), max_new_tokens=length, device="cpu")
        cell = evaluate([], [task], options, progress=told).rows[0].scores["open"]
        assert 0 < cell.cut <= cell.total
        expected = f"{cell.cut} of {cell.total} answers were cut off after {room} tokens"
        assert any(expected in note and reason in note for note in told.notes)


def test_a_tokenizer_of_another_model_is_refused_before_anything_is_trained(short, tmp_path, tasks):
    tokenizer = AutoTokenizer.from_pretrained(short)
    tokenizer.add_tokens(["boat", "lunch", "film", "book", "lamp", "song", "was", "seemed", "felt", "looked"])
    tokenizer.save_pretrained(short)
    with refused("tokenizer-other-model", short):
        train_task(make_plan(options_for(short, tasks["first"], tmp_path / "package")))
    assert not (tmp_path / "package" / "first").exists()
    options = EvalOptions(model=str(short), device="cpu")
    with refused("tokenizer-other-model", short):
        evaluate([], [load_task(str(tasks["first"]))], options)
