"""``--nproc N``: the same command in N processes under the elastic launcher (layer L4)."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import typer

from clora_cli.base.errors import OptionError
from clora_cli.processes import signals
from clora_cli.processes.meeting import agree
from clora_cli.processes.orphans import end_without

__all__ = ["relaunch"]

_LAUNCHER = "CLORA_LAUNCHER"  # the launching process: it may be gone before a process of the launch first looks


def relaunch(
    processes: int,
    *,
    dry_run: bool,
    switches: Mapping[str, Any] = MappingProxyType({}),
    holding: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    """Run this command again in several processes and exit with their status; inside them, agree and return.

    ``accelerate launch --cpu --num_processes 2`` runs one process without saying so; the elastic launcher does not.

    Args:
        processes: How many, at least 1. One process is this one.
        dry_run: Nothing is carried out, so one process is enough.
        switches: What else, beside what the work itself compares, decides whether a process takes part in all of it.
        holding: What to hold while they run.

    Raises:
        typer.Exit: With the exit code of the first process that failed, or 0.
        OptionError: If a launcher has started another number.
        MismatchError: If one was given other switches than the first.
    """
    if "RANK" in os.environ:
        end_without(int(os.environ.get(_LAUNCHER, os.getppid())))
        _check_number(processes)
        agree(lambda: {"dry_run": dry_run, **switches})
    elif processes > 1 and not dry_run:
        with holding():
            _launch(processes)


def _check_number(processes: int) -> None:
    size = os.environ.get("WORLD_SIZE", "1")
    if str(processes) not in {"1", size, os.environ.get("LOCAL_WORLD_SIZE")}:
        raise OptionError(
            f"--nproc {processes}: this process is one of {size} that a launcher has started, as RANK and WORLD_SIZE say; "
            "leave --nproc out, or unset the two",
            code="processes-already-launched",
        )


def _launch(processes: int) -> None:
    os.environ[_LAUNCHER] = str(os.getpid())
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # A child's error is printed by the child; the launcher's own account of it would be a page more. Its loggers have
    # levels of their own, and this process does nothing but launch.
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="clora",  # the launcher warns about one that it has to make up
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    if hasattr(config, "signals_to_handle"):  # from PyTorch 2.9 on
        config.signals_to_handle = ",".join(number.name for number in signals.ending())
    try:
        elastic_launch(config, sys.executable)("-m", "clora_cli", *sys.argv[1:])
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        # A signal shows as a negative code. All that have failed by themselves have one code; what says least is SIGTERM, by
        # which the launcher ends the others.
        code = codes[min(codes, key=lambda rank: (codes[rank] < 0, codes[rank] == -signal.SIGTERM, rank))]
        raise typer.Exit(code if code > 0 else 128 - code) from None
    except SignalException as error:
        # The launcher has passed the signal on and waited: the first process has said what to do next.
        raise typer.Exit(128 + error.sigval) from None
    raise typer.Exit(0)
