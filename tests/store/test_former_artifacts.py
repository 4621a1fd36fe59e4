"""What clora 0.1.0 left on disk: read as it is, found up to date by the calls that made it, and built on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clora_cli.base.files import differences
from clora_cli.options import TrainOptions
from clora_cli.store.adapter_folder import STATE
from clora_cli.store.distribution import read_distribution
from clora_cli.store.package import read_package
from clora_cli.store.side_files import former_name, side_file
from clora_cli.training import make_plan

FORMER = Path(__file__).parents[1] / "artifacts" / "0.1.0"
METHODS = ("cast", "o-lora+n-lora", "pfd")
TASKS = ("topics-news", "yes-no")
# As it was called, but for --method and --package: --rank 2 --alpha 4 --max-steps 2 -b 4 --train-rows 8 …
CHOSEN = {"rank": 2, "alpha": 4.0, "max_steps": 2, "batch_size": 4, "train_rows": 8}
CHOSEN |= {"max_length": 48, "max_answer_length": 8}


@pytest.fixture(params=METHODS)
def package(request, tmp_path):
    return shutil.copytree(FORMER / request.param, tmp_path / request.param)


def plan(package, task, **chosen):
    return make_plan(TrainOptions(data=task, method=package.name, package=package, **{**CHOSEN, **chosen}))


def test_packages_are_read_with_all_that_their_methods_kept(package):
    members = read_package([package])
    assert [member.task for member in members] == list(TASKS)
    for member in members:
        assert member.factors()
        assert bool(member.state()) == (package.name == "cast")
        if package.name == "pfd":
            assert read_distribution(member.features).count == 8
    if package.name == "cast":
        assert side_file(members[0].path, STATE).name == former_name(STATE)


@pytest.mark.parametrize("task", TASKS)
def test_the_call_that_made_an_adapter_finds_it_up_to_date(package, task):
    found = plan(package, task).finished()
    assert found is not None and found.path == package / task


def test_another_call_is_told_what_differs(package):
    recipe = plan(package, "yes-no", lr=0.5).recipe()
    (_, last) = read_package([package])
    assert differences(recipe, last.manifest.raw) == "training.lr 0.006 -> 0.5"


def test_a_task_can_be_added(package):
    assert plan(package, "inference").stage == 3


def test_a_package_goes_on_with_the_layers_that_it_has(package):
    assert (
        plan(package, "inference").options.target_modules == ()
    )  # query and value projections, as clora 0.1.0 took them


@pytest.mark.parametrize(("method", "layers"), [("o-lora", ("all-linear",)), ("cast", ())])
def test_a_fresh_package_of_the_bundled_model_begins_with_all_linear_layers_unless_they_are_shared(
    tmp_path, method, layers
):
    options = TrainOptions(data="yes-no", method=method, package=tmp_path / "fresh", **CHOSEN)
    assert make_plan(options).options.target_modules == layers
