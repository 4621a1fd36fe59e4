from __future__ import annotations

import pytest

from clora_cli.processes.devices import jobs_that_fit, share, visible


def nobody():
    raise AssertionError("no device is asked for")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("0,1", ["0", "1"]),
        ("", []),
        ("-1", []),
        ("3,-1,4", ["3"]),
        (" GPU-8932f937 , MIG-a/1/0 ", ["GPU-8932f937", "MIG-a/1/0"]),
        ("1,1,2", ["1", "2"]),
        ("0,,2", ["0"]),
    ],
)
def test_the_environment_says_which_devices_there_are(names, found):
    assert visible({"CUDA_VISIBLE_DEVICES": names}, nobody) == found


def test_without_it_all_are_visible():
    assert visible({}, lambda: 3) == ["0", "1", "2"]
    assert visible({}, lambda: 0) == []


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("jobs", [1, 2, 3, 5])
@pytest.mark.parametrize("each", [1, 2, None])
def test_every_device_gets_as_many_jobs_as_any_other(size, jobs, each):
    devices = [f"MIG-{number}" for number in range(size)]
    shares = [share(devices, jobs, each, number) for number in range(jobs)]
    loads = [sum(shared.count(device) for shared in shares) for device in devices]
    assert max(loads) - min(loads) <= 1
    assert all(len(set(shared)) == len(shared) >= 1 for shared in shares)
    if each is None and jobs <= size:
        assert [device for shared in shares for device in shared] == devices


def test_jobs_that_fit_are_at_least_one():
    assert [jobs_that_fit(*given) for given in ((0, 1, 2), (1, 2, 1), (8, 3, 1), (4, None, 3), (2, 1, 3))] == [
        1,
        1,
        2,
        3,
        6,
    ]
