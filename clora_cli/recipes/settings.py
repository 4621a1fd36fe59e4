"""What a recipe may set of each step, named, typed and checked as the step's own command has it (layer L3)."""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from clora_cli.base.errors import OptionError
from clora_cli.base.options import Declared, Kind, Options, declared
from clora_cli.options import EvalOptions, FeatureOptions, TrainOptions
from clora_cli.recipes.document import Item

__all__ = [
    "EachTask",
    "Section",
    "at_stage",
    "build",
    "check_together",
    "read_each",
    "read_settings",
    "spelled",
    "words_of",
]

Section = Literal["train", "stat-features", "eval"]
_SECTIONS: Mapping[Section, type[Options]] = {
    "train": TrainOptions,
    "stat-features": FeatureOptions,
    "eval": EvalOptions,
}


@dataclass(frozen=True)
class EachTask:
    """One value for each task, in the tasks' order."""

    values: tuple[Any, ...]


def at_stage(settings: Mapping[str, Any], stage: int) -> dict[str, Any]:
    """Return settings as they are for one task, whose stage counts from 1."""
    return {name: value.values[stage - 1] if isinstance(value, EachTask) else value for name, value in settings.items()}


def read_settings(item: Item, section: Section, tasks: int, also: Collection[str] = ()) -> dict[str, Any]:
    """Read one section's settings.

    Args:
        item: The mapping.
        section: Which command's options they are.
        tasks: How many values a list of one value per task must have; 0 where there are none.
        also: Further keys that the mapping may have, which are left to others.

    Returns:
        Values by name as on the command line, ``EachTask`` where there is one per task.

    Raises:
        OptionError: If a name, a type, a length or a range is wrong, with file and line.
    """
    known = _known(section)
    settings = {}
    for name, entry in item.mapping(section, [*known, *also]).items():
        if name in also:
            continue
        option = known[name]
        lists, read = option.kind == "texts", _reader(name, option)
        settings[name] = read_each(entry, name, tasks, lists=lists, read=read)
        check_together(entry, section, {name: settings[name]}, tasks)
    return settings


def read_each(item: Item, name: str, tasks: int, *, lists: bool, read: typing.Callable[[Item], Any]) -> Any:
    """Read a value, or a list of one value for each task.

    Args:
        item: The value.
        name: Its name, for messages.
        tasks: How many values such a list must have; 0 where there is no such list.
        lists: Whether one value alone is a list already, so that a list for each task is one of lists.
        read: Reads one value.

    Raises:
        OptionError: If the list is too long or too short, or as ``read``.
    """
    values = item.value if item.is_list else []
    if not item.is_list or (lists and not any(each.is_list for each in values)):
        return read(item)
    if not tasks:
        item.fail(f"{name} must be one value: it is the same for all tasks", code="recipe-value-malformed")
    if len(values) != tasks:
        item.fail(
            f"{name} has {len(values)} values for {tasks} tasks; give one for each task, or one for all",
            code="recipe-value-count-differs",
        )
    return EachTask(tuple(map(read, values)))


def check_together(item: Item, section: Section, settings: Mapping[str, Any], tasks: int) -> None:
    """Check the values of a section, one or several together, for every task.

    Raises:
        OptionError: If one is out of range, or two do not go together.
    """
    varied = any(isinstance(value, EachTask) for value in settings.values())
    for stage in range(1, (tasks if varied else 1) + 1):
        try:
            build(section, at_stage(settings, stage), **({"data": "a-task"} if section == "train" else {}))
        except OptionError as error:
            item.fail(str(error), code=error.code)


def build(section: Section, settings: Mapping[str, Any], **fixed: Any) -> Any:
    """Return the options of a step's engine: ``TrainOptions``, ``FeatureOptions`` or ``EvalOptions``.

    Args:
        section: Whose.
        settings: Values by name as on the command line, for one task.
        fixed: Fields that are no settings.

    Raises:
        OptionError: If a value is out of range.
    """
    known = _known(section)
    chosen = {name.replace("-", "_"): _meant(known[name], value) for name, value in settings.items()}
    return _SECTIONS[section](**chosen, **fixed)


def _meant(option: Declared, value: Any) -> Any:
    """Return a value; of a number that is given by a name, such as ``nproc: auto``, what it stands for here and now."""
    named = option.kind == "whole" and option.parse is not None and isinstance(value, str)
    return option.parse(value) if named and option.parse else value


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """Return settings for one task as words of a command line."""
    words: list[str] = []
    for name, value in settings.items():
        flag = f"--{name}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, Mapping):
            words += [word for key, entry in value.items() for word in (flag, f"{key}={entry}")]
        elif isinstance(value, tuple):
            words += [word for entry in value for word in (flag, entry)]
        elif value is not None:
            words += [flag, spelled(value)]
    return words


def spelled(value: Any) -> str:
    """Return a value as typed on a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)


@cache
def _known(section: Section) -> dict[str, Declared]:
    """Return the options that a section may set, by their names on the command line."""
    options = declared(_SECTIONS[section]).values()
    return {option.name.replace("_", "-"): option for option in options if option.recipe}


def _reader(name: str, option: Declared) -> typing.Callable[[Item], Any]:
    readers: dict[Kind, typing.Callable[[Item], Any]] = {
        "whole": lambda item: _named(item, name) if option.parse else item.whole(name),
        "number": lambda item: _number(item, name),
        "flag": lambda item: item.flag(name),
        "text": lambda item: _text(item, name),
        "texts": lambda item: tuple(_text(each, name) for each in item.items(name)),
        "pairs": lambda item: {key: _text(entry, f"{name}.{key}") for key, entry in item.mapping(name).items()},
    }
    return lambda item: None if option.optional and item.value is None else readers[option.kind](item)


def _named(item: Item, name: str) -> int | str:
    """Return a number, or a name for one, which stays a name until a command takes it."""
    return item.text(name) if isinstance(item.value, str) else item.whole(name)


def _text(item: Item, name: str) -> str:
    # A layer's number is a text on the command line.
    is_number = isinstance(item.value, (int, float)) and not isinstance(item.value, bool)
    return spelled(item.value) if is_number else item.text(name)


def _number(item: Item, name: str) -> float:
    # YAML 1.1 reads 1e-3 as a text, because it has no dot.
    value = item.value
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    item.fail(f"{name} must be a number, not {item.told}", code="recipe-value-malformed")
