"""What a shell may do to a command's words and streams: each ends in one line, or in none."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import one_line

from clora_cli.cli._output import json_line, tell

COMMAND = (sys.executable, "-m", "clora_cli")


def test_a_name_with_a_newline_is_told_in_one_line(clora):
    result = clora("show", "no\nsuch")
    assert (result.code, "no such" in one_line(result)) == (3, True)


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_done(clora, here):
    result = clora("tasks", os.fsdecode(b"caf\xe9.jsonl"))
    assert (result.code, "is not UTF-8" in one_line(result)) == (2, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_stdout_is_one_line(here):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([*COMMAND, "tasks"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == (
        "error: cannot write standard output: No space left on device; free space, or send it elsewhere\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("words", "code"), [(["tasks", "-q"], 0), (["show", "nowhere"], 3), (["nothing"], 2)])
def test_a_full_disk_under_stderr_changes_no_exit_status(here, words, code):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([*COMMAND, *words], stdout=subprocess.PIPE, stderr=full, check=False)
    assert (result.returncode, bool(result.stdout)) == (code, code == 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_notes_that_cannot_be_written_end_nothing(here, monkeypatch):
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        tell("first")
        tell("second")


def test_closed_streams_are_no_error(here):
    result = subprocess.run(f"{' '.join(COMMAND)} tasks >&- <&-", shell=True, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_terminal_without_unicode_gets_escapes(process, here):
    rows = [json.dumps({"prompt": f"{number} schön?", "completion": "ja"}) for number in range(20)]
    (here / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    result = process("-m", "clora_cli", "tasks", "rows.jsonl", PYTHONIOENCODING="ascii")
    assert (result.code, "sch\\xf6n?" in result.out) == (0, True)


def test_json_is_ascii_where_stdout_has_no_unicode(monkeypatch):
    for encoding, expected in (("utf-8", '{"text": "schön"}'), ("ascii", '{"text": "sch\\u00f6n"}')):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        assert json_line({"text": "schön"}) == expected
