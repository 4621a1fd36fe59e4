"""Where inputs went, written and read again."""

from __future__ import annotations

import json

from refusals import refused
from reported import ROUTE_SETTINGS, ROUTES, write_routes

from clora_cli.base.files import to_json, write_text
from clora_cli.store.routes_file import read_routes, routes_json


def test_routes_are_read_as_they_were_written_and_damaged_ones_refused(tmp_path):
    path = write_routes(tmp_path / "routes.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    assert routes_json(read_routes(path)) == written
    for change in (
        {"counts": [[1, 2]]},
        {"known_by": [["third"], []]},
        {"weights": [[1], [1]]},
        {"abstained": ["x", 0]},
    ):
        write_text(path, to_json({**written, **change}))
        with refused("routes-file-damaged", path):
            read_routes(path)


def test_json_is_strict_and_holds_counts():
    data = routes_json(ROUTES)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["schema"] == "clora.routes/1"
    assert data["counts"] == [[9, 1, 0], [10, 30, 0], [0, 0, 3]]
    assert data["abstained"] == [0, 10, 0]
    assert data["known_by"] == [["mnli"], ["sentiment"], []]
    assert data["accuracy"] == [90, 60, None]
    assert [sum(row) + away for row, away in zip(data["counts"], data["abstained"], strict=True)] == data["inputs"]
    assert data["settings"] == ROUTE_SETTINGS
