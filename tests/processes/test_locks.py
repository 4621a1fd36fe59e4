"""One writer at a time: who is kept out, who is let in, and what is taken over."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from refusals import refused

from clora_cli.base.errors import BusyError, CloraError
from clora_cli.processes import holders, locks, owners
from clora_cli.processes.holders import RECORD, STALE
from clora_cli.processes.locks import Patience, confirm, locked
from clora_cli.processes.owners import myself, parse_owner
from clora_cli.processes.spots import inside, place

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def package(tmp_path):
    (tmp_path / "pkg" / "member").mkdir(parents=True)
    return tmp_path / "pkg"


def entered(*spots, **how):
    with locked(spots, **how):
        return True


def in_fork(call):
    """Return what a call gives in a fork: its result, or its error's text."""
    out, into = FORK.Pipe(duplex=False)

    def work():
        try:
            into.send(call())
        except CloraError as error:
            into.send(str(error))

    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    return out.recv()


def left_behind(spot, **record):
    """Make a lock as a process that is gone left it, or one on another machine."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    owner = f"{str(myself()).split('-')[0]}-{child.pid}-1"
    child.wait()
    spot.lock.mkdir()
    known = {"token": "t", "owner": owner, "host": "here", "command": "clora trim", "since": "then"}
    (spot.lock / RECORD).write_text(json.dumps(known | record), encoding="utf-8")


def test_a_second_writer_is_refused_at_once_and_told_who_is_there(package):
    with locked([inside(package)]):
        began = time.monotonic()
        told = in_fork(lambda: entered(inside(package)))
        assert time.monotonic() - began < 2
    assert f"{package} is being worked on by process {os.getpid()}; wait for it with --wait (" in told
    assert f"on {os.uname().nodename} since 20" in told and "\n" not in told
    assert BusyError("").exit_code == 1
    assert in_fork(lambda: entered(inside(package))) is True
    assert sorted(path.name for path in package.iterdir()) == ["member"]


def test_one_who_waits_comes_in_when_the_other_leaves(package):
    notes = []
    progress = type("Notes", (locks.Silent,), {"note": lambda self, text: notes.append(text)})()
    with locked([inside(package)]):
        out, into = FORK.Pipe(duplex=False)
        waiting = FORK.Process(target=lambda: into.send(entered(inside(package), patience=Patience(60))))
        waiting.start()
        time.sleep(0.3)
        assert not out.poll()
        told = in_fork(lambda: entered(inside(package), patience=Patience(0.2), progress=progress))
        assert "is being worked on by" in told
    waiting.join(60)
    assert out.recv() is True


@pytest.mark.parametrize(
    ("held", "wanted", "free"),
    [
        (inside, lambda p: inside(p / "member"), False),
        (inside, lambda p: place(p / "new"), False),
        (inside, place, False),
        (inside, lambda p: place(p.parent / "other"), True),
        (lambda p: inside(p / "member"), inside, False),
        (lambda p: inside(p / "member"), lambda p: place(p / "member"), False),
        (lambda p: inside(p / "member"), lambda p: place(p / "new"), True),
        (lambda p: place(p / "new"), inside, False),
        (lambda p: place(p / "new"), lambda p: place(p / "newer"), True),
        (place, lambda p: inside(p / "member"), False),
        (place, lambda p: place(p / "new"), False),
        (lambda p: place(p.parent / "absent"), lambda p: inside(p.parent / "absent"), False),
    ],
)
def test_who_holds_a_folder_keeps_others_off_what_is_in_it_and_the_other_way_round(package, held, wanted, free):
    with locked([held(package)]):
        assert (in_fork(lambda: entered(wanted(package))) is True) == free
    assert in_fork(lambda: entered(wanted(package))) is True


def test_what_a_thread_holds_it_holds_once_more_but_no_other_thread(package):
    refused = []

    def other():
        try:
            entered(inside(package))
        except BusyError as error:
            refused.append(error)

    with locked([inside(package)]):
        assert entered(inside(package), place(package / "member"))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert inside(package).lock.exists()
    assert len(refused) == 1
    assert not inside(package).lock.exists()


def test_a_lock_of_a_process_that_is_gone_is_taken_over(package):
    for spot in (inside(package), place(package / "new")):
        left_behind(spot)
    assert entered(inside(package))
    assert sorted(path.name for path in package.iterdir()) == ["member"]


def test_a_process_number_that_was_given_out_again_is_another_process(package):
    owner = parse_owner(str(myself()))
    left_behind(inside(package), owner=f"{owner.machine}-{owner.pid}-{owner.birth + 1}")
    assert entered(inside(package))


def test_another_machines_lock_counts_until_it_is_not_touched_for_long(package):
    spot = inside(package)
    left_behind(spot, owner="00000000-1-1", host="far\x1b[31m", command="clora train-task\n")
    told = "clora train-task?, on far?[31m since then"
    with refused("another-process-writes", "process 1", "--wait", "--break-lock", told):
        entered(spot)
    old = time.time() - STALE - 5
    for path in (spot.lock / RECORD, spot.lock):
        os.utime(path, (old, old))
    assert entered(spot)
    left_behind(spot, owner="00000000-1-1")
    assert entered(spot, patience=Patience(force=True))


@pytest.mark.parametrize("record", [b"", b"[1]", b"{", b'{"owner": 7}', b"\xff", None, "pipe"])
def test_a_record_that_tells_nothing_is_somebodys(package, record):
    spot = inside(package)
    spot.lock.mkdir()
    if record == "pipe":
        os.mkfifo(spot.lock / RECORD)
    elif record is not None:
        (spot.lock / RECORD).write_bytes(record)
    with refused("another-process-writes", "another process", "--wait", "--break-lock"):
        entered(spot)
    assert entered(spot, patience=Patience(force=True))


def test_a_living_process_here_is_never_taken_for_gone(package):
    with locked([inside(package)]):
        old = time.time() - 10 * STALE
        os.utime(inside(package).lock / RECORD, (old, old))
        assert "is being worked on" in in_fork(lambda: entered(inside(package), patience=Patience(force=True)))


def test_a_holder_touches_its_lock(package, monkeypatch):
    monkeypatch.setattr(locks, "_BEAT", 0.05)
    monkeypatch.setattr(locks, "_beating", set())
    with locked([inside(package)]):
        record = inside(package).lock / RECORD
        os.utime(record, (0, 0))
        deadline = time.monotonic() + 20
        while record.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert record.stat().st_mtime > 1


def test_a_lock_that_was_removed_with_its_folder_is_made_again_and_one_that_was_taken_is_not(package):
    with locked([inside(package)]):
        shutil.rmtree(package)
        confirm()
        assert inside(package).lock.is_dir()
        shutil.rmtree(inside(package).lock)
        left_behind(inside(package), owner="00000000-1-1")
        with refused("lock-taken-over", "process 1"):
            confirm()
    assert inside(package).lock.is_dir()  # it is another's


def test_folders_that_were_made_for_a_lock_go_if_nothing_came_into_them(tmp_path):
    with locked([inside(tmp_path / "deep" / "new")]):
        assert inside(tmp_path / "deep" / "new").lock.is_dir()
    assert list(tmp_path.iterdir()) == []
    with locked([inside(tmp_path / "new")]):
        (tmp_path / "new" / "file").touch()
    assert (tmp_path / "new" / "file").exists()


def test_where_nothing_can_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for spot in (inside(tmp_path / "file"), place(tmp_path / "file" / "x"), inside(tmp_path / "file" / "x")):
        with refused("cannot-write", tmp_path / "file"):
            entered(spot)


def test_a_process_that_was_started_meanwhile_works_as_if_it_held_what_was_handed_on(package):
    code = (
        "import sys, pathlib; from clora_cli.processes.locks import locked; from clora_cli.processes.spots import inside\n"
        "with locked([inside(pathlib.Path(sys.argv[1]))]): print('in')"
    )
    lines = [[sys.executable, "-c", code, str(path)] for path in (package / "member", package)]
    with locked([inside(package)], hand_on=True):
        outs = [subprocess.run(line, capture_output=True, text=True, check=False) for line in lines]
        assert [one.stdout for one in outs] == ["in\n", "in\n"], outs[0].stderr + outs[1].stderr
    with locked([inside(package)]):
        assert subprocess.run(lines[0], capture_output=True, text=True, check=False).returncode == 1
    assert not inside(package).lock.exists()


def count_up(folder, times):
    for _ in range(times):
        with locked([inside(folder)], patience=Patience(120)):
            number = int((folder / "count").read_text(encoding="ascii"))
            time.sleep(0.001)
            (folder / "count").write_text(str(number + 1), encoding="ascii")


def test_of_many_at_once_one_is_in_at_a_time(package):
    (package / "count").write_text("0", encoding="ascii")
    processes = [FORK.Process(target=count_up, args=(package, 5)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert (package / "count").read_text(encoding="ascii") == "40"
    assert sorted(path.name for path in package.iterdir()) == ["count", "member"]


def take_and_die(folder):
    with locked([inside(folder)], patience=Patience(120)):
        with (folder / "log").open("a", encoding="ascii") as log:
            log.write("in\n")
        os._exit(0)


def test_of_many_that_find_a_lock_left_behind_one_takes_it_over(package):
    processes = [FORK.Process(target=take_and_die, args=(package,)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert (package / "log").read_text(encoding="ascii") == "in\n" * 8
    assert holders.read_lock(inside(package).lock) is not None  # the last one died in it
    assert entered(inside(package))


def test_whoever_takes_a_lock_removes_what_dead_writers_left_beside_it(tmp_path):
    dead = FORK.Process(target=lambda: owners.owned_name(tmp_path).mkdir())
    dead.start()
    dead.join()
    assert len(list(tmp_path.glob(".clora-new-*"))) == 1
    with locked([inside(tmp_path)]):
        assert list(tmp_path.glob(".clora-new-*")) == []


@pytest.mark.parametrize("found", ["ours", "another's"])
def test_a_lock_goes_where_there_is_no_room_for_another_name(tmp_path, monkeypatch, found):
    lock = inside(tmp_path).lock
    assert holders.put_up(lock, found)
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    holders.take_down(lock, "ours")
    assert lock.exists() == (found != "ours")


def test_a_lock_that_was_there_for_an_instant_is_no_error(tmp_path, monkeypatch):
    lock = inside(tmp_path).lock
    monkeypatch.setattr(
        Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTEMPTY, "Directory not empty"))
    )
    assert not holders.put_up(lock, "mine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a file system in which nothing can be made")
def test_a_place_where_nothing_can_be_made_is_told_at_once():
    with refused("cannot-write", "/proc/new"):
        entered(place(Path("/proc/new")))
