"""A report as JSON."""

from __future__ import annotations

import json

import pytest
from scored import FULL, base, full

from clora_cli.base import registry
from clora_cli.presenting.export import report_json
from clora_cli.reporting.assembly import make_report
from clora_cli.reporting.collect import Material


def test_report_json_is_strict_json_with_null_for_nan():
    report = report_json(make_report(Material(scores=[full(), base()])))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["schema"] == "clora.report/1"
    assert set(report["metrics"]) == set(registry.names("metrics"))
    (run,) = report["runs"]
    assert run["matrix"] == FULL
    assert run["zero_shot"] == [10, 20, 30]
    assert run["single"] == [None, None, None]
    assert run["test_rows"] == [100, 100, 100]
    assert run["metrics"]["forward-transfer"] is None
    assert run["metrics"]["average-performance"] == pytest.approx(65)
    zero_shot, method = report["methods"]
    assert (zero_shot["label"], zero_shot["average"]["average-performance"]["mean"]) == ("zero-shot", 20)
    assert (method["label"], method["reuses_data"], method["needs_task_id"]) == ("n-lora", False, False)
