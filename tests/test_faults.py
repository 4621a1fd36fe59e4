"""Each fault of public code that the documents list has its test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from clora_cli.base import registry

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[-1].strip("`").rpartition("::")[2])
def test_a_listed_fault_has_its_test(row):
    methods, _, _, test = row
    path, _, name = test.strip("`").partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set(re.findall(r"`([^`]+)`", methods)) <= set(registry.names("methods"))


def test_no_fault_is_listed_twice_and_methods_come_in_order():
    assert len({tuple(row[1:2]) for row in ROWS}) == len(ROWS)
    assert [row[0].split("`")[1] for row in ROWS] == sorted(row[0].split("`")[1] for row in ROWS)
