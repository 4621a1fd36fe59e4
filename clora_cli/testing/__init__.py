"""Tests that every plug-in must pass, for its author to run (layer L3); they need pytest, ``pip install clora-cli[test]``.

One line in a file of tests is enough::

    from clora_cli.testing import conformance

    TestMine = conformance("methods", "my-method")

The tests know no plug-in: what differs between two is asked of the plug-in.
"""

from __future__ import annotations

from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import UnknownNameError

__all__ = ["conformance"]


def conformance(kind: str, *plugins: str) -> Any:
    """Return a class of tests for pytest.

    Args:
        kind: ``methods``, ``merges``, ``trims``, ``routers``, ``scorers`` or ``metrics``.
        plugins: Names, or paths of files with a plug-in; all plug-ins of the kind by default.

    Raises:
        OptionError: If there is no such kind, name or file.
    """
    from clora_cli.testing.merge_tests import MergeTests
    from clora_cli.testing.method_tests import MethodTests
    from clora_cli.testing.metric_tests import MetricTests
    from clora_cli.testing.router_tests import RouterTests
    from clora_cli.testing.scorer_tests import ScorerTests
    from clora_cli.testing.trim_tests import TrimTests

    classes = (MethodTests, MergeTests, TrimTests, RouterTests, ScorerTests, MetricTests)
    by_kind = {tests.kind: tests for tests in classes}
    if kind not in by_kind:
        raise UnknownNameError("kind", kind, by_kind)
    names = tuple(registry.admit(kind, plugin) for plugin in plugins) or registry.names(kind)
    for name in names:
        registry.find(kind, name)
    return type(f"Test{kind.capitalize()}", (by_kind[kind],), {"names": names})
