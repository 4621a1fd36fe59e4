"""Which accelerators there are, and how jobs share them out (layer L0); nothing here talks to one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from clora_cli.base.errors import OptionError

__all__ = ["VISIBLE", "check_room", "jobs_that_fit", "share", "visible"]

VISIBLE = "CUDA_VISIBLE_DEVICES"
_NUMBER = re.compile(r"-?\d+")


def visible(environment: Mapping[str, str], count: Callable[[], int]) -> list[str]:
    """Return the names of the devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them.

    Args:
        environment: Where that variable may be: numbers, UUIDs of devices (``GPU-…``) or of their instances (``MIG-…``). As for
            CUDA, what stands behind a name of none, such as -1, does not count.
        count: Returns how many there are where it is not set.
    """
    if (names := environment.get(VISIBLE)) is None:
        return [str(number) for number in range(count())]
    found: list[str] = []
    for name in (part.strip() for part in names.split(",")):
        if not name or (_NUMBER.fullmatch(name) and int(name) < 0):
            break
        found.append(name)
    return list(dict.fromkeys(found))


def jobs_that_fit(devices: int, each: int | None, per_device: int) -> int:
    """Return how many jobs there is room for, at least 1.

    Args:
        devices: How many devices there are.
        each: Devices that a job takes; None for all that it sees.
        per_device: Jobs on a device.
    """
    return max(1, devices * per_device // max(1, each or devices))


def check_room(jobs: int, devices: int, each: int | None, per_device: int) -> None:
    """Check that jobs have room.

    Raises:
        OptionError: If more than ``per_device`` jobs would be on a device.
    """
    asked = jobs * (each or 1)
    if devices and asked > devices * per_device:
        raise OptionError(
            f"--jobs {jobs} with {each or 1} devices each takes more than --per-device {per_device} allows on {devices} visible "
            "devices; lower --jobs or raise --per-device",
            code="devices-too-few",
        )


def share(devices: Sequence[str], jobs: int, each: int | None, number: int) -> list[str]:
    """Return the devices of one of several jobs that run side by side.

    Neighbours stay together, and every device gets as many jobs as any other, but for one.

    Args:
        devices: All of them, at least one.
        jobs: How many jobs there are.
        each: Devices that a job takes; None for as many as there are for it.
        number: Which job, from 0.
    """
    size = len(devices)
    if each is None:
        start, stop = number * size // jobs, (number + 1) * size // jobs
        return list(devices[start:stop]) if jobs <= size else [devices[number % size]]
    return [devices[(number * each + place) % size] for place in range(min(each, size))]
