from __future__ import annotations

import os
from pathlib import Path

import pytest
from refusals import refused

from clora_cli.base.files import read_json, sha256
from clora_cli.base.intake import named_path, natural, open_regular, parse_json, read_bytes, real_path


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "too large"),
        ("1" + "0" * 400, "no number of 64 bits"),
        ("9223372036854775808", "no number of 64 bits"),
        ("[" * 5000 + "]" * 5000, "too deeply"),
        ("[" * 100 + "]" * 100, "too deeply"),
        ('"\\ud800"', "surrogate"),
        ('{"\\udc00": 1}', "surrogate"),
        ("{", "Expecting"),
    ],
)
def test_json_that_readers_take_differently_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_json_that_they_take_alike_is_read():
    assert parse_json('{"a": [1, -2.5, true, null, "\\u00e9"], "b": {"c": "\\ud83d\\ude00"}}') == {
        "a": [1, -2.5, True, None, "é"],
        "b": {"c": "😀"},
    }
    assert parse_json("-9223372036854775808") == -(1 << 63)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, make):
    make(tmp_path / "x.json")
    with refused("file-damaged", "manifest", tmp_path / "x.json"):
        read_json(tmp_path / "x.json", "manifest")
    with pytest.raises(OSError, match="no regular file"):
        sha256(tmp_path / "x.json")


def test_links_to_files_are_files_and_to_themselves_are_none(tmp_path):
    (tmp_path / "a").write_text("{}", encoding="utf-8")
    (tmp_path / "link").symlink_to("a")
    assert read_json(tmp_path / "link", "manifest") == {}
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "loop")
    assert real_path(tmp_path / "loop").name == "loop"


def test_a_file_has_a_length_that_fits_its_kind(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="longer than"):
        read_bytes(tmp_path / "a", 4)


def test_a_tilde_is_a_home_folder_only_where_there_is_one(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/mine")
    assert named_path("~/rows.csv") == Path("/home/of/mine/rows.csv")
    for name in ("~no-such-user-here/rows.csv", "a/~/b", "rows~"):
        assert named_path(name) == Path(name)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("12", 12),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, None),
        ("9" * 5000, None),
        ("-1", None),
        ("", None),
        ("٣", None),
        ("²", None),
    ],
)
def test_a_text_of_digits_is_a_number_unless_it_is_longer_than_any(text, number):
    assert natural(text) == number
