"""Names of known tasks: spellings that count, paths that do not, and a table without contradictions."""

from __future__ import annotations

import pytest

from clora_cli.data.known_tasks import FAMILY_INSTRUCTIONS, KNOWN, canonical


@pytest.mark.parametrize(("spelling", "name"), [
    ("mnli", "mnli"), ("MNLI", "mnli"), ("NLI/MNLI", "mnli"), ("nli/mnli", "mnli"),
    ("SST-2", "sst2"), ("sst_2", "sst2"), ("BoolQA", "boolq"), ("boolq", "boolq"), ("AG News", "agnews"), ("ag", "agnews"),
    ("dbpedia_14", "dbpedia"), ("task1572", "task1572"), ("Task1572_SAMSum_Summary", "task1572"),
    ("task002", "task002"), ("task2", "task002"), ("SuperNI/task073_commonsenseqa_answer_generation", "task073"),
])  # fmt: skip
def test_spellings(spelling: str, name: str) -> None:
    known = canonical(spelling)
    assert known is not None and known.name == name


@pytest.mark.parametrize("other", ["./mnli", "data/mnli", "/mnli", "mnli/", "mnlii", "task1573", "task1572_other", ""])
def test_what_is_no_known_name(other: str) -> None:
    assert canonical(other) is None


def test_the_table() -> None:
    long = [task for task in KNOWN.values() if task.family in FAMILY_INSTRUCTIONS]
    natural = [task for task in KNOWN.values() if task.family.startswith("SuperNI")]
    assert len(long) == 15 and len(natural) == 30 and len(KNOWN) == 45 + 8
    assert all(task.metric == "exact-match" and len(set(task.labels)) == len(task.labels) >= 2 for task in long)
    assert [task.name for task in long if not task.instruction] == ["copa"]
    assert all((task.metric == "exact-match") == ("classification" in task.aliases[0]) for task in natural)
    assert all(canonical(name) is task for name, task in KNOWN.items())
