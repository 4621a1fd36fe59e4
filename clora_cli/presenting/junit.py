"""Limits and slices for continuous integration (layer L3): JUnit's XML, and the annotations of GitHub's workflows."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from clora_cli.base.legible import legible
from clora_cli.reporting.slices import Slice

__all__ = ["github_lines", "junit_xml"]


def junit_xml(package: str, broken: Sequence[str], slices: Sequence[Slice], failed: Sequence[Slice]) -> str:
    """Return a JUnit report: a case for the limits, then one for each slice.

    Args:
        package: What was scored, for the suite's name.
        broken: The limits that were not met, as sentences.
        slices: All slices.
        failed: Those of them that the broken limits are about.
    """
    cases = [("limits", "limits", "; ".join(broken))]
    cases += [(one.task, f"{one.by} {one.name}".strip(), one.told if one in failed else "") for one in slices]
    count = {"tests": str(len(cases)), "failures": str(sum(bool(problem) for _, _, problem in cases)), "errors": "0"}
    root = ElementTree.Element("testsuites", count)
    suite = ElementTree.SubElement(root, "testsuite", {"name": legible(f"clora eval {package}".strip()), **count})
    for owner, name, problem in cases:
        case = ElementTree.SubElement(suite, "testcase", {"classname": legible(owner), "name": legible(name)})
        if problem:
            failure = ElementTree.SubElement(case, "failure", {"message": legible(problem), "type": "limit"})
            failure.text = legible(problem)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def github_lines(broken: Sequence[str], failed: Sequence[Slice]) -> list[str]:
    """Return GitHub's workflow commands: an error for each limit that was not met, a warning for each slice that it is about."""
    lines = [f"::error title=clora eval::{_data(sentence)}" for sentence in broken]
    return lines + [f"::warning title={_property(f'clora eval: {one.title}')}::{_data(one.told)}" for one in failed]


def _data(text: str) -> str:
    return legible(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
