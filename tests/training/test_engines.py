"""Every method in one process, in two, and in two that divide the base model: the same adapter."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import engines
import pytest
from engines import ADAPTER, CASES, ZERO, ZERO_CONFIGURED, distance, prepare, table

from clora_cli.training import train_task

HANGING = 1800  # seconds that all trainings take on no machine, however busy


@pytest.fixture(scope="session")
def trained(tmp_path_factory, ranks, model_folder, tasks):
    """Everything trained on every engine, in one folder, with what each process kept of the base model."""
    root = tmp_path_factory.mktemp("engines")
    for family in {case.family for case in CASES}:
        shutil.copytree(model_folder(family), root / "models" / family)
    for task in ("first", "second"):
        shutil.copytree(tasks[task], root / task)
    prepare(root, CASES, train_task)
    ended = ranks(root, folders=[root, root], script=Path(engines.__file__), timeout=HANGING)
    assert ended.codes == [0, 0], ended.err
    if find_spec("deepspeed"):
        chosen = {"environment": [ZERO_CONFIGURED] * 2, "timeout": HANGING}
        ended = ranks(root, folders=[root, root], script=Path(engines.__file__), **chosen)
        assert ended.codes == [0, 0], ended.err
    return root, [json.loads((root / f"kept-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_several_processes_train_what_one_trains(trained, case):
    root, _ = trained
    for engine in case.engines:
        assert distance(root / "one" / case.name / ADAPTER, root / engine / case.name / ADAPTER) < case.limit, engine


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="takes DeepSpeed")
def test_under_zero_2_methods_train_what_one_process_trains_or_are_refused(trained):
    root, _ = trained
    for rank in range(2):
        ended = json.loads((root / f"{ZERO}-{rank}.json").read_text())
        assert ended == {case.name: "gradients-divided" if case.needs_whole else "" for case in CASES}
    for case in CASES:
        if not case.needs_whole:
            assert distance(root / "one" / case.name / ADAPTER, root / ZERO / case.name / ADAPTER) < case.limit


def test_each_process_keeps_its_part_of_the_base_model_and_no_more(trained):
    _, kept = trained
    for case in CASES:
        for engine in case.engines:
            shares = [own / whole for own, whole in (found[f"{engine}/{case.name}"] for found in kept)]
            assert max(shares) < 0.55 if engine == "sharded" else shares == [1, 1], (case.name, engine)
            assert sum(shares) >= 1


def test_a_divided_run_continues_to_the_bytes_of_an_undisturbed_one(trained):
    root, kept = trained
    assert kept[0]["interrupted"] == kept[1]["interrupted"] == "interrupted at step 3 of 4; continue with --resume"
    one, other = ((root / name / ADAPTER).read_bytes() for name in ("undisturbed", "resumed"))
    assert one == other


def test_the_published_table_is_what_these_trainings_show(trained):
    """``PUBLISH_ENGINES=1`` writes it anew; what differs from machine to machine, the distances, may differ."""
    path = Path(__file__).parents[2] / "docs" / "engines.json"
    found = table(trained[0], json.loads(path.read_text()))
    if os.environ.get("PUBLISH_ENGINES"):
        path.write_text(json.dumps(found, indent=1) + "\n")
    published = json.loads(path.read_text())
    assert [[cell.split(" ")[0] for cell in row.values()] for row in found.values()] == [
        [cell.split(" ")[0] for cell in row.values()] for row in published.values()
    ]
    assert list(found) == list(published)
