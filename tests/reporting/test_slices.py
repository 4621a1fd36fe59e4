"""A limit that broke is about rows: those of a task, a label, a length."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from reported import stage_scores

from clora_cli.data import Example, Task
from clora_cli.presenting.junit import github_lines, junit_xml
from clora_cli.reporting.limits import Loss
from clora_cli.reporting.slices import Verdict, broken_slices, slices_of
from clora_cli.store.score_cells import TaskScore

ROWS = 16


@pytest.fixture
def task():
    """Sixteen rows, labels in turns; row n has n words."""
    rows = tuple(Example("", "word " * n, "", (("up", "down")[n % 2],)) for n in range(ROWS))
    return Task("a", (), rows, rows, ("up", "down"), "exact-match", "made", "plain")


def scores_of(rights):
    cell = TaskScore("exact-match", "f", 100 * sum(rights) / ROWS, ROWS, int(sum(rights)), per_row=tuple(rights))
    file = stage_scores(1, {"a": 5}, "p", "m", ("a",))
    return replace(file, rows=(replace(file.rows[0], scores={"a": cell}),))


def test_rows_are_taken_by_task_label_and_quarter_of_length(task):
    rights = [float(n % 2 == 0) for n in range(ROWS)]  # every "down" is wrong
    found = slices_of(scores_of(rights), [task], "test")
    assert [(one.by, one.name, one.score) for one in found] == [
        ("task", "", 50),
        ("label", "up", 100),
        ("label", "down", 0),
        *(("length", f"{n}-{n + 3} words", 50) for n in range(0, ROWS, 4)),
    ]
    assert found[2].worse == (1, 3, 5, 7, 9, 11, 13, 15)
    broken = broken_slices(found, fail_under=40)
    assert [one.title for one in broken] == ["a, label 'down'"]
    assert (
        Verdict(["low"], found, broken).told
        == "low; worst: a, label 'down': 0.00 on 8 rows; rows 1, 3, 5, 7, 9, 11, 13, 15"
    )


def test_what_was_lost_is_told_by_the_rows_that_were_right_before(task):
    now = [float(n < 12) for n in range(ROWS)]
    before = [1.0] * 14 + [0.0] * 2
    loss = Loss("a", 87.5, "stage 1", 75.0, tuple(before))
    found = slices_of(scores_of(now), [task], "test", [loss])
    worst = broken_slices(found, max_forgetting=30)
    assert [(one.title, one.score, one.before, one.worse) for one in worst] == [
        ("a, length '12-15 words'", 0, 50, (12, 13))
    ]
    assert broken_slices(found, max_forgetting=50) == []


def test_rows_that_are_not_known_one_by_one_are_told_as_a_task_alone(task):
    scores = scores_of([1.0] * ROWS)
    cell = replace(scores.rows[0].scores["a"], dropped=1)
    scores = replace(scores, rows=(replace(scores.rows[0], scores={"a": cell}),))
    assert [one.by for one in slices_of(scores, [task], "test")] == ["task"]


def test_junit_has_a_case_for_the_limits_and_one_for_each_slice(task):
    found = slices_of(scores_of([0.0] * 8 + [1.0] * 8), [task], "test")
    broken = broken_slices(found, fail_under=60)
    root = ElementTree.fromstring(junit_xml("p <&>\x1b", Verdict(["the mean is below 60"], found, broken)))
    assert root.attrib == {"tests": "8", "failures": str(1 + len(broken)), "errors": "0"}
    failures = {case.get("name"): case.find("failure") for case in root.iter("testcase")}
    assert failures["limits"].get("message") == "the mean is below 60"
    assert failures["length 0-3 words"] is not None
    assert failures["length 12-15 words"] is None


def test_junit_is_xml_whatever_the_names_and_labels_hold(task):
    odd = "".join(map(chr, range(0x21))) + "\x7f\x85\u2028\ufffe\uffff\ud800 ]]><&\"'::%0A\U0001f600"
    named = [replace(one, task=odd, name=odd) for one in slices_of(scores_of([0.0] * ROWS), [task], "test")]
    text = junit_xml(odd, Verdict([odd], named, named))
    root = ElementTree.fromstring(text.encode())
    (suite,) = root
    assert (root.tag, suite.tag, {case.tag for case in suite}) == ("testsuites", "testsuite", {"testcase"})
    assert suite.get("tests") == str(len(suite)) == str(1 + len(named))
    assert suite.get("failures") == str(sum(1 for _ in suite.iter("failure"))) == str(len(suite))
    for case in suite:
        assert set(case.attrib) == {"classname", "name"} and all(case.attrib.values())
        assert set(case[0].attrib) == {"message", "type"} and "\\x00" in case[0].get("message")
    assert all("\n" not in line and line.count("%0A") == 0 for line in github_lines(Verdict([odd], named, named)))


def test_annotations_escape_what_github_reads_as_syntax(task):
    (one, *_) = slices_of(scores_of([0.0] * ROWS), [task], "test")
    lines = github_lines(Verdict(["100% lost\nhere"], [], [replace(one, task="a:b,c")]))
    assert lines[0] == "::error title=clora eval::100%25 lost\\nhere"
    assert lines[1].startswith("::warning title=clora eval%3A a%3Ab%2Cc::a:b,c: 0.00 on 16 rows; rows 0, 1, 2")
