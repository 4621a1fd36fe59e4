"""The confusion matrix in plain text."""

from __future__ import annotations

from dataclasses import replace

from reported import ROUTES, many_routes

from clora_cli.presenting.route_forms import confusion_table
from clora_cli.store.routes_file import routes_json


def test_the_matrix_is_aligned_and_ends_with_macro_and_micro():
    lines = confusion_table(ROUTES).splitlines()
    assert lines[1].split() == ["task", "inputs", "mnli", "sentiment", "topics", "base", "right"]
    assert lines[2].split() == ["mnli", "10", "90.0", "10.0", ".", ".", "90.0"]
    assert lines[3].split() == ["sst2", "50", "20.0", "60.0", ".", "20.0", "60.0"]
    assert lines[4].split() == ["unseen", "3", ".", ".", "100", ".", "-"]
    assert len({len(line) for line in lines[1:5]}) == 1
    assert lines[5:] == ["right: 75.00 % (macro), 65.00 % (micro) over 2 tasks, 60 inputs"]
    assert "base" not in confusion_table(replace(ROUTES, abstained=(0, 0, 0)))


def test_inputs_of_no_known_task_are_no_row():
    routes = replace(ROUTES, tasks=("mnli", "sst2", ""))
    assert len(confusion_table(routes).splitlines()) == 5
    assert routes_json(routes)["tasks"] == ["mnli", "sst2"]
    assert len(routes_json(routes)["counts"]) == 2


def test_names_that_do_not_fit_become_numbers():
    lines = confusion_table(many_routes(15, 15)).splitlines()
    assert lines[1].split() == ["task", "inputs", *map(str, range(1, 16)), "right"]
    assert lines[2].split()[:2] == ["1", "task1000_a_rat…_a_task"]
    assert max(map(len, lines)) <= 130
    extra = confusion_table(many_routes(3, 15)).splitlines()
    assert extra[1].startswith("adapters: 1 task1000_a_rather_long_name_of_a_task, 2 task1001")
    legend = " ".join(extra[1 : extra.index(next(line for line in extra if line.startswith("task ")))])
    assert all(f"{number} task{999 + number}_" in legend for number in range(1, 16))


def test_names_that_are_cut_to_the_same_become_numbers():
    names = tuple(f"a_very_long_common_beginning_{middle}_and_end" for middle in "xyz")
    lines = confusion_table(replace(ROUTES, adapters=names)).splitlines()
    header = next(line for line in lines if line.startswith("task "))
    assert header.split()[2:5] == ["1", "2", "3"]


def test_of_many_adapters_the_favourites_are_named_and_of_many_tasks_the_worst():
    lines = confusion_table(many_routes(40, 40, unseen=2)).splitlines()
    assert lines[1].split() == ["task", "inputs", "right", "went", "to"]
    assert len(lines) == 1 + 1 + 30 + 1 + 1
    assert lines[2].split()[0].startswith("task1009")
    assert lines[2].split()[1:] == ["10", "10.0", "task1010_a_rat…_a_task", "90.0,", "task1009_a_rat…_a_task", "10.0"]
    assert lines[-2] == "… and 12 tasks of higher accuracy"
    assert "macro" in lines[-1]
