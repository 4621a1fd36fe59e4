"""Run the tests of plug-ins without a session of pytest: which of them fail for one plug-in?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from clora_cli.testing import conformance

__all__ = ["failing"]


def failing(kind: str, plugin: str) -> set[str]:
    """Return the names of the tests that a plug-in, by name or path, does not pass."""
    tests = conformance(kind, plugin)
    named = {name: getattr(tests, name) for name in dir(tests) if name.startswith("test_")}
    return {name for name, function in named.items() if _fails(tests, function)}


class _Cases:
    """Collects what a test is parametrised with, as pytest's metafunc does."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.fixturenames = list(inspect.signature(function).parameters)
        self.cases: list[dict[str, Any]] = [{}]

    def parametrize(self, names: str | Sequence[str], values: Sequence[Any]) -> None:
        several = not isinstance(names, str)
        names = names if several else [names]
        rows = [getattr(value, "values", value if several else (value,)) for value in values]
        self.cases = [case | dict(zip(names, row, strict=True)) for case in self.cases for row in rows]


def _fails(tests: Any, function: Any) -> bool:
    cases = _Cases(function)
    for mark in getattr(function, "pytestmark", []):
        cases.parametrize(*mark.args)
    tests().pytest_generate_tests(cases)
    return any(_raises(tests(), function, case, "monkeypatch" in cases.fixturenames) for case in cases.cases)


def _raises(tests: Any, function: Any, case: dict[str, Any], patched: bool) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        try:
            function(tests, **case, **({"monkeypatch": patch} if patched else {}))
        except (pytest.fail.Exception, Exception):
            return True
    return False
