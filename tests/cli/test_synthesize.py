from __future__ import annotations

import json


def test_rows_are_made_and_found_again(clora, package, here):
    arguments = ("synthesize", package, "--task", "second", "-n", 3, "-o", "made.jsonl", "--temperature", 1.5)
    assert clora(*arguments, "--dry-run", "-q").out == "made.jsonl\n" and not (here / "made.jsonl").exists()
    result = clora(*arguments, "--json")
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert (data["schema"], data["made"], data["record"]) == ("clora.synthesize/1", True, "made.clora.json")
    assert set(data["rows"]) == {"second"}
    assert "up to date" in clora(*arguments).out
    result = clora(*arguments[:4], "-o", "made.jsonl", "--task", "nothing")
    assert (result.code, result.error) == (2, "task-not-in-package")
