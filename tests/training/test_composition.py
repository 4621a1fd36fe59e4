from __future__ import annotations

import pytest

from clora_cli.errors import OptionError, UnknownNameError
from clora_cli.training.composition import compose


def test_one_method_with_its_options():
    method = compose("n-lora", {"strength": "0.1"})
    assert method.name == "n-lora"
    assert method.lead.strength == 0.1
    assert method.recorded() == {
        "name": "n-lora",
        "options": {"n-lora": {"strength": 0.1, "raw_strength": None, "target": "ba"}},
        "past": "sum",
        "start": "fresh",
        "combine": "sum",
    }


def test_two_methods_share_out_their_options():
    method = compose(
        "o-lora+n-lora", {"norm": "absolute", "target": "ab", "o_lora.strength": "2", "n-lora.raw_strength": "3"}
    )
    assert list(method.parts) == ["o-lora", "n-lora"]
    assert (method.parts["o-lora"].norm, method.parts["o-lora"].strength) == ("absolute", 2.0)
    assert (method.parts["n-lora"].target, method.parts["n-lora"].raw_strength) == ("ab", 3.0)
    assert list(method.penalised) == ["o-lora", "n-lora"]


def test_a_baseline_may_lead_and_has_no_penalty():
    assert list(compose("inc-lora+n-lora", {}).penalised) == ["n-lora"]
    assert compose("inc-lora", {}).penalised == {}


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("o-lora+n-lora", {"strength": "1"}, "belongs to o-lora and n-lora; write -o o-lora.strength=1"),
        ("o-lora+n-lora", {"inc_lora.strength": "1"}, "is for method inc-lora, which --method does not name"),
        ("o-lora+o-lora", {}, "names a method twice"),
        ("o-lora+seq-lora", {}, "treat past adapters differently"),
        ("per-task+n-lora", {}, "treat past adapters differently"),
        ("o-lora", {"strength": "much"}, "not a valid float"),
        ("o-lora", {"strength": "-1"}, r"strength=-1.0 of o-lora: give a number in \[0, inf\)"),
    ],
)
def test_what_does_not_go_together(name, options, told):
    with pytest.raises(OptionError, match=told):
        compose(name, options)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("olora", {}, "did you mean 'o-lora'"),
        ("o-lora+", {}, "unknown method ''"),
        ("", {}, "unknown method ''"),
        ("inc-lora", {"strength": "1"}, "unknown option of inc-lora 'strength'"),
        ("o-lora+n-lora", {"targt": "ab"}, "unknown option of o-lora 'targt'"),
        ("o-lora+n-lora", {"n_lora.targt": "ab"}, "unknown option of n-lora 'targt'; did you mean 'target'"),
    ],
)
def test_unknown_names(name, options, told):
    with pytest.raises(UnknownNameError, match=told):
        compose(name, options)
