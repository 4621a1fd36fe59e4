from __future__ import annotations

import math

import pytest

from clora_cli.base.records import each, flag, listed, made_of, maybe, name, number, one_of, scalar, whole, wrong

WANTED = {"a": whole(1, 9), "b?": made_of({"c": name}), "b.d?": number(0)}


@pytest.mark.parametrize(
    ("entry", "odd"),
    [
        ({"a": 1}, None),
        ({"a": 9, "b": {"c": "x", "d": 0.5}}, None),
        ({}, "a"),
        ({"a": 0}, "a"),
        ({"a": True}, "a"),
        ({"a": 1.0}, "a"),
        ({"a": 1, "b": []}, "b"),
        ({"a": 1, "b": {}}, "b"),
        ({"a": 1, "b": {"c": "\x1b[1m"}}, "b"),
        ({"a": 1, "b": {"c": "x", "d": -1}}, "b.d"),
        ({"a": 1, "b": {"c": "x", "d": -1}, "b.d": 1, "b?": {"c": "x"}}, "b.d"),
    ],
)
def test_the_key_that_is_wrong_is_named(entry, odd):
    assert wrong(entry, WANTED) == odd


@pytest.mark.parametrize(
    ("check", "right", "wrong_ones"),
    [
        (number(), [0, -1.5, 1e300], [math.nan, math.inf, True, "1", None]),
        (one_of(1, "a", False), [1, "a", False], [True, 0, 1.0, "b"]),
        (maybe(flag), [None, True], [0, ""]),
        (listed(name), [[], ["a"]], [("a",), ["a\n"], None]),
        (each(scalar), [{}, {"a": None}], [{"a": []}, {"\u202e": 1}, []]),
    ],
)
def test_checks_tell_types_and_sizes(check, right, wrong_ones):
    assert all(map(check, right)) and not any(map(check, wrong_ones))
