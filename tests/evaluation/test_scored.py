"""Answers that a scorer scores, with references or without."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from refusals import refused

from clora_cli.api.scoring import plan_scoring
from clora_cli.base import plugin_sources, registry
from clora_cli.base.progress import Silent
from clora_cli.data import load_task
from clora_cli.evaluation.bench import number_of
from clora_cli.evaluation.scored import scored_by
from clora_cli.options import EvalOptions
from clora_cli.store.scores import read_scores

SCORER = '''"""Share of what is asked for."""
from dataclasses import dataclass
from clora_cli.scorers import Scorer
__all__ = ["Mine"]
@dataclass(frozen=True, kw_only=True)
class Mine(Scorer):
    """Share of what is asked for.

    Args:
        times: A factor.
    """
    times: float = 1.0
    def score(self, answer, prompt, references):
        return {value}
'''


@pytest.fixture
def scorer(tmp_path, monkeypatch):
    """Write a scorer that returns the value of an expression, and return its name."""
    monkeypatch.setattr(plugin_sources, "_admitted", {})

    def make(value):
        (tmp_path / "mine.py").write_text(SCORER.replace("{value}", value), encoding="utf-8")
        return registry.admit("scorers", str(tmp_path / "mine.py"))

    return make


@pytest.fixture
def prompts(tmp_path):
    """A file of prompts without answers."""
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {word}."}) + "\n" for word in ("yes", "no")), encoding="utf-8")
    return str(path)


def planned(data, out=None, **options):
    limits = dict.fromkeys(("fail_under", "max_forgetting", "max_general_loss"))
    given = {"limits": limits, "baseline": (), "out": out, "mend": "", "progress": Silent()}
    return plan_scoring((), EvalOptions(data=(data,), model="clora-nano", device="cpu", **options), **given)


def test_prompts_without_answers_are_scored_where_a_scorer_is_named(prompts, scorer, tmp_path):
    name = scorer("self.times * len(prompt) / 100 if not references else 0.0")
    scores, _ = planned(prompts, tmp_path / "s.json", scorer=f"{name},times=2", max_new_tokens=2).carry_out(Silent())
    cell = scores.rows[-1].scores["asked"]
    assert (cell.metric, cell.per_row, cell.correct) == ("mine", (0.16, 0.14), None)
    assert cell.formula == "100 * mean over rows of mine,times=2: Share of what is asked for."
    kept = read_scores(tmp_path / "s.json")
    assert kept.rows == scores.rows
    assert kept.settings["scorer"] == "mine,times=2" and "mine" in kept.settings["plugins"]["scorers"]


def test_prompts_without_answers_are_refused_in_a_line_where_none_is_named(prompts):
    with refused("columns-not-recognised", "clora eval --scorer"):
        planned(prompts)


def test_rows_with_answers_stay_the_task_that_they_are(tmp_path):
    rows = [{"prompt": f"p {number}", "answer": "a"} for number in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    name = str(tmp_path / "rows.jsonl")
    assert load_task(name, prompts=True) == load_task(name)


def test_a_row_without_a_prompt_is_refused_with_a_scorer_too(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p"}\n{"prompt": " "}\n', encoding="utf-8")
    with refused("prompt-empty", "line 2"):
        load_task(str(tmp_path / "rows.jsonl"), prompts=True)


@pytest.mark.parametrize("value", ["1.5", "-0.1", "float('nan')", "'yes'", "None"])
def test_a_score_out_of_range_is_refused_with_the_scorer_s_file(value, scorer):
    with refused("scorer-out-of-range", "mine", "[0, 1]"):
        scored_by(scorer(value)).grade("said", (), "asked")


def test_a_scorer_that_fails_ends_in_a_line(scorer):
    with refused("plugin-fails", "mine.py", "IndexError"):
        scored_by(scorer("references[0]")).grade("said", (), "asked")


def test_what_a_scorer_cannot_go_with_is_refused():
    with refused("option-has-no-effect", "--scorer"):
        EvalOptions(scorer="valid-json", score="labels").check()
    with refused("unknown-name", "nosuch", "valid-json"):
        EvalOptions(scorer="nosuch").check()


def test_answers_are_kept_as_numbers_where_they_are_asked_for(prompts, tmp_path):
    options = {"scorer": "valid-json", "max_new_tokens": 2}
    plain, _ = planned(prompts, **options).carry_out(Silent())
    kept, _ = planned(prompts, tmp_path / "s.json", answers=True, **options).carry_out(Silent())
    cell = kept.rows[-1].scores["asked"]
    assert "answers" not in plain.rows[-1].scores["asked"].to_dict()
    assert len(cell.answers) == 2 and all(0 <= number < 1 << 32 for number in cell.answers)
    assert read_scores(tmp_path / "s.json").rows == kept.rows
    assert number_of("yes") == int.from_bytes(sha256(b"yes").digest()[:4], "big") != number_of("no")
    damaged = (tmp_path / "s.json").read_text(encoding="utf-8").replace(f"{cell.answers[0]}", "-1")
    (tmp_path / "s.json").write_text(damaged, encoding="utf-8")
    with refused("scores-file-damaged", "answers"):
        read_scores(tmp_path / "s.json")
