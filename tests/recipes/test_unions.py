"""Methods that learn a part of a recipe's tasks, and adapters of several methods evaluated together without training."""

from __future__ import annotations

import itertools

import pytest
from refusals import refused

from clora_cli.recipes import read_recipe, to_yaml
from clora_cli.recipes.steps import script, units_of

TEXT = """\
name: parts
model: clora-nano
tasks: [topics-news, topics-wiki, yes-no, inference]
eval: {stages: last, unseen: true}
methods:
  - {method: per-task, label: topics, learns: [topics-news, topics-wiki], stat-features: {limit: 12}}
  - {method: per-task, label: pairs, learns: [yes-no, inference], stat-features: {limit: 12}}
  - {label: both, adapters-of: [pairs, topics], eval: {combine: route}}
seeds: [1]
"""


def test_a_method_learns_its_part_and_is_scored_on_all_tasks_after_the_last_stage():
    topics, pairs, _ = units_of(read_recipe(TEXT, "parts.yaml"))
    assert [(step.kind, step.task) for step in topics.steps] == [
        ("train", "topics-news"),
        ("stat-features", "topics-news"),
        ("train", "topics-wiki"),
        ("stat-features", "topics-wiki"),
        ("eval", "topics-wiki"),
    ]
    words = pairs.steps[-1].words
    scored = [after for word, after in itertools.pairwise(words) if word == "--data"]
    assert scored == ["yes-no", "inference", "topics-news", "topics-wiki"]


def test_a_union_trains_nothing_and_is_one_evaluation_of_all_adapters():
    recipe = read_recipe(TEXT, "parts.yaml")
    topics, pairs, both = units_of(recipe)
    (step,) = both.steps
    assert list(step.words[1:5]) == list(map(str, [*topics.adapters, *pairs.adapters]))
    assert step.made == both.folder / "scores" / "4-inference.json"
    assert f"clora {' '.join(step.words)}" in script(recipe, [both])


def test_a_recipe_of_parts_reads_back_as_itself():
    recipe = read_recipe(TEXT, "parts.yaml")
    assert read_recipe(to_yaml(recipe), "again.yaml") == recipe


def test_a_union_is_swept_over_settings_of_its_evaluation():
    swept = TEXT.replace("eval: {combine: route}}", "eval: {combine: route}, sweep: {eval: {top-k: [1, 2]}}}")
    first, second = read_recipe(swept, "parts.yaml").methods[2:]
    assert (first.label, second.label) == ("both@top-k=1", "both@top-k=2")
    assert first.adapters_of == second.adapters_of == ("pairs", "topics")


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "told"),
    [
        ("learns: [yes-no, inference]", "learns: [yes-no, paraphrase]", "unknown-name", 7, "'paraphrase' is none of"),
        ("learns: [yes-no, inference], ", "", "task-given-twice", 8, "topics-news"),
        ("[pairs, topics]", "[pairs, topic]", "recipe-adapters-missing", 8, "'topic' is no earlier method"),
        ("[pairs, topics]", "[pairs, pairs]", "recipe-value-malformed", 8, "each of them once"),
        ("[pairs, topics], ", "[pairs, topics], train: {rank: 2}, ", "unknown-name", 8, "train"),
        ("stages: last", "stages: first", "recipe-value-malformed", 4, "'first'"),
        ("[pairs, topics]", "pairs", "recipe-lacks-key", 8, "'method'"),
    ],
)
def test_what_cannot_be_a_part_or_a_union_is_told_with_its_line(old, new, code, line, told):
    assert old in TEXT
    with refused(code, f"parts.yaml:{line}", told):
        read_recipe(TEXT.replace(old, new), "parts.yaml")
