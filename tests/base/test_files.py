from __future__ import annotations

import itertools
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest
from refusals import refused
from support import contents

from clora_cli.base import durable, files
from clora_cli.base.errors import CloraError
from clora_cli.processes import owners

NOWHERE = Path("/proc/clora/here")  # a place that even root cannot write


class Stopped(BaseException):
    """Stands for a signal: no handler of errors may swallow it or be needed to clean up."""


@pytest.fixture
def no_exchange(monkeypatch):
    """A system that cannot exchange two names in one step."""
    monkeypatch.setattr(durable, "_exchanging", lambda: None)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_write_replaces_the_whole_content_and_is_readable_by_others(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    files.write_text(target, "old and long\n")
    files.write_text(target, "né\n")
    assert target.read_bytes() == "né\n".encode()
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert leftovers(target.parent) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Stopped()])
def test_a_write_that_fails_in_the_middle_leaves_the_old_content(tmp_path, monkeypatch, error):
    target = tmp_path / "file.txt"
    files.write_text(target, "old\n")

    def replace(*_):
        raise error

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises((CloraError, Stopped)) as info:
        files.write_text(target, "new\n")
    if isinstance(error, OSError):
        assert info.value.code == "cannot-write"
        assert str(target) in str(info.value) and error.strerror in str(info.value)
    assert target.read_text(encoding="utf-8") == "old\n"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("place", ["missing", "below a file"])
def test_an_unwritable_place_is_an_error_of_one_line(tmp_path, place):
    (tmp_path / "file").write_text("here first\n", encoding="utf-8")
    target = NOWHERE if place == "missing" else tmp_path / "file" / "x"
    for write in (lambda: files.write_text(target, "x"), lambda: files.new_folder(target).__enter__()):
        with refused("cannot-write", target) as info:
            write()
        assert info.value.exit_code == 1
    assert contents(tmp_path) == {"file": b"here first\n"}


def test_a_folder_is_never_written_over_by_a_file(tmp_path):
    with refused("target-not-regular-file", tmp_path):
        files.write_text(tmp_path, "x")


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "real.json").write_text("old", encoding="utf-8")
    (tmp_path / "link.json").symlink_to("real.json")
    files.write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text(encoding="utf-8") == "new"


def test_new_folder_appears_whole(tmp_path):
    with files.new_folder(tmp_path / "a" / "b") as folder:
        (folder / "one").write_text("1", encoding="utf-8")
        assert not (tmp_path / "a" / "b").exists()
    assert contents(tmp_path / "a" / "b") == {"one": b"1"}
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755
    assert leftovers(tmp_path / "a") == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Stopped(), ValueError("x")])
def test_a_folder_that_fails_in_the_middle_leaves_the_old_one(tmp_path, error):
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "one").write_text("old", encoding="utf-8")
    with pytest.raises((CloraError, Stopped, ValueError)), files.new_folder(target) as folder:
        (folder / "one").write_text("new", encoding="utf-8")
        raise error
    assert contents(target) == {"one": b"old"}
    assert leftovers(tmp_path) == []


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch, no_exchange):
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "one").write_text("old", encoding="utf-8")
    real = Path.rename

    def rename(self, other):
        if (self / "new").exists():
            raise OSError(5, "Input/output error")
        return real(self, other)

    monkeypatch.setattr(Path, "rename", rename)
    with refused("cannot-write", target, "Input/output error"), files.new_folder(target) as folder:
        (folder / "new").write_text("new", encoding="utf-8")
    assert contents(target) == {"one": b"old"}
    assert leftovers(tmp_path) == []


def test_an_old_folder_that_cannot_be_moved_stays_and_nothing_lies_about(tmp_path, monkeypatch, no_exchange):
    target = tmp_path / "adapter"
    target.mkdir()

    def rename(self, other):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", rename)
    with refused("cannot-write", target, "Device or resource busy"), files.new_folder(target) as folder:
        (folder / "new").write_text("new", encoding="utf-8")
    assert target.is_dir()
    assert leftovers(tmp_path) == []


def test_equal_values_give_equal_bytes():
    assert files.to_json({"b": 1, "a": "é"}) == files.to_json({"a": "é", "b": 1}) == '{\n  "a": "é",\n  "b": 1\n}\n'


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ufeff{}", "nul", "[" * 100_000])
def test_what_is_no_json_object_is_damaged(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with refused("file-damaged", "manifest", path):
        files.read_json(path, "manifest")
    with refused("file-missing", "manifest", tmp_path / "y.json"):
        files.read_json(tmp_path / "y.json", "manifest")


def test_bytes_that_are_no_text_are_damaged(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe{}")
    with refused("file-damaged", "manifest", path):
        files.read_json(path, "manifest")


def test_sha256_is_of_the_bytes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def calls(monkeypatch):
    """What was written to the disk and what was renamed, in this order."""
    made, numbers = [], {}
    opened, renamed, replaced = os.open, os.rename, os.replace

    def note_open(path, *arguments, **options):
        descriptor = opened(path, *arguments, **options)
        numbers[descriptor] = Path(path).name
        return descriptor

    def note_rename(real, source, target):
        made.append(("rename", Path(source).name, Path(target).name))
        real(source, target)

    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "fsync", lambda descriptor: made.append(("sync", numbers[descriptor])))
    monkeypatch.setattr(os, "rename", lambda *paths: note_rename(renamed, *paths))
    monkeypatch.setattr(os, "replace", lambda *paths: note_rename(replaced, *paths))
    return made


@pytest.mark.parametrize("exchange", [True, False])
def test_everything_is_on_the_disk_before_its_name_is_and_then_the_name(tmp_path, calls, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(durable, "_exchanging", lambda: None)
    target = tmp_path / "new" / "adapter"
    for turn in range(2):
        with files.new_folder(target) as folder:
            (folder / "inner").mkdir()
            for name in ("one", "inner/two"):
                (folder / name).write_text(str(turn), encoding="utf-8")
    renames = [index for index, call in enumerate(calls) if call[0] == "rename" and call[2] == "adapter"]
    before = calls[: renames[0]]
    assert [name for _, name in before[-4:-1]] == ["two", "inner", "one"]
    assert before[0] == ("sync", tmp_path.name)  # the new folder's own name
    assert calls[renames[0] + 1] == ("sync", "new")
    assert calls[-1] == ("sync", "new")
    if not exchange:
        assert calls[renames[-1] + 1][0] == "rename"  # the old one becomes the temporary one, which goes


def test_a_file_is_on_the_disk_before_its_name_is_and_then_the_name(tmp_path, calls):
    files.write_text(tmp_path / "file", "x")
    (sync, draft), (rename, source, target), last = calls
    assert (sync, rename, source, target) == ("sync", "rename", draft, "file")
    assert last == ("sync", tmp_path.name)


@pytest.mark.parametrize("kind", ["file", "folder", "folder without exchange"])
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("fails", range(1, 4))
def test_a_disk_that_fails_when_it_is_asked_to_write_leaves_what_was_there(tmp_path, monkeypatch, kind, there, fails):
    if "without" in kind:
        monkeypatch.setattr(durable, "_exchanging", lambda: None)

    def write(text):
        if kind == "file":
            files.write_text(tmp_path / "x", text)
        else:
            with files.new_folder(tmp_path / "x") as folder:
                (folder / "one").write_text(text, encoding="utf-8")

    if there:
        write("old")
    before, count = contents(tmp_path), itertools.count(1)

    def fsync(descriptor):
        if next(count) == fails:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    try:
        write("new")
    except CloraError as error:
        assert error.code == "cannot-write" and "Input/output error" in str(error)
        assert contents(tmp_path) == before
    else:
        assert next(count) <= fails  # it was never reached
    assert leftovers(tmp_path) == []


def gone():
    """Return the name of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return f"{str(owners.myself()).split('-')[0]}-{process.pid}-1"


def make(folder, name, *inside):
    for path in inside or ("x",):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / path).write_text(name, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("write", ["file", "folder"])
def test_the_next_writer_removes_what_no_living_process_owns(tmp_path, write):
    make(tmp_path, f".clora-new-{gone()}-00000000")
    (tmp_path / f".clora-new-{gone()}-00000001").write_text("half", encoding="utf-8")
    (tmp_path / f".clora-new-{gone()}-00000002").symlink_to("nowhere")
    living = make(tmp_path, f".clora-new-{owners.myself()}-00000003")
    elsewhere = make(tmp_path, ".clora-new-00000000-1-1-00000004")
    nameless = make(tmp_path, ".clora-mnli-abcdefgh")  # as 0.1.0 called them
    other = make(tmp_path, ".clora-ignore")
    if write == "file":
        files.write_text(tmp_path / "x", "x")
    else:
        with files.new_folder(tmp_path / "x"):
            pass
    kept = {living.name, elsewhere.name, nameless.name, other.name, "x"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_what_cannot_be_asked_goes_when_nobody_touched_it_for_a_day(tmp_path):
    names = (".clora-new-00000000-1-1-00000004", ".clora-mnli-abcdefgh")
    for path in [make(tmp_path, name) for name in names]:
        for one in (path / "x", path):
            os.utime(one, (time.time() - 90000,) * 2)
    fresh = make(tmp_path, ".clora-new-00000000-1-1-00000005")
    os.utime(fresh, (0, 0))  # what is in it is new
    files.write_text(tmp_path / "x", "x")
    assert {path.name for path in tmp_path.iterdir()} == {fresh.name, "x"}


def test_what_a_killed_writer_had_moved_aside_comes_back(tmp_path):
    aside = make(tmp_path, f".clora-old-{gone()}-00000000", "kept")
    (aside / "kept").unlink()
    make(aside, "adapter", "one")
    make(tmp_path, f".clora-new-{gone()}-00000001", "one")
    files.write_text(tmp_path / "x", "x")
    assert contents(tmp_path) == {"adapter/one": b"adapter", "x": b"x"}


def test_a_symbolic_link_to_a_folder_stays_one(tmp_path):
    make(tmp_path, "real", "one")
    (tmp_path / "link").symlink_to("real")
    with files.new_folder(tmp_path / "link") as folder:
        (folder / "two").touch()
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["two"]
    assert leftovers(tmp_path) == []


def test_a_name_as_long_as_a_file_system_takes_is_written(tmp_path):
    files.write_text(tmp_path / ("f" * 255), "x")
    with files.new_folder(tmp_path / ("d" * 255)):
        pass
    assert leftovers(tmp_path) == []
