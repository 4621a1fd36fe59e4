from __future__ import annotations

import pytest

from clora_cli.recipes import read_recipe

TEXT = """\
name: small
model: clora-nano
tasks: [yes-no, inference]
methods:
  - seq-lora
  - method: n-lora
    label: sparse
    option: {strength: [0.4, 0.1]}
train: {lr: 1e-3, epochs: [1, 2]}
seeds: [1, 2]
"""


@pytest.fixture
def text():
    """A recipe of two methods, two tasks and two seeds."""
    return TEXT


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The same, read, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return read_recipe(TEXT, "small.yaml")
