"""Faults are counted and mended; dev never shares a prompt with test; carving is a function of content."""

from __future__ import annotations

import pytest
from refusals import refused

from clora_cli.data import Example, Task
from clora_cli.data.splits import Draft, finish


def rows(start: int, stop: int, labels: str = "ab") -> list[Example]:
    return [Example("h ", f"text {i}", " c", (labels[i % len(labels)],)) for i in range(start, stop)]


def finished(*, closed: bool = True, labels: tuple[str, ...] = (), keep: bool = False, **splits: list[Example]) -> Task:
    draft = Draft("t", dict(splits), "exact-match", "here", "options", labels, "labels.json", closed)
    return finish(draft, keep_bad_labels=keep)


def test_whole_splits_are_left_alone() -> None:
    task = finished(train=rows(0, 20), dev=rows(20, 25), test=rows(25, 35))
    assert (len(task.train), len(task.dev), len(task.test), task.notes) == (20, 5, 10, ())
    assert task.labels == ("a", "b")


def test_dev_that_repeats_test_is_not_used() -> None:
    task = finished(train=rows(0, 50), dev=rows(90, 100), test=rows(90, 100))
    assert len(task.dev) == 5 and len(task.train) == 45
    assert {e.body for e in task.dev} <= {e.body for e in rows(0, 50)}


def test_dev_that_overlaps_test_keeps_the_rest() -> None:
    task = finished(train=rows(0, 50), dev=rows(50, 60), test=rows(56, 70))
    assert [e.body for e in task.dev] == [f"text {i}" for i in range(50, 56)]
    assert "dropped 4 of 10 dev rows: their texts are in test" in task.notes


def test_dev_is_not_carved_from_texts_of_test() -> None:
    task = finished(train=rows(0, 30), test=rows(0, 29))
    assert [e.body for e in task.dev] == ["text 29"]
    assert "29 of 29 test texts also occur in train; they are kept" in task.notes
    assert finished(train=rows(0, 30), test=rows(0, 30)).dev == ()


def test_rows_that_share_a_prompt_stay_together() -> None:
    twice = [*rows(0, 40), *rows(0, 40, "ba")]
    task = finished(train=twice)
    parts = [{e.body for e in part} for part in (task.train, task.dev, task.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert sum(map(len, (task.train, task.dev, task.test))) == 80


def test_carving_takes_a_tenth_and_at_most_500() -> None:
    assert len(finished(train=rows(0, 100)).test) == 10
    assert len(finished(train=rows(0, 8000)).test) == 500


def test_a_new_row_moves_few_others() -> None:
    before = {e.body for e in finished(train=rows(0, 1000)).test}
    after = {e.body for e in finished(train=rows(0, 1010)).test}
    assert len(before & after) >= len(before) - 5


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_rows(count: int) -> None:
    with refused("too-few-rows" if count else "no-row-complete", "here"):
        finished(train=rows(0, count))


def test_three_rows_make_three_splits() -> None:
    task = finished(train=rows(0, 3))
    assert (len(task.train), len(task.dev), len(task.test)) == (1, 1, 1)


def test_bad_labels_are_dropped_and_counted_in_every_split() -> None:
    bad = [Example("", f"bad {i}", "", ("-",)) for i in range(3)]
    task = finished(labels=("a", "b"), train=[*rows(0, 20), *bad], dev=rows(20, 25), test=[*rows(30, 40), bad[0]])
    assert task.notes == (
        "dropped 3 of 23 train rows: label '-' is not in labels.json",
        "dropped 1 of 11 test rows: label '-' is not in labels.json",
    )
    assert len(task.train) == 20 and len(task.test) == 10


def test_bad_labels_can_be_kept() -> None:
    bad = [Example("", "bad", "", ("-",)), Example("", "worse", "", ("?",))]
    task = finished(labels=("a", "b"), keep=True, train=rows(0, 20), dev=rows(20, 25), test=[*rows(30, 40), *bad])
    assert len(task.test) == 12
    assert task.notes == ("kept 2 of 12 test rows: labels '-', '?' are not in labels.json",)


def test_one_reference_among_the_labels_is_enough() -> None:
    either = Example("", "either", "", ("x", "a"))
    task = finished(labels=("a", "b"), train=rows(0, 20), dev=rows(20, 25), test=[*rows(30, 40), either])
    assert task.test[-1] == either


def test_empty_rows_are_dropped_and_counted() -> None:
    empty = [Example("", "x", "", ()), Example("", "x", "", (" ",)), Example(" ", "\n", "cue", ("a",))]
    task = finished(closed=False, train=[*rows(0, 20), *empty], dev=rows(20, 25), test=rows(30, 40))
    assert task.notes == ("dropped 3 of 23 train rows: empty prompt or answer",) and task.labels == ()


def test_a_task_of_test_rows_alone_can_be_scored() -> None:
    task = finished(test=rows(0, 5))
    assert task.train == task.dev == () and len(task.test) == 5
    assert "no training rows: the task can be scored, not trained on" in task.notes


def test_fingerprint_is_of_the_content_alone() -> None:
    task = finished(train=rows(0, 50), test=rows(50, 60))
    same = Task("other", task.train, task.dev, task.test, task.labels, "rouge-l", "there", "options", ("note",))
    moved = Task("t", task.dev, task.train, task.test, task.labels, task.metric, task.source, "options")
    cue = Task("t", task.train, task.dev, task.test, task.labels, task.metric, task.source, "plain")
    assert task.fingerprint == same.fingerprint
    assert len({task.fingerprint, moved.fingerprint, cue.fingerprint}) == 3


def test_fingerprint_does_not_change_between_versions() -> None:
    task = Task("t", (Example("h", "b\u00e9", "c", ("r",), (("user", "b"),)),), (), (), ("r",), "m", "s", "options")
    assert task.fingerprint == "5a5cf63796c5ece8fddfcdf0687e7bec0301c2c787043e17d8ebabb514f5e098"
