"""YAML whose every value knows its line, read strictly (layer L3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from clora_cli.base.errors import OptionError, did_you_mean
from clora_cli.base.legible import legible, shortened

__all__ = ["Item", "read_document"]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where there is one
_DEPTH = 12  # a recipe needs five; an alias that contains itself has no end
_MOST = 20_000  # values, those that aliases repeat included: seven lines of aliases make ten million
_LARGEST = 1 << 63  # whole numbers below it fit everywhere
_DIGITS = 400  # of a number as it is written
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


@dataclass(frozen=True)
class Item:
    """A value with its place.

    Attributes:
        source: The file, or its name in messages.
        line: From 1.
        value: A scalar, a list of items, or a mapping of keys to items.
    """

    source: str
    line: int
    value: Any

    def fail(self, problem: str, *, code: str) -> NoReturn:
        """Refuse the value.

        Raises:
            OptionError: Always; it begins with ``file:line``.
        """
        raise OptionError(f"{self.source}:{self.line}: {problem}", code=code)

    def mapping(self, what: str, known: Iterable[str] | None = None) -> dict[str, Item]:
        """Return the value as a mapping, whose keys must be among those known."""
        if not isinstance(self.value, Mapping):
            self.fail(f"{what} must be a mapping of names to values, not {self.told}", code="recipe-value-malformed")
        if known is not None:
            names = sorted(known)
            for key, item in self.value.items():
                if key not in names:
                    item.fail(
                        f"unknown key '{shortened(key)}' in {what}{did_you_mean(key, names)}; known: {', '.join(names)}",
                        code="unknown-name",
                    )
        return dict(self.value)

    def items(self, what: str) -> list[Item]:
        """Return the value as a list; one value alone is a list of one."""
        if isinstance(self.value, Mapping) or self.value is None:
            self.fail(f"{what} must be a list, not {self.told}", code="recipe-value-malformed")
        return list(self.value) if self.is_list else [self]

    def text(self, what: str) -> str:
        """Return the value as a text, which is not empty and has one line."""
        if not isinstance(self.value, str) or not self.value.strip() or "\n" in self.value.strip():
            self.fail(f"{what} must be a text in one line, not {self.told}", code="recipe-value-malformed")
        return self.value.strip()

    def whole(self, what: str) -> int:
        """Return the value as a whole number of at least 0."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            self.fail(f"{what} must be a whole number of at least 0, not {self.told}", code="recipe-value-malformed")
        return self.value

    def flag(self, what: str) -> bool:
        """Return the value as true or false."""
        if not isinstance(self.value, bool):
            self.fail(f"{what} must be true or false, not {self.told}", code="recipe-value-malformed")
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
        return "a list" if self.is_list else f"'{legible(shortened(str(self.value)))}'"

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, Mapping):
            return {key: item.plain for key, item in self.value.items()}
        return [item.plain for item in self.value] if self.is_list else self.value


def read_document(text: str, source: str, what: str = "recipe") -> Item:
    """Read one YAML document.

    Args:
        text: The document.
        source: Its file, for messages.
        what: What it is, for messages.

    Raises:
        OptionError: If it is no YAML, nested too deeply, too large, empty, or has a key twice or one that is no text.
    """
    try:
        _check_depth(text, source, what)
        loader = _LOADER(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise OptionError(
            f"{source}:{mark.line + 1 if mark else 1}: not YAML: {error.problem}", code="yaml-malformed"
        ) from error
    except yaml.YAMLError as error:
        raise OptionError(f"{source}:1: not YAML: {' '.join(str(error).split())}", code="yaml-malformed") from error
    if node is None:
        told = "is empty; `clora run NAME --show` prints one to begin with" if what == "recipe" else "is not a mapping"
        raise OptionError(f"{source}:1: the {what} {told}", code="document-empty")
    return _Reader(loader, source, what).item(node, 0)


def _check_depth(text: str, source: str, what: str) -> None:
    """Refuse what is nested too deeply, part by part: the loader in C would call itself until the process is gone."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH + 1:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise OptionError(f"{source}:{line}: nested too deeply for a {what}", code="document-too-large")


class _Reader:
    """Turns nodes of one document into items."""

    def __init__(self, loader: Any, source: str, what: str) -> None:
        self._loader, self._source, self._what, self._left = loader, source, what, _MOST

    def item(self, node: yaml.Node, depth: int) -> Item:
        line = node.start_mark.line + 1
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            Item(self._source, line, None).fail(
                f"{'nested too deeply' if depth > _DEPTH else 'too large'} for a recipe",
                code="document-too-large",
            )
        if isinstance(node, yaml.SequenceNode):
            return Item(self._source, line, [self.item(each, depth + 1) for each in node.value])
        if isinstance(node, yaml.MappingNode):
            return Item(self._source, line, dict(self._pairs(node, depth)))
        return Item(self._source, line, self._scalar(node, line))

    def _pairs(self, node: yaml.MappingNode, depth: int) -> Iterator[tuple[str, Item]]:
        seen = set()
        for key, value in node.value:
            name = self.item(key, depth + 1)
            if not isinstance(name.value, str):
                name.fail(f"a key must be a text, not {name.told}", code="yaml-key-not-text")
            if name.value in seen:
                name.fail(f"key '{shortened(name.value)}' occurs twice", code="yaml-key-given-twice")
            seen.add(name.value)
            item = self.item(value, depth + 1)
            # A mapping or list below its key is named by the key's line, where one looks for it.
            yield name.value, Item(self._source, name.line, item.value)

    def _scalar(self, node: yaml.Node, line: int) -> Any:
        place = Item(self._source, line, None)
        is_text = node.tag == "tag:yaml.org,2002:str"
        if node.tag not in _PLAIN or (not is_text and len(node.value) > _DIGITS):
            place.fail(
                f"'{shortened(node.value)}' is not a text, number, true or false; put it in quotes to make it a text",
                code="yaml-value-not-plain",
            )
        try:
            value = self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            place.fail(f"cannot be read: {' '.join(str(error).split())}", code="yaml-value-not-plain")
        if isinstance(value, (int, float)) and not -_LARGEST < value < _LARGEST:  # what is no number fails too
            place.fail(f"{shortened(node.value)} is too large, or not a number", code="option-out-of-range")
        return value
