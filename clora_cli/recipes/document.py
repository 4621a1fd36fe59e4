"""YAML whose every value knows its line, read strictly (layer L3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from clora_cli.errors import OptionError, did_you_mean

__all__ = ["Item", "read_document"]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where there is one
_DEPTH = 12  # a recipe needs five; an alias that contains itself has no end


@dataclass(frozen=True)
class Item:
    """A value with its place.

    Attributes:
        source: The file, or what stands for it in messages.
        line: From 1.
        value: A scalar, a list of items, or a mapping of keys to items.
    """

    source: str
    line: int
    value: Any

    def fail(self, problem: str) -> NoReturn:
        """Refuse the value.

        Raises:
            OptionError: Always; it begins with ``file:line``.
        """
        raise OptionError(f"{self.source}:{self.line}: {problem}")

    def mapping(self, what: str, known: Iterable[str] | None = None) -> dict[str, Item]:
        """Return the value as a mapping, whose keys must be among those known."""
        if not isinstance(self.value, Mapping):
            self.fail(f"{what} must be a mapping of names to values, not {self.told}")
        if known is not None:
            names = sorted(known)
            for key, item in self.value.items():
                if key not in names:
                    item.fail(f"unknown key '{key}' in {what}{did_you_mean(key, names)}; known: {', '.join(names)}")
        return dict(self.value)

    def items(self, what: str) -> list[Item]:
        """Return the value as a list; one value alone is a list of one."""
        if isinstance(self.value, Mapping) or self.value is None:
            self.fail(f"{what} must be a list, not {self.told}")
        return list(self.value) if self.is_list else [self]

    def text(self, what: str) -> str:
        """Return the value as a text, which is not empty and has one line."""
        if not isinstance(self.value, str) or not self.value.strip() or "\n" in self.value.strip():
            self.fail(f"{what} must be a text in one line, not {self.told}")
        return self.value.strip()

    def whole(self, what: str) -> int:
        """Return the value as a whole number of at least 0."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            self.fail(f"{what} must be a whole number of at least 0, not {self.told}")
        return self.value

    def flag(self, what: str) -> bool:
        """Return the value as true or false."""
        if not isinstance(self.value, bool):
            self.fail(f"{what} must be true or false, not {self.told}")
        return self.value

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.value, list)

    @property
    def told(self) -> str:
        """The value in a few words, for messages."""
        if isinstance(self.value, Mapping):
            return "a mapping"
        if self.value is None:
            return "nothing"
        return "a list" if self.is_list else f"'{self.value}'"

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, Mapping):
            return {key: item.plain for key, item in self.value.items()}
        return [item.plain for item in self.value] if self.is_list else self.value


def read_document(text: str, source: str) -> Item:
    """Read one YAML document.

    Args:
        text: The document.
        source: Its file, for messages.

    Raises:
        OptionError: If it is no YAML, empty, or has a key twice or one that is no text.
    """
    try:
        loader = _LOADER(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise OptionError(f"{source}:{mark.line + 1 if mark else 1}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{source}:1: not YAML: {' '.join(str(error).split())}") from error
    if node is None:
        raise OptionError(f"{source}:1: the recipe is empty; `clora run NAME --show` prints one to begin with")
    return _item(loader, node, source, 0)


def _item(loader: Any, node: yaml.Node, source: str, depth: int) -> Item:
    place = Item(source, node.start_mark.line + 1, None)
    if depth > _DEPTH:
        place.fail("nested too deeply for a recipe")
    if isinstance(node, yaml.SequenceNode):
        return Item(source, place.line, [_item(loader, each, source, depth + 1) for each in node.value])
    if not isinstance(node, yaml.MappingNode):
        try:
            value = loader.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            place.fail(f"cannot be read: {' '.join(str(error).split())}")
        return Item(source, place.line, value)
    found: dict[str, Item] = {}
    for key, value in node.value:
        name = _item(loader, key, source, depth + 1)
        if not isinstance(name.value, str):
            name.fail(f"a key must be a text, not {name.told}")
        if name.value in found:
            name.fail(f"key '{name.value}' stands here twice")
        item = _item(loader, value, source, depth + 1)
        # A mapping or list below its key is named by the key's line, where one looks for it.
        found[name.value] = Item(source, name.line, item.value)
    return Item(source, place.line, found)
