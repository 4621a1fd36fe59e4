"""Processes of one launch, each a thread of this one: messages, agreement, and ends."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from refusals import refused
from torch import distributed

from clora_cli.base.errors import CloraError, DataError, MismatchError, OptionError
from clora_cli.processes import meeting
from clora_cli.processes.meeting import ElsewhereError, Meeting, messages


@pytest.fixture
def together():
    """Run a function of a meeting in each of three processes; return what each returned or raised."""

    def run(act, size=3):
        store = distributed.HashStore()

        def one(rank):
            try:
                return act(Meeting(store, rank, size))
            except CloraError as error:
                return error

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(one, range(size)))

    return run


def test_messages_arrive_whole_in_order_and_only_once(together, monkeypatch):
    monkeypatch.setattr(messages, "_PIECE", 3)
    given = [b"", b"abc", b"abcd", bytes(range(256))]

    def act(one):
        if one.rank:
            for content in given:
                one.send(0, content + bytes([one.rank]))
            return one.receive(0)
        found = [[one.receive(rank) for _ in given] for rank in (1, 2)]
        for rank in (2, 1):
            one.send(rank, b"thanks %d" % rank)
        return found

    found, *others = together(act)
    assert found == [[content + bytes([rank]) for content in given] for rank in (1, 2)]
    assert others == [b"thanks 1", b"thanks 2"]


def test_the_first_process_hands_out_and_collects(together):
    found = together(lambda one: (one.collect(b"%d" % one.rank), one.hand_out(b"%d" % one.rank)))
    assert found == [([b"0", b"1", b"2"], b"0"), ([], b"0"), ([], b"0")]


def test_equal_facts_are_agreed_on(together):
    assert together(lambda one: one.agree({"a": {"b": (1, 2)}, "of": one.size})) == [None] * 3


@pytest.mark.parametrize(
    ("odd", "facts", "told"),
    [
        (2, {"lr": 0.2, "package": {"first": "ab"}}, "rank 2 found other things than rank 0 (lr 0.1 -> 0.2)"),
        (1, {"lr": 0.1, "package": {}}, "rank 1 found other things than rank 0 (package.first)"),
        (0, {"lr": 0.1, "package": {}}, "rank 1 found other things than rank 0 (package.first)"),
    ],
)
def test_a_difference_ends_all_and_names_the_process_and_what_differs(together, odd, facts, told):
    same = {"lr": 0.1, "package": {"first": "ab"}}
    found = together(lambda one: one.agree(facts if one.rank == odd else same))
    assert [type(one) for one in found] == [MismatchError] * 3
    assert {str(one).partition(";")[0] for one in found} == {told}


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_process_that_fails_ends_those_that_wait_and_speaks_alone(together, odd, late):
    said = []

    def act(one):
        time.sleep(0.05 if one.rank == late else 0)
        try:
            if one.rank == odd:
                raise DataError("there is no such task")
            one.agree({})
        except CloraError as error:
            return one.fail(error.exit_code, str(error), said.append)
        return one.leave()

    assert together(act) == [3, 3, 3]
    assert said == ["there is no such task"]


def test_of_several_that_fail_one_speaks_and_its_status_is_all_theirs(together):
    said = []
    codes = together(lambda one: one.fail(10 + one.rank, f"from {one.rank}", said.append))
    (line,) = said
    assert codes == [10 + int(line[-1])] * 3


def test_an_error_that_is_sent_is_raised_where_the_answer_is_awaited(together):
    def act(one):
        if one.rank:
            one.send_error(0, OptionError("too long", code="path-too-long"))
            return one.hand_out(b"")
        with refused("path-too-long", "too long", error=ElsewhereError) as info:
            one.receive(1)
        one.hand_out(b"go on")
        return info.value.exit_code

    assert together(act, 2) == [2, b"go on"]


def test_nobody_leaves_before_the_first_one_is_done(together):
    done = []

    def act(one):
        if not one.rank:
            time.sleep(0.1)
            done.append(True)
        return one.leave(), bool(done)

    assert together(act) == [(0, True)] * 3


def test_nobody_waits_for_ever(together, monkeypatch):
    monkeypatch.setattr(messages, "_SLICE", 0.05)
    found = together(lambda one: None if one.rank == 1 else one.receive(1 - one.rank // 2, 0.1))
    assert str(found[0]) == "rank 1 of this launch was not heard of for 0 s; see its log"
    assert str(found[2]) == "rank 0 of this launch was not heard of for 0 s; see its log"


def test_alone_there_is_nobody_to_wait_for(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    meeting.agree(lambda: pytest.fail("asked"))
    meeting.wait_for_all()
    said = []
    assert meeting.joined(["a", ""]) == ["a", ""]
    assert (meeting.leave(0), meeting.leave(5), meeting.end_all(3, "so", said.append)) == (0, 5, 3)
    assert said == ["so"]
    assert not meeting.fallen_out(RuntimeError("gloo"))
