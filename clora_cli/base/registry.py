"""Plug-ins: a file in a folder (layer L0).

The folder is the kind, the file stem (``o_lora.py``) the name on the command line (``o-lora``), the single entry of
the file's ``__all__`` the plug-in, its keyword-only parameters or dataclass fields the options, its docstring the help.
Names and summaries are read from the files without importing them, so that ``--help`` and shell completion stay fast.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.errors import OptionError, UnknownNameError
from clora_cli.base.intervals import check_size

__all__ = [
    "KINDS",
    "added",
    "bind",
    "bound",
    "convert",
    "described",
    "load",
    "names",
    "options",
    "recorded",
    "split_options",
    "summary",
]

KINDS = ("methods", "merges", "trims", "routers", "metrics")
_ROOT = Path(__file__).parents[1]
_ADDED = "added"


def names(kind: str) -> tuple[str, ...]:
    """Return the sorted names of all plug-ins of one kind."""
    files = (_ROOT / kind).glob("*.py")
    return tuple(sorted(file.stem.replace("_", "-") for file in files if not file.stem.startswith("_")))


def summary(kind: str, name: str) -> str:
    """Return the first line of a plug-in's docstring, without importing it."""
    tree = ast.parse(_path(kind, name).read_text(encoding="utf-8"))
    documented = [tree, *(node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)))]
    texts = [ast.get_docstring(node) or "" for node in documented]
    return next((text.splitlines()[0] for text in texts if text), "")


def load(kind: str, name: str) -> Any:
    """Import one plug-in and return the class or function that it provides.

    Raises:
        UnknownNameError: If no file of that kind has this name.
    """
    module = importlib.import_module(f"clora_cli.{kind}.{_path(kind, name).stem}")
    (public,) = module.__all__
    return getattr(module, public)


def options(plugin: Any) -> dict[str, inspect.Parameter]:
    """Return a plug-in's options: its keyword-only parameters with resolved annotations, by name."""
    function = plugin.__init__ if inspect.isclass(plugin) else plugin
    hints = typing.get_type_hints(plugin if inspect.isclass(plugin) else function)
    parameters = inspect.signature(plugin).parameters
    return {
        name: parameter.replace(annotation=hints[name])
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def described(plugin: Any, section: str = "Args") -> dict[str, str]:
    """Return what a docstring says of a plug-in's options, or of what another section lists, by name, each in one line."""
    text = inspect.getdoc(plugin) or ""
    block = re.search(rf"^{section}:\n((?: .*\n|\n)+)", f"{text}\n", re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", block[1] if block else "", re.MULTILINE)
    return {name: " ".join(about.split()) for name, about in entries}


def convert(option: str, text: str, annotation: Any) -> Any:
    """Turn an option's text into the type of its annotation.

    Args:
        option: The option's name, for the message.
        text: The value as typed, such as ``"0.4"``, ``"true"``, ``"none"``.
        annotation: ``int``, ``float``, ``bool``, ``str``, a ``Literal`` of strings, or an optional one of these.

    Raises:
        OptionError: If the text is not a value of that type.
    """
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        if text.lower() == "none":
            return None
        (annotation,) = (part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        allowed = typing.get_args(annotation)
        if text not in allowed:
            raise OptionError(f"option {option}={text}: choose one of {', '.join(allowed)}")
        return text
    if annotation is bool:
        return _boolean(option, text)
    try:
        value = annotation(text)
    except ValueError:
        raise OptionError(f"option {option}={text[:40]}: not a valid {annotation.__name__}") from None
    if isinstance(value, (int, float)):
        check_size(f"option {option}", value)
    return value


def split_options(pairs: typing.Iterable[str]) -> dict[str, str]:
    """Split ``key=value`` texts of ``-o`` into a dictionary; the last of equal keys wins."""
    result: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise OptionError(f"option '{pair}' is not of the form key=value")
        result[key.strip().replace("-", "_")] = value.strip()
    return result


def bind(plugin: Any, name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Convert a plug-in's option texts to its parameters' types.

    Raises:
        UnknownNameError: If the plug-in has no such option.
        OptionError: If a value does not fit.
    """
    known = options(plugin)
    for key in values:
        if key not in known:
            raise UnknownNameError(f"option of {name}", key, known)
    return {key: convert(key, value, known[key].annotation) for key, value in values.items()}


def bound(kind: str, text: str) -> Any:
    """Return the plug-in that a text such as ``mahalanobis,shrinkage=0.1`` names, with its options bound.

    Raises:
        UnknownNameError: If there is no such plug-in or option.
        OptionError: If an option's value does not fit.
    """
    name, *pairs = text.split(",")
    plugin = load(kind, name)
    return plugin(**bind(plugin, name, split_options(pairs)))


def added(default: Any) -> Any:
    """Return a dataclass field for an option that a plug-in did not have when its first manifests were written.

    Manifests hold it only where it is not at its default, so that what lacks it stays what it was.
    """
    return dataclasses.field(default=default, metadata={_ADDED: True})


def recorded(plugin: Any) -> dict[str, Any]:
    """Return a bound plug-in's options as manifests keep them, defaults included but for those of ``added`` options."""
    values = {field: getattr(plugin, field.name) for field in dataclasses.fields(plugin)}
    return {
        field.name: value
        for field, value in values.items()
        if not (field.metadata.get(_ADDED) and value == field.default)
    }


def _path(kind: str, name: str) -> Path:
    if name not in names(kind):
        raise UnknownNameError(kind.removesuffix("s"), name, names(kind))
    return _ROOT / kind / f"{name.replace('-', '_')}.py"


def _boolean(option: str, text: str) -> bool:
    if text.lower() in {"true", "yes", "on", "1"}:
        return True
    if text.lower() in {"false", "no", "off", "0"}:
        return False
    raise OptionError(f"option {option}={text}: choose true or false")
