from __future__ import annotations

import dataclasses

import pytest
from refusals import refused

from clora_cli.base.errors import OptionError
from clora_cli.base.options import Options, declared, option, recorded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Some(Options):
    rank: int = option(8, "Rank.", interval="[1, inf)", most=64, table="lora")
    share: float = option(0.5, "Share.", interval="[0, 1)", table="training")
    scale: float | None = option(None, "Scale.", interval="(0, inf)")
    way: str = option("a", "Way.", choices=("a", "b"), table="training")
    names: tuple[str, ...] = option((), "Names.", flags=("-n", "--name"), table="lora")
    beta: float = option(0.9, "Beta.", table="training", since="0.2.0")
    gamma: float = option(0.5, "Gamma.", table="training", since="0.2.0", absent=1.0)

    def check(self):
        if self.way == "b" and self.rank == 1:
            raise OptionError("--way b --rank 1: no", code="way-without-rank")


@pytest.mark.parametrize(
    ("chosen", "code", "names"),
    [
        ({"rank": 0}, "option-out-of-range", ["--rank 0", "whole number of at least 1"]),
        ({"rank": 65}, "option-out-of-range", ["--rank 65", "at most 64"]),
        ({"share": 1.0}, "option-out-of-range", ["--share 1.0", "[0, 1)"]),
        ({"share": float("nan")}, "option-out-of-range", ["--share nan", "[0, 1)"]),
        ({"scale": 0.0}, "option-out-of-range", ["--scale 0.0", "above 0"]),
        ({"scale": float("inf")}, "option-out-of-range", ["--scale inf", "above 0"]),
        ({"way": "c"}, "option-choice-unknown", ["--way c", "a, b"]),
        ({"way": "b", "rank": 1}, "way-without-rank", ["--way b", "--rank 1"]),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_flag(chosen, code, names):
    with refused(code, *names):
        Some(**chosen)


def test_what_is_declared_tells_kind_flag_and_key():
    known = declared(Some)
    assert list(known) == ["rank", "share", "scale", "way", "names", "beta", "gamma"]
    assert [each.kind for each in known.values()][:5] == ["whole", "number", "number", "text", "texts"]
    assert (known["scale"].optional, known["rank"].optional) == (True, False)
    assert (known["names"].flag, known["names"].key, known["rank"].flag) == ("--name", "name", "--rank")


def test_a_record_keeps_what_changes_the_result_and_young_options_where_absence_would_mean_another_value():
    first = {"share": 0.5, "way": "a"}
    assert recorded(Some(gamma=1.0), "training") == first
    assert recorded(Some(beta=0.8), "training") == {**first, "beta": 0.8, "gamma": 0.5}
    assert recorded(Some(names=("q",)), "lora") == {"rank": 8, "names": ["q"]}
