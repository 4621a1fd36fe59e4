"""Readers beside writers: they never wait, never fail, and never mix what was with what is."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import time

import pytest
from refusals import refused
from support import write_random_adapter

from clora_cli.base import durable
from clora_cli.base.errors import ReplacedError
from clora_cli.processes import owners
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.package import changed, read_package

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def package(tmp_path, backbone):
    base = backbone()
    for stage, name in enumerate(("first", "second"), start=1):
        for turn in (1, 2):
            write_random_adapter(tmp_path / f"v{turn}" / name, base, stage=stage, rank=turn * 2, alpha=turn * 4)
    shutil.copytree(tmp_path / "v1", tmp_path / "pkg")
    return tmp_path / "pkg"


def replace_again_and_again(package, exchange, stop):
    """Put one or the other version of each member in its place, as fast as it goes."""
    if not exchange:
        durable._exchanging = lambda: None
    turn = 0
    while not stop.is_set():
        turn += 1
        for name in ("first", "second"):
            draft = owners.owned_name(package)
            shutil.copytree(package.parent / f"v{turn % 2 + 1}" / name, draft)
            durable.publish(draft, package / name)
            shutil.rmtree(draft)
        time.sleep(0.01)  # a reader on a busy machine has to come to its end some time


@pytest.mark.parametrize("exchange", [True, False])
def test_a_package_is_read_as_it_was_at_one_moment_while_its_members_are_replaced(package, exchange):
    stop = FORK.Event()
    writer = FORK.Process(target=replace_again_and_again, args=(package, exchange, stop))
    writer.start()
    try:
        seen, reads, deadline = set(), 0, time.monotonic() + 60
        while (reads < 30 or len(seen) < 2) and time.monotonic() < deadline:
            reads += 1
            members = read_package([package])
            assert [member.task for member in members] == ["first", "second"]
            seen.add(tuple(member.config["r"] for member in members))
            with contextlib.suppress(ReplacedError):  # the command line then starts the command again
                for member in members:
                    assert {factor.rank for factor in member.factors().values()} == {member.config["r"]}
            assert read_adapter(package / "first").config["r"] in {2, 4}
    finally:
        stop.set()
        writer.join()
    assert seen <= {(2, 2), (4, 4), (4, 2), (2, 4)} and len(seen) > 1


def test_what_was_replaced_after_it_was_read_is_never_mixed_with_what_is_there_now(package):
    member, other = read_package([package])
    digest = member.digest
    assert not changed(package, [member, other])
    draft = package / ".clora-draft"
    shutil.copytree(package.parent / "v2" / "first", draft)
    durable.publish(draft, package / "first")
    assert changed(package, [member, other])
    for use in (member.factors, member.deltas, member.state):
        with refused("replaced-while-read", package / "first", error=ReplacedError):
            use()
    assert member.digest == digest  # it was looked at before
    shutil.rmtree(package / "second")
    assert other.digest  # that of the file which its manifest was compared with
    with refused("replaced-while-read", package / "second", error=ReplacedError):
        other.factors()


def test_what_is_not_there_or_damaged_is_told_at_once(package, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with refused("adapter-missing", package / "third"):
        read_adapter(package / "third")
    (package / "first" / "adapter_model.safetensors").write_bytes(b"")
    with refused("adapter-file-changed", package / "first", "adapter_model.safetensors"):
        read_package([package])


def test_a_member_that_a_living_writer_has_moved_aside_is_waited_for(package):
    aside = owners.owned_name(package, owners.OLD)
    aside.mkdir()
    (package / "second").rename(aside / "second")
    back = FORK.Process(target=lambda: (time.sleep(0.3), (aside / "second").rename(package / "second"), aside.rmdir()))
    back.start()
    assert [member.task for member in read_package([package])] == ["first", "second"]
    back.join()


def test_a_command_starts_again_when_what_it_read_was_replaced(package, monkeypatch, capsys):
    import sys

    from clora_cli import merges
    from clora_cli.cli import main

    real, times = merges.merge_sites, []

    def replaced_once(*arguments, **options):
        times.append(1)
        if len(times) == 1:
            raise ReplacedError("replaced")
        return real(*arguments, **options)

    monkeypatch.setattr(merges, "merge_sites", replaced_once)
    monkeypatch.setattr(sys, "argv", ["clora", "merge", str(package), "-o", str(package.parent / "out"), "-q"])
    with pytest.raises(SystemExit) as info:
        main()
    assert (info.value.code, len(times)) == (0, 2)
    assert capsys.readouterr().out == f"{package.parent / 'out'}\n"
