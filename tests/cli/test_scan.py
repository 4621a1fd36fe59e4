from __future__ import annotations

import json


def test_findings_end_in_status_5_and_are_told_as_json(clora, package):
    result = clora("scan", package)
    assert (result.code, result.out.count("no findings")) == (0, 2)
    (package / "first" / "model.py").write_text("pass\n")
    result = clora("scan", package, "--json")
    assert (result.code, result.error) == (5, "scan-findings")
    found = {one["path"]: one["findings"] for one in json.loads(result.out)["adapters"]}
    assert [f["kind"] for f in found[str(package / "first")]] == ["code"]
    assert clora("scan", package / "second", "-q").out == "0\n"
