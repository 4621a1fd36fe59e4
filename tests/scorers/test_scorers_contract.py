"""Every scorer passes the tests of all, and gives what its equation gives by hand."""

from __future__ import annotations

import pytest

from clora_cli.scorers.valid_json import ValidJson
from clora_cli.testing import conformance

TestScorers = conformance("scorers")


@pytest.mark.parametrize(
    ("answer", "any_kind", "as_object", "as_list"),
    [
        ('{"a": [1, null]}', 1, 1, 0),
        ("[1, 2]", 1, 0, 1),
        ('"a text"', 1, 0, 0),
        ('```json\n{"a": 1}\n```', 1, 1, 0),
        ('Here it is: {"a": 1}', 0, 0, 0),
        ("{'a': 1}", 0, 0, 0),
        ("NaN", 0, 0, 0),
        ("", 0, 0, 0),
        ("[" * 100_000, 0, 0, 0),
        ("1" * 5000, 1, 0, 0),
    ],
)
def test_json_is_one_value_and_nothing_else(answer, any_kind, as_object, as_list):
    scores = [ValidJson(kind=kind).score(answer, "", ()) for kind in ("any", "object", "list")]
    assert scores == [any_kind, as_object, as_list]
