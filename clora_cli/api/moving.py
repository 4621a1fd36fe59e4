"""Packages to and from folders and the Hub, from Python (layer L4)."""

from __future__ import annotations

from pathlib import Path

from clora_cli.api.calls import Listener, heard, patient, settled
from clora_cli.api.returns import Pulled, Pushed
from clora_cli.base.errors import blaming
from clora_cli.options import PushOptions

__all__ = ["pull", "push"]


@blaming()
def push(
    package: str | Path, target: str, options: PushOptions, *, force: bool = False, progress: Listener | None = None
) -> Pushed:
    """Send a package to a folder or the Hub, with a model card and the checksum of every file.

    Args:
        package: A package, or an adapter folder.
        target: A folder, ``file://…``, or ``hf://OWNER/NAME[@REVISION]``.
        options: What the model card says; only ``license`` has no default.
        force: Replace another package in a folder.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command; what was there stays.
    """
    from clora_cli.store.package import read_package
    from clora_cli.transforming.publishing import push_package

    packages, told = [Path(package)], heard(progress)
    members = read_package(packages)
    return Pushed(*push_package(members, target, settled(options), force=force, progress=told, packages=packages))


@blaming()
def pull(
    source: str,
    out: str | Path = "adapters",
    *,
    force: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    progress: Listener | None = None,
) -> Pulled:
    """Fetch a package that was pushed, or adapters of somebody else, and check every file.

    Args:
        source: A folder, ``file://…``, or ``hf://OWNER/NAME[@REVISION]``.
        out: The folder to write.
        force: Replace what is there.
        wait: Seconds to wait for another process that writes there.
        break_lock: Take over from a process on another machine if it is gone.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command; nothing appears before all files are right.
    """
    from clora_cli.transforming.publishing import pull_package

    patience = patient(wait, break_lock)
    return Pulled(*pull_package(source, Path(out), force=force, progress=heard(progress), patience=patience))
