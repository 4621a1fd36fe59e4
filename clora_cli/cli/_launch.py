"""``--nproc N``: the same command in N processes under the elastic launcher (layer L4)."""

from __future__ import annotations

import logging
import os
import signal
import sys

import typer

from clora_cli.processes import signals
from clora_cli.processes.orphans import end_without

__all__ = ["relaunch"]

_LAUNCHER = "CLORA_LAUNCHER"  # the launching process: it may be gone before a process of the launch first looks


def relaunch(processes: int, *, dry_run: bool = False) -> None:
    """Run this command again in several processes and exit with their status; inside them, return at once.

    ``accelerate launch --cpu --num_processes 2`` runs one process without saying so; the elastic launcher does not.

    Args:
        processes: How many, at least 1. One process is this one.
        dry_run: Nothing is carried out, so one process is enough.

    Raises:
        typer.Exit: With the exit code of the first process that failed, or 0.
    """
    if "RANK" in os.environ:
        end_without(int(os.environ.get(_LAUNCHER, os.getppid())))
        return
    if processes == 1 or dry_run:
        return
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
