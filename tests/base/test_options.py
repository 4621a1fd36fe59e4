from __future__ import annotations

import dataclasses

import pytest

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
            raise OptionError("--way b --rank 1: no")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"rank": 0}, "--rank 0: give a whole number of at least 1"),
        ({"rank": 65}, "--rank 65 is beyond all reason: give at most 64"),
        ({"share": 1.0}, r"--share 1.0: give a number in \[0, 1\)"),
        ({"share": float("nan")}, "--share nan: give a number in"),
        ({"scale": 0.0}, "--scale 0.0: give a number above 0"),
        ({"scale": float("inf")}, "--scale inf: give a number above 0"),
        ({"way": "c"}, "--way c: choose one of a, b"),
        ({"way": "b", "rank": 1}, "--way b --rank 1: no"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_flag(chosen, message):
    with pytest.raises(OptionError, match=message):
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
