"""The methods of a recipe: from YAML to entries with everything that is set for each (layer L3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import OptionError, did_you_mean
from clora_cli.base.folder_names import folder_problem, same_on_some_disk
from clora_cli.base.legible import shortened
from clora_cli.recipes.crossing import check_adapters, points
from clora_cli.recipes.document import Item
from clora_cli.recipes.recipe import MethodEntry
from clora_cli.recipes.settings import EachTask, check_together, read_each, read_settings
from clora_cli.recipes.task_lists import read_learned

__all__ = ["SHARED", "folder_text", "read_methods"]

_METHOD_KEYS = "method label about sources learns option train stat-features eval sweep adapters-of".split()
_UNION_KEYS = "label about sources eval sweep adapters-of".split()
_FOLDER = re.compile(r"[A-Za-z0-9][\w.+@=-]*")
_UNSEEN, _STAGES = "unseen", "stages"  # of `eval`, and no options of its command
# What features and an evaluation take from the training before them, where they say nothing themselves.
SHARED = ("max-length", "dtype", "device", "columns")


def read_methods(item: Item, common: Mapping[str, Item], tasks: tuple[str, ...]) -> tuple[MethodEntry, ...]:
    """Read the entries of ``methods``, a sweep's points as one each.

    Args:
        item: The entries.
        common: The recipe's keys, of which all methods have some.
        tasks: The recipe's tasks.

    Raises:
        OptionError: If anything is unknown, of the wrong type or length, or does not go together, with file and line.
    """
    entries: list[MethodEntry] = []
    learns = read_learned(common["learns"], tasks) if "learns" in common else ()
    # Read once by themselves too: a fault in what all share is reported once, at its own line.
    shared = {name: common[name] for name in ("train", "stat-features", "eval") if name in common}
    for name, section in shared.items():
        _section(section, name, len(learns or tasks))
    for entry in (point for each in item.items("methods") for point in points(each, common.get("sweep"))):
        method = _method(entry, shared, tasks, learns)
        check_adapters(entry, method, entries, tasks)
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
    return read_settings(item, "eval", 0, also=(_UNSEEN, _STAGES))


def _method(item: Item, shared: Mapping[str, Item], tasks: Sequence[str], learns: tuple[str, ...]) -> MethodEntry:
    keys = {"method": item} if isinstance(item.value, str) else item.mapping("a method", _METHOD_KEYS)
    adapters_of = _adapters_of(keys)
    if len(adapters_of) > 1:
        item.mapping("a union of adapters", _UNION_KEYS)
        return _union(item, keys, shared, adapters_of)
    if "method" not in keys:
        item.fail("a method needs 'method', its name", code="recipe-lacks-key")
    name, learns = _known_method(keys["method"]), read_learned(keys["learns"], tasks) if "learns" in keys else learns
    count = len(learns or tasks)
    train = _merged(keys, shared, "train", count)
    features = _features(keys, shared, train, count)
    evaluation = _inherited(train) | _merged(keys, shared, "eval", count)
    check_together(keys.get("train", item), "train", train, count)
    check_together(keys.get("eval", item), "eval", evaluation, 0)
    entry = MethodEntry(
        method=name,
        learns=learns,
        option=_options(keys["option"], name, count) if "option" in keys else {},
        train=train,
        features=features,
        eval=evaluation,
        adapters_of=adapters_of,
        **_told(keys, shared, name),
    )
    _check_method(keys.get("option", keys["method"]), entry, count)
    return entry


def _union(
    item: Item, keys: Mapping[str, Item], shared: Mapping[str, Item], adapters_of: tuple[str, ...]
) -> MethodEntry:
    """Return an entry that trains nothing: adapters of several methods, evaluated together."""
    evaluation = _inherited(_merged({}, shared, "train", 0)) | _merged(keys, shared, "eval", 0)
    check_together(keys.get("eval", item), "eval", evaluation, 0)
    told = _told(keys, shared, "+".join(adapters_of))
    return MethodEntry(method="", eval=evaluation, adapters_of=adapters_of, **told)


def _told(keys: Mapping[str, Item], shared: Mapping[str, Item], name: str) -> dict[str, Any]:
    """Return what every entry has: its label, where it comes from, and when it is scored."""
    return {
        "label": folder_text(keys["label"], "label") if "label" in keys else name,
        "about": keys["about"].text("about") if "about" in keys else "",
        "sources": _sources(keys["sources"]) if "sources" in keys else {},
        "unseen": bool((unseen := _of_eval(_UNSEEN, keys, shared)) and unseen.flag(_UNSEEN)),
        "stages": _stages(_of_eval(_STAGES, keys, shared)),
    }


def _adapters_of(keys: Mapping[str, Item]) -> tuple[str, ...]:
    item = keys.get("adapters-of")
    if item is None or not item.is_list:
        return (item.text("adapters-of"),) if item is not None else ()
    labels = tuple(each.text("a label") for each in item.items("adapters-of"))
    if len(set(labels)) < max(2, len(labels)):
        item.fail(
            "adapters-of is one label, or a list of two or more, each of them once", code="recipe-value-malformed"
        )
    return labels


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


def _of_eval(name: str, keys: Mapping[str, Item], shared: Mapping[str, Item]) -> Item | None:
    """Return what an entry's ``eval`` says of something, or else the one that all share."""
    places = (place["eval"].value for place in (keys, shared) if "eval" in place)
    return next((value[name] for value in places if name in value), None)


def _stages(item: Item | None) -> str:
    stages = item.text(_STAGES) if item is not None else "all"
    if item is not None and stages not in ("all", "last"):
        item.fail(f"stages is 'all' or 'last', not '{shortened(stages)}'", code="recipe-value-malformed")
    return stages


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


def folder_text(item: Item, what: str) -> str:
    """Read a name that a folder will have.

    Raises:
        OptionError: If no folder can have it everywhere.
    """
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
