"""One declaration per option (layer L0): its name, type, default, help, range, and what records keep of it.

The options of a command are a frozen dataclass that derives from ``Options`` and whose fields are made by ``option``.
From it come the command line's signature (``cli._declared``), the keys of configuration files and of recipes, the entry
of the manifest (``recorded``) and ``docs/commands.md``.
"""

from __future__ import annotations

import dataclasses
import keyword
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from clora_cli.base.errors import OptionError
from clora_cli.base.intervals import MOST, check_size, in_interval

__all__ = ["FIRST", "Declared", "Kind", "Option", "Options", "declared", "option", "recorded"]

FIRST = "0.1.0"  # the version whose records hold every option that existed then

Kind = Literal["whole", "number", "flag", "text", "texts", "numbers", "pairs", "path"]
_DECLARED: dict[Any, Mapping[str, Declared]] = {}
_KINDS: dict[Any, Kind] = {int: "whole", float: "number", bool: "flag", tuple: "texts", str: "text"}

_TYPES: dict[str, tuple[type, str]] = {
    "whole": (Integral, "a whole number"),
    "number": (Real, "a number"),
    "flag": (bool, "true or false"),
}


@dataclass(frozen=True, kw_only=True)
class Option:
    """What the declaration of an option adds to its name, type and default.

    Attributes:
        help: What it does, in one or two sentences without its range.
        flags: Its spellings on the command line; ``--its-name`` by default.
        interval: The numbers allowed, such as ``"[1, inf)"``; empty for any.
        most: The largest number allowed.
        choices: The texts allowed; empty for any.
        metavar: The placeholder for its value in ``--help``.
        environment: Environment variables that set it, in order; ``CLORA_COMMAND_NAME`` by default.
        parse: Turns the text, list of texts or ``key=value`` pairs typed into the value, where that is something else.
        completes: What a shell completes its value with: a kind of plug-in, ``task``, ``combine`` or ``similarity``.
        writes: Whether it names a place to write to, whose name is checked first.
        recipe: Whether a recipe's section for the command may set it.
        table: The table of the record that keeps it, such as ``training``; None if it changes no result, or is kept in
            another form.
        since: The version that introduced it.
        absent: What its absence in a record means: its default when it was introduced.
    """

    help: str
    flags: tuple[str, ...] = ()
    interval: str = ""
    most: float = MOST
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    environment: tuple[str, ...] = ()
    parse: Callable[[Any], Any] | None = None
    completes: str = ""
    writes: bool = False
    recipe: bool = True
    table: str | None = None
    since: str = FIRST
    absent: Any = None


@dataclass(frozen=True, kw_only=True)
class Declared(Option):
    """An option with everything that its field declares.

    Attributes:
        name: The field's name; ``flag`` is its spelling on the command line.
        kind: The type of its value, in words.
        optional: Whether None is a value.
        default: Its default; ``dataclasses.MISSING`` if it must be given.
    """

    name: str
    kind: Kind
    optional: bool
    default: Any

    @property
    def flag(self) -> str:
        """Its long spelling, such as ``--batch-size``."""
        return next((flag for flag in self.flags if flag.startswith("--")), f"--{self.name.replace('_', '-')}")

    @property
    def key(self) -> str:
        """Its long spelling as a name: the key of configuration files, in capitals the end of the environment variable.

        Where that is a word of Python's, such as ``for``, it is the field's name.
        """
        spelled = self.flag.lstrip("-").replace("-", "_")
        return self.name if keyword.iskeyword(spelled) else spelled

    def check(self, value: Any) -> None:
        """Check one value's type, which from Python can be any, and its range.

        Raises:
            OptionError: If it is of another type, or out of range.
        """
        if self.kind in _TYPES and not self._is_of_kind(value):
            raise OptionError(
                f"{self.flag} {value!r}: give {_TYPES[self.kind][1]}, not {type(value).__name__}",
                code="option-wrong-type",
            )
        if self.choices and value not in self.choices:
            raise OptionError(
                f"{self.flag} {value}: choose one of {', '.join(self.choices)}", code="option-choice-unknown"
            )
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return
        check_size(self.flag, value, self.most)
        if self.interval and not in_interval(value, self.interval):
            raise OptionError(
                f"{self.flag} {value}: give {_asked_for(self.interval, whole=self.kind == 'whole')}",
                code="option-out-of-range",
            )

    def _is_of_kind(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, str):
            return self.parse is not None  # which reads it later
        return isinstance(value, _TYPES[self.kind][0]) and (self.kind == "flag" or not isinstance(value, bool))


def option(default: Any = dataclasses.MISSING, help: str = "", **attributes: Any) -> Any:
    """Return the dataclass field of an option.

    Args:
        default: Its default; an empty mapping for pairs of key and value.
        help: As ``Option.help``.
        attributes: The other attributes of ``Option``; ``absent`` is the default unless given.
    """
    attributes.setdefault("absent", default)
    metadata = {"option": Option(help=help, **attributes)}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a command; every value is checked against its declaration."""

    def __post_init__(self) -> None:
        """Check the ranges, then combinations of options with ``check``.

        Raises:
            OptionError: If a value is out of range, or two values do not go together.
        """
        for name, declaration in declared(type(self)).items():
            declaration.check(getattr(self, name))
        self.check()

    def check(self) -> None:
        """Check combinations of options, which no single range covers.

        Raises:
            OptionError: If some do not go together.
        """


def declared(options: type[Options]) -> Mapping[str, Declared]:
    """Return the options that a class declares, by field name, in order."""
    if options not in _DECLARED:
        _DECLARED[options] = types.MappingProxyType(dict(_read(options)))
    return _DECLARED[options]


def _read(options: type[Options]) -> Iterator[tuple[str, Declared]]:
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        if (declaration := field.metadata.get("option")) is not None:
            kind, optional = _kind(hints[field.name])
            default = {} if field.default_factory is dict else field.default
            about = {key.name: getattr(declaration, key.name) for key in dataclasses.fields(Option)}
            yield field.name, Declared(name=field.name, kind=kind, optional=optional, default=default, **about)


def recorded(options: Options, table: str) -> dict[str, Any]:
    """Return the entries of one table of a record: all options of the table that change the result.

    Options younger than the format are recorded only if they differ from what their absence means, so that a record made
    before they existed equals one made with their defaults.
    """
    kept = [(name, each) for name, each in declared(type(options)).items() if each.table == table]
    values = {name: getattr(options, name) for name, each in kept}
    return {
        name: list(values[name]) if isinstance(values[name], tuple) else values[name]
        for name, each in kept
        if each.since == FIRST or values[name] != each.absent
    }


def _kind(annotation: Any) -> tuple[Kind, bool]:
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    parts = typing.get_args(annotation) if union else (annotation,)
    (inner,) = (part for part in parts if part is not type(None))
    return _kind_of(inner), len(parts) > 1


def _kind_of(annotation: Any) -> Kind:
    origin: Callable[..., Any] = typing.get_origin(annotation) or annotation
    if origin is tuple and typing.get_args(annotation)[0] is float:
        return "numbers"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "pairs"
    if getattr(origin, "__name__", "") == "Path":
        return "path"
    return _KINDS.get(origin, "text")


def _asked_for(interval: str, *, whole: bool) -> str:
    low, high = (end.strip() for end in interval[1:-1].split(","))
    number = "a whole number" if whole else "a number"
    if high != "inf":
        return f"{number} in {interval}"
    return f"{number} of at least {low}" if interval[0] == "[" else f"{number} above {low}"
