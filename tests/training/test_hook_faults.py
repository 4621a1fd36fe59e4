"""What a method from elsewhere does wrong ends in a line that names it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from clora_cli.base import registry
from clora_cli.base.errors import CloraError, OptionError, blaming
from clora_cli.methods import Method, Penalty
from clora_cli.training import mixing, penalties
from clora_cli.training.composition import compose

FILE = '''"""A method that fails."""
from dataclasses import dataclass
from clora_cli.methods import Method
__all__ = ["Failing"]


@dataclass(frozen=True, kw_only=True)
class Failing(Method):
    """A method that fails."""

    def check(self, plan):
        plan.no_such


    def finish(self, run):
        raise SystemExit(3)
'''


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        ("check", r"failing\.py fails in check\(\), line 12 of failing\.py: AttributeError: .*no_such"),
        ("finish", r"fails in finish\(\), line 16 of failing\.py: SystemExit: 3"),
    ],
)
def test_what_a_hook_raises_names_the_file_the_hook_and_the_line(tmp_path, monkeypatch, hook, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "failing.py").write_text(FILE)
    method = registry.load("methods", registry.admit("methods", "failing.py"))()
    with pytest.raises(CloraError, match=told) as caught, blaming():
        getattr(method, hook)(object())
    assert caught.value.code == "plugin-fails" and caught.value.exit_code == 1


def test_faults_of_other_code_stay_what_they_are():
    with pytest.raises(KeyError), blaming():
        raise KeyError("own")


@pytest.mark.parametrize(
    ("penalty", "told"),
    [
        (Penalty(torch.tensor(1.0), grad_a=torch.ones(2, 1, 1)), r"grad_a of \(2, 1, 1\).* \(2, 3, 4\)"),
        (Penalty(torch.tensor(1.0), grad_b=torch.ones(1, 5, 3)), r"grad_b of \(1, 5, 3\)"),
        (Penalty(torch.ones(2)), r"value of \(2,\)"),
        (Penalty(1.0), "value of float"),
        (torch.tensor(1.0), "Tensor, not a Penalty"),
    ],
)
def test_a_penalty_of_another_shape_is_refused_instead_of_broadcast(penalty, told):
    given = SimpleNamespace(a=torch.ones(2, 3, 4), b=torch.ones(2, 5, 3))
    with pytest.raises(CloraError, match=f"method mine: .*{told}"):
        penalties._check("mine", penalty, given)


@pytest.mark.parametrize("weights", [None, {}, {"q": torch.ones(3)}, {"q": torch.ones(1, 3)}, {"q": torch.ones(2, 2)}])
def test_weights_of_another_shape_are_refused(weights):
    with pytest.raises(CloraError, match=r"run\.mix\(\)"):
        mixing._check(weights, 4, 2)


def test_weights_of_each_row_or_of_all_are_taken():
    mixing._check({"q": torch.ones(1, 2), "v": torch.ones(4, 2)}, 4, 2)


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"start": "nonsense"}, "start='nonsense'; choose one of fresh, previous, shared"),
        ({"combine": "nonsense"}, "combine='nonsense'"),
        ({"combine": "learned"}, r"does not define weigh\(\)"),
        ({"combine": "route"}, r"goes with routing\(\)"),
        ({"memory": lambda self: 5}, "a Memory or None"),
    ],
)
def test_declarations_that_mean_nothing_are_refused(monkeypatch, declared, told):
    mine = dataclass(frozen=True, kw_only=True)(type("Mine", (Method,), {"__doc__": "Mine.", **declared}))
    monkeypatch.setattr(registry, "load", lambda kind, name: mine)
    with pytest.raises(OptionError, match=told):
        compose("mine", {})
