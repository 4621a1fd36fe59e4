from __future__ import annotations

import pytest
from refusals import refused

from clora_cli.base.errors import OptionError, UnknownNameError
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
    assert list(method.at("penalty")) == ["o-lora", "n-lora"]


def test_a_baseline_may_lead_and_has_no_penalty():
    assert list(compose("inc-lora+n-lora", {}).at("penalty")) == ["n-lora"]
    assert compose("inc-lora", {}).at("penalty") == {}


@pytest.mark.parametrize(
    ("name", "lead", "choices"),
    [
        ("migu", "migu", ("none", "previous", "last")),
        ("inc-lora+migu", "inc-lora", ("sum", "fresh", "sum")),
        ("migu+o-lora", "o-lora", ("sum", "fresh", "sum")),
        ("o-lora+migu+n-lora", "o-lora", ("sum", "fresh", "sum")),
        ("seq-lora+migu", "seq-lora", ("none", "previous", "last")),
        ("replay+migu", "replay", ("none", "previous", "last")),
        ("ps-lora+migu", "ps-lora", ("sum", "fresh", "sum")),
        ("aso-lora+migu", "aso-lora", ("sum", "fresh", "sum")),
        ("migu+pfd", "pfd", ("route", "fresh", "route")),
        ("ewc+lwf+migu+replay", "ewc", ("none", "previous", "last")),
    ],
)
def test_a_filter_of_gradients_takes_over_how_others_treat_earlier_adapters(name, lead, choices):
    method = compose(name, {})
    assert method.lead is method.parts[lead]
    assert (method.lead.past, method.lead.start, method.lead.combine) == choices
    assert tuple(method.recorded()[key] for key in ("past", "start", "combine")) == choices
    assert list(method.at("gradients"))[-1] == "migu"  # it filters what the others leave


@pytest.mark.parametrize(
    ("name", "options", "code", "values"),
    [
        ("o-lora+n-lora", {"strength": "1"}, "option-ambiguous", ["n-lora", "-o o-lora.strength=1"]),
        ("o-lora+n-lora", {"inc_lora.strength": "1"}, "option-of-unnamed-method", ["inc_lora.strength", "inc-lora"]),
        ("o-lora+o-lora", {}, "option-given-twice", ["o-lora+o-lora"]),
        ("o-lora+seq-lora", {}, "methods-disagree", ["o-lora", "seq-lora"]),
        ("per-task+n-lora", {}, "methods-disagree", ["per-task", "n-lora"]),
        ("replay+mtl", {}, "methods-disagree", ["replay", "mtl", "previous"]),
        ("zero-shot+migu", {}, "method-has-no-effect", ["zero-shot trains nothing", "migu"]),
        ("migu+per-task", {}, "method-has-no-effect", ["per-task trains every task afresh", "migu"]),
        ("mtl+migu", {}, "method-has-no-effect", ["mtl trains every task afresh", "migu"]),
        ("cast+migu", {}, "method-has-no-effect", ["cast chooses its entries", "migu"]),
        ("inc-lora+seq-lora+migu", {}, "methods-disagree", ["inc-lora", "seq-lora"]),
        ("o-lora", {"strength": "much"}, "option-malformed", ["strength=much", "float"]),
        ("o-lora", {"strength": "-1"}, "option-out-of-range", ["strength=-1.0", "o-lora", "[0, inf)"]),
    ],
)
def test_what_does_not_go_together(name, options, code, values):
    with refused(code, *values, error=OptionError):
        compose(name, options)


@pytest.mark.parametrize(
    ("name", "options", "values"),
    [
        ("olora", {}, ["'olora'", "'o-lora'"]),
        ("o-lora+", {}, ["method ''"]),
        ("", {}, ["method ''"]),
        ("inc-lora", {"strength": "1"}, ["inc-lora", "'strength'"]),
        ("o-lora+n-lora", {"targt": "ab"}, ["o-lora", "'targt'"]),
        ("o-lora+n-lora", {"n_lora.targt": "ab"}, ["n-lora", "'targt'", "'target'"]),
    ],
)
def test_unknown_names(name, options, values):
    with refused("unknown-name", *values, error=UnknownNameError):
        compose(name, options)


@pytest.mark.parametrize("name", ["deal+jump-lora", "i-lora+slow", "slow+i-lora"])
def test_what_only_one_method_of_a_run_can_do_is_refused_of_two(name):
    with refused("methods-disagree", *name.split("+"), error=OptionError):
        compose(name, {})


@pytest.mark.parametrize("name", ["deal+ewc+migu", "migu+ewc+deal", "inc-lora+jump-lora+a-gem", "jump-lora+migu"])
def test_what_hands_gradients_on_does_so_last_and_sets_the_factors_first(name):
    method, owner = compose(name, {}), "deal" if "deal" in name else "jump-lora"
    assert list(method.filtering)[-1] == owner
    assert next(iter(method.stepping)) == owner


def test_what_writes_a_copy_ends_before_what_merges_it():
    assert list(compose("tasl+slow", {}).ending) == ["slow", "tasl"]
    assert list(compose("sdft+slow", {}).ending) == ["slow", "sdft"]


@pytest.mark.parametrize("name", ["pfd+a-gem", "gem+pfd"])
def test_a_memory_beside_weights_of_the_task_s_own_rows_is_refused(name):
    with refused("methods-disagree", *name.split("+"), error=OptionError):
        compose(name, {})
