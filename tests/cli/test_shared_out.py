"""Rows that several processes share out, whether each has the base model or a part of it: what one process gives, byte for byte."""

from __future__ import annotations

import json

import pytest
from routed import write_routable
from support import contents

CPU = ("--device", "cpu")

ROWS = [{"text": f"the boat was {number}", "id": number, "task": "first"} for number in range(9)]


@pytest.fixture
def routable(here, backbone, tasks):
    """A package of two adapters with distributions."""
    names = [str(tasks[name]) for name in ("first", "second")]
    return write_routable(here / "adapters", backbone("llama"), names, second="full")


@pytest.mark.parametrize(
    ("size", "words"),
    [(2, ("-b", 2, "--per-site", "--confusion", "c.json")), (3, ("-b", 5, "--abstain", 0.3, "--calibrate", "first"))],
    ids=["uneven", "one has nothing"],
)
def test_several_processes_route_as_one_does(ranks, clora, routable, here, monkeypatch, tasks, size, words):
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = ("route", "adapters", *CPU, *(tasks.get(word, word) for word in words))
    alone = clora(*command, "--data", "rows.jsonl")
    written = contents(here)
    for shard in ((), ("--shard",)):
        found = ranks(*command, *shard, folders=[here] * size, stdin=(here / "rows.jsonl").read_text())
        assert (found.codes, found.out) == ([0] * size, [alone.out, *[""] * (size - 1)])
        assert "".join(found.err) == alone.err
        assert contents(here) == written


def test_a_divided_model_routes_inputs_of_several_kinds(ranks, clora, routable, here):
    """Only one process has a conversation, or rows that begin alike: all make the same passes all the same."""
    turns = [{"role": "user", "content": "how was it?"}]
    texts = ["quiet", "so so", *[f"the boat was long and wide and very slow {end}" for end in "ab"], "a", "lamp", "now"]
    rows = [{"messages": turns} if number in {5, 6} else {"text": text} for number, text in enumerate(texts)]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("route", "adapters", *CPU, "-b", 2, "--data", "rows.jsonl", "-q")
    alone = clora(*command)
    found = ranks(*command, "--shard", folders=[here] * 2)
    assert (found.codes, found.out) == ([0, 0], [alone.out, ""])


def test_a_bad_row_ends_all_after_the_rows_before_it(ranks, routable, here):
    lines = [json.dumps(row) for row in ROWS[:5]]
    found = ranks("route", "adapters", *CPU, "-b", 1, "-q", folders=[here] * 2, stdin="\n".join([*lines, "{"]))
    assert (found.codes, found.out[0].count("\n"), found.out[1]) == ([3, 3], 5, "")
    assert "".join(found.err).startswith("error: standard input, line 6: not valid JSON")
    assert "".join(found.err).count("\n") == 1


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (True, ("-b", 4, "--combine", "route", "--matrix")),
        (False, ("-b", 50, "--score", "labels", "--fail-under", 101)),
        (True, ("-b", 4, "--retention", "general")),
    ],
    ids=["uneven", "one has nothing", "retention"],
)
def test_several_processes_score_as_one_does(ranks, clora, routable, tasks, here, agent, words):
    command = ("eval", "adapters", *CPU, "--data", tasks["first"], "--json", "--out", "scores.json", *words)
    alone = clora(*command)
    scores = (here / "scores.json").read_bytes()
    (here / "scores.json").unlink()
    for shard in ((), ("--shard",)):
        found = ranks(*command, *shard, folders=[here] * 2, agent=agent)
        assert (found.codes, found.out) == ([alone.code] * 2, [alone.out, ""])
        assert "".join(found.err) == alone.err
        assert (here / "scores.json").read_bytes() == scores


@pytest.mark.parametrize("source", ["base", "adapted"])
def test_a_divided_model_gives_the_features_of_a_whole_one(ranks, clora, package, tasks, here, source):
    how = ("-b", 10, "--second-moment", "diag", "--source", source)
    command = ("stat-features", "adapters", *CPU, *how, "--force", "-q")
    alone = clora(*command)
    written = contents(here)
    for shard in ((), ("--shard",)):
        found = ranks(*command, *shard, folders=[here] * 2)
        assert (found.codes, found.out) == ([0, 0], [alone.out, ""])
        assert contents(here) == written


def test_an_encoder_decoder_model_is_shared_out_too(ranks, clora, backbone, tasks, here):
    names = [str(tasks[name]) for name in ("first", "second")]
    write_routable(here / "adapters", backbone("t5"), names, second="full")
    for command in (
        ("eval", "adapters", "--data", tasks["first"], "-b", 4, "--combine", "route", "--retention", "general"),
        ("stat-features", "adapters", "-b", 50, "--source", "adapted", "--force"),
    ):
        alone = clora(*command, *CPU, "-q")
        written = contents(here)
        for shard in ((), ("--shard",)):
            found = ranks(*command, *CPU, "-q", *shard, folders=[here] * 2)
            assert (found.codes, found.out) == ([0, 0], [alone.out, ""])
            assert contents(here) == written
