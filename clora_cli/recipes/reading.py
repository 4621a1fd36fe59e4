"""From YAML to a recipe, every value checked before anything starts (layer L3)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import ArtifactError, OptionError, did_you_mean
from clora_cli.base.folder_names import folder_problem, same_on_some_disk
from clora_cli.base.intake import read_text, reason
from clora_cli.base.legible import shortened
from clora_cli.data.bundled import bundled_name
from clora_cli.data.harness import PREFIX
from clora_cli.data.known_tasks import canonical
from clora_cli.data.naming import split_names
from clora_cli.data.registries import order_of
from clora_cli.data.root import data_root, find
from clora_cli.recipes.crossing import check_adapters, points
from clora_cli.recipes.document import Item, read_document
from clora_cli.recipes.orders import named_orders, orders
from clora_cli.recipes.recipe import MethodEntry, Recipe, folder_name
from clora_cli.recipes.settings import EachTask, check_together, read_each, read_settings

__all__ = ["SHARED", "read_recipe", "read_recipe_file"]

_METHOD_KEYS = "method label about sources option train stat-features eval sweep adapters-of".split()
_KEYS = "name about model revision tasks methods train stat-features eval sweep seeds out".split()
_LONGEST = 1 << 20  # bytes of a recipe
_FOLDER = re.compile(r"[A-Za-z0-9][\w.+@=-]*")
_UNSEEN = "unseen"
# What features and an evaluation take from the training before them, where they say nothing themselves.
SHARED = ("max-length", "dtype", "device", "columns")


def read_recipe_file(path: Path) -> Recipe:
    """Read a recipe from a file.

    Raises:
        ArtifactError: If it cannot be read.
        OptionError: As ``read_recipe``.
    """
    try:
        text = read_text(path, _LONGEST)
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"recipe {path} cannot be read: {reason(error)}", code="path-unreadable") from error
    return read_recipe(text, str(path), name=path.stem)


def read_recipe(text: str, source: str, *, name: str = "recipe") -> Recipe:
    """Read a recipe.

    Args:
        text: YAML.
        source: Where it is from, for messages.
        name: Its name, where it gives none itself.

    Raises:
        OptionError: If anything in it is unknown, of the wrong type or length, or does not go together; with file, line
            and, for names, the nearest one that exists.
    """
    top = read_document(text, source)
    keys = top.mapping("the recipe", _KEYS)
    for needed in ("tasks", "methods"):
        if needed not in keys:
            top.fail(
                f"the recipe has no '{needed}'; see `clora run --list` and `clora run NAME --show`",
                code="recipe-lacks-key",
            )
    named = _folder_text(keys["name"], "name") if "name" in keys else name
    tasks = _tasks(keys["tasks"])
    return Recipe(
        name=named,
        about=keys["about"].text("about") if "about" in keys else "",
        model=keys["model"].text("model") if "model" in keys else os.environ.get("CLORA_MODEL", "clora-nano"),
        revision=keys["revision"].text("revision") if "revision" in keys else None,
        tasks=tasks,
        methods=_methods(keys["methods"], keys, len(tasks)),
        seeds=_seeds(keys["seeds"]) if "seeds" in keys else (42,),
        out=Path(keys["out"].text("out") if "out" in keys else f"runs/{named}"),
    )


def _tasks(item: Item) -> tuple[str, ...]:
    orders_by_name = named_orders()
    if not item.is_list:
        order = item.text("tasks")
        if order not in orders_by_name and (tasks := order_of(Path(order).expanduser())):
            return tasks
        if order not in orders_by_name:
            item.fail(
                f"no order '{shortened(order)}'{did_you_mean(order, orders_by_name)}; give one of {', '.join(orders())} or a list",
                code="unknown-name",
            )
        return orders_by_name[order]
    entries = item.items("tasks")
    if not entries:
        item.fail("tasks is empty", code="recipe-list-empty")
    names = [_task(entry) for entry in entries]
    for number, (entry, name) in enumerate(zip(entries, names, strict=True)):
        if _place(name) in map(_place, names[:number]):
            entry.fail(f"task '{name}' is in the order twice", code="task-given-twice")
    return tuple(names)


def _place(task: str) -> str:
    return same_on_some_disk(folder_name(task))


def _task(item: Item) -> str:
    name, root = item.text("a task"), data_root()
    if split_names(name)[1] or name.startswith(PREFIX):
        return name
    if bundled_name(name) or (known := canonical(name)) or Path(name).expanduser().exists() or "/" in name:
        return name
    if root and find(root, name, known):
        return name
    from clora_cli.data import list_tasks

    names = [info.name for info in list_tasks()]
    item.fail(
        f"unknown task '{shortened(name)}'{did_you_mean(name, names)}; `clora tasks` lists the known ones",
        code="unknown-name",
    )


def _seeds(item: Item) -> tuple[int, ...]:
    entries = item.items("seeds")
    seeds = tuple(entry.whole("a seed") for entry in entries)
    if not seeds:
        item.fail("seeds is empty", code="recipe-list-empty")
    if len(set(seeds)) < len(seeds):
        item.fail("seeds must be whole numbers, each of them once", code="option-given-twice")
    return seeds


def _folder_text(item: Item, what: str) -> str:
    text = item.text(what)
    if not _FOLDER.fullmatch(text):
        item.fail(
            f"{what} '{shortened(text)}' must be usable as a folder name: letters, digits, '.', '_', '+', '@', '=' and '-'",
            code="name-unfit-for-folder",
        )
    if problem := folder_problem(text):
        item.fail(
            f"{what} '{shortened(text)}' must be usable as a folder name: {problem}", code="name-unfit-for-folder"
        )
    return text


def _methods(item: Item, common: Mapping[str, Item], tasks: int) -> tuple[MethodEntry, ...]:
    entries: list[MethodEntry] = []
    # Read once by themselves too: a fault in what all share is reported once, at its own line.
    shared = {name: common[name] for name in ("train", "stat-features", "eval") if name in common}
    for name, section in shared.items():
        _section(section, name, tasks)
    for entry in (point for each in item.items("methods") for point in points(each, common.get("sweep"))):
        method = _method(entry, shared, tasks)
        check_adapters(entry, method, entries)
        if same_on_some_disk(method.label) in [same_on_some_disk(other.label) for other in entries]:
            entry.fail(
                f"two methods are called '{method.label}'; give one of them a label", code="method-label-given-twice"
            )
        entries.append(method)
    if not entries:
        item.fail("methods is empty", code="recipe-list-empty")
    return tuple(entries)


def _section(item: Item, name: str, tasks: int) -> dict[str, Any]:
    if name == "train":
        return read_settings(item, "train", tasks)
    if name == "stat-features":
        return read_settings(item, "stat-features", tasks)
    return read_settings(item, "eval", 0, also=(_UNSEEN,))


def _method(item: Item, shared: Mapping[str, Item], tasks: int) -> MethodEntry:
    keys = {"method": item} if isinstance(item.value, str) else item.mapping("a method", _METHOD_KEYS)
    if "method" not in keys:
        item.fail("a method needs 'method', its name", code="recipe-lacks-key")
    name = _known_method(keys["method"])
    train = _merged(keys, shared, "train", tasks)
    features = _features(keys, shared, train, tasks)
    evaluation = _inherited(train) | _merged(keys, shared, "eval", tasks)
    check_together(keys.get("train", item), "train", train, tasks)
    check_together(keys.get("eval", item), "eval", evaluation, 0)
    entry = MethodEntry(
        label=_folder_text(keys["label"], "label") if "label" in keys else name,
        method=name,
        about=keys["about"].text("about") if "about" in keys else "",
        option=_options(keys["option"], name, tasks) if "option" in keys else {},
        train=train,
        features=features,
        eval=evaluation,
        unseen=_unseen(keys, shared),
        adapters_of=keys["adapters-of"].text("adapters-of") if "adapters-of" in keys else "",
        sources=_sources(keys["sources"]) if "sources" in keys else {},
    )
    _check_method(keys.get("option", keys["method"]), entry, tasks)
    return entry


def _known_method(item: Item) -> str:
    name = item.text("method")
    known = registry.names("methods")
    for part in name.split("+"):
        if part not in known:
            item.fail(
                f"unknown method '{shortened(part)}'{did_you_mean(part, known)}; known: {', '.join(known)}",
                code="unknown-name",
            )
    return name


def _merged(keys: Mapping[str, Item], shared: Mapping[str, Item], name: str, tasks: int) -> dict[str, Any]:
    """Return a section's settings for one method: its own before those that all share."""
    merged: dict[str, Any] = {}
    for place in (shared, keys):
        if name in place:
            merged |= _section(place[name], name, tasks)
    return merged


def _features(
    keys: Mapping[str, Item], shared: Mapping[str, Item], train: Mapping[str, Any], tasks: int
) -> dict[str, Any] | None:
    if "stat-features" not in keys and "stat-features" not in shared:
        return None
    if "stat-features" in keys and keys["stat-features"].value is False:
        return None
    found = _inherited(train) | _merged(keys, shared, "stat-features", tasks)
    check_together(keys.get("stat-features") or shared["stat-features"], "stat-features", found, tasks)
    return found


def _inherited(train: Mapping[str, Any]) -> dict[str, Any]:
    return {name: train[name] for name in SHARED if name in train and not isinstance(train[name], EachTask)}


def _unseen(keys: Mapping[str, Item], shared: Mapping[str, Item]) -> bool:
    for place in (keys, shared):
        if "eval" in place and _UNSEEN in place["eval"].value:
            return bool(place["eval"].value[_UNSEEN].flag(_UNSEEN))
    return False


def _sources(item: Item) -> dict[str, tuple[str, ...]]:
    texts = item.mapping("sources")
    return {source: tuple(each.text("a setting") for each in names.items("sources")) for source, names in texts.items()}


def _options(item: Item, method: str, tasks: int) -> dict[str, Any]:
    options = {}
    for name, entry in item.mapping("option").items():
        options[name] = read_each(entry, name, tasks, lists=False, read=_scalar)
        _check_method(entry, MethodEntry(label="", method=method, option={name: options[name]}), tasks)
    return options


def _scalar(item: Item) -> Any:
    if isinstance(item.value, Mapping) or item.is_list:
        item.fail(f"an option must be one value, not {item.told}", code="recipe-value-malformed")
    return item.value


def _check_method(item: Item, entry: MethodEntry, tasks: int) -> None:
    from clora_cli.training.composition import compose

    texts = [entry.option_texts(stage) for stage in range(1, tasks + 1)]
    for text in texts if _varied(entry.option.values()) else texts[:1]:
        try:
            compose(entry.method, text)
        except OptionError as error:
            item.fail(str(error), code=error.code)


def _varied(values: Iterable[Any]) -> bool:
    return any(isinstance(value, EachTask) for value in values)
