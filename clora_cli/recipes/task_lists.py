"""Which tasks a recipe has, and which of them a method learns (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence

from clora_cli.base.errors import did_you_mean
from clora_cli.base.folder_names import same_on_some_disk
from clora_cli.base.intake import named_path
from clora_cli.base.legible import shortened
from clora_cli.data.bundled import bundled_name
from clora_cli.data.findings import few
from clora_cli.data.harness import PREFIX
from clora_cli.data.known_tasks import canonical
from clora_cli.data.naming import split_names
from clora_cli.data.registry_names import entry_of, order_of, orders_beside
from clora_cli.data.root import data_root, find
from clora_cli.recipes.document import Item
from clora_cli.recipes.orders import named_orders, orders
from clora_cli.recipes.recipe import folder_name

__all__ = ["read_learned", "read_tasks"]


def read_tasks(item: Item) -> tuple[str, ...]:
    """Read an order by its name, or a list of tasks, as what ``--data`` takes.

    Raises:
        OptionError: If an order or a task is unknown, or a task is there twice, with file and line.
    """
    orders_by_name = named_orders()
    if not item.is_list:
        order = item.text("tasks")
        path = named_path(order)
        if order not in orders_by_name and (tasks := order_of(path)):
            return _each_once([item] * len(tasks), tasks)
        if order not in orders_by_name:
            beside = [str(path.with_name(name)) for name in orders_beside(path)]
            hint = did_you_mean(order, [*orders_by_name, *beside])
            item.fail(
                f"no order '{order if beside else shortened(order)}'{hint}; give one of {few(beside or orders())} or a list",
                code="unknown-name",
            )
        return orders_by_name[order]
    entries = item.items("tasks")
    if not entries:
        item.fail("tasks is empty", code="recipe-list-empty")
    return _each_once(entries, [_task(entry) for entry in entries])


def _each_once(entries: Sequence[Item], names: Sequence[str]) -> tuple[str, ...]:
    """Return names of tasks, no two of which would be one folder."""
    places: set[str] = set()
    for entry, name in zip(entries, names, strict=True):
        if _place(name) in places:
            entry.fail(f"task '{name}' is in the order twice", code="task-given-twice")
        places.add(_place(name))
    return tuple(names)


def _place(task: str) -> str:
    return same_on_some_disk(folder_name(task))


def _task(item: Item) -> str:
    name, root = item.text("a task"), data_root()
    if order_of(named_path(name)) and not entry_of(named_path(name)):
        item.fail(
            f"'{name}' is an order of several tasks; give it alone: tasks: {name}",
            code="unknown-name",
        )
    if split_names(name)[1] or name.startswith(PREFIX):
        return name
    if bundled_name(name) or (known := canonical(name)) or named_path(name).exists() or "/" in name:
        return name
    if root and find(root, name, known):
        return name
    from clora_cli.data import list_tasks

    names = [info.name for info in list_tasks()]
    item.fail(
        f"unknown task '{shortened(name)}'{did_you_mean(name, names)}; `clora tasks` lists the known ones",
        code="unknown-name",
    )


def read_learned(item: Item, tasks: Sequence[str]) -> tuple[str, ...]:
    """Read the tasks that a method learns, each spelled as among the recipe's.

    Raises:
        OptionError: If one is none of the recipe's tasks, or as ``read_tasks``.
    """
    by_place = {_place(task): task for task in tasks}
    learned = read_tasks(item)
    for task in learned:
        if _place(task) not in by_place:
            item.fail(
                f"learns: '{shortened(task)}' is none of the recipe's tasks; add it to tasks", code="unknown-name"
            )
    return tuple(by_place[_place(task)] for task in learned)
