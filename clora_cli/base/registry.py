"""Plug-ins by kind and name: their options, help and records (layer L0).

Those that come with clora are files in folders: the folder is the kind, the file stem (``o_lora.py``) the name on the
command line (``o-lora``), the single entry of the file's ``__all__`` the plug-in. Others are named by entry points of
installed distributions, or are files that the user named. The keyword-only parameters or dataclass fields are the options,
the docstring the help.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from clora_cli.base.entry_points import KINDS
from clora_cli.base.errors import OptionError, UnknownNameError
from clora_cli.base.intervals import check_size
from clora_cli.base.legible import shortened
from clora_cli.base.plugin_loading import NONE_IN_FILE, loaded, options, unfit
from clora_cli.base.plugin_sources import admit, built_in, find, kinds_of, names, summary

__all__ = [
    "KINDS",
    "added",
    "admit",
    "admit_options",
    "bind",
    "bound",
    "built_in",
    "chosen",
    "convert",
    "described",
    "find",
    "kinds_of",
    "listed",
    "load",
    "missing",
    "names",
    "naming",
    "options",
    "provided",
    "recorded",
    "records",
    "refusals",
    "split_options",
    "summary",
    "unfit",
]

_ADDED = "added"
_NAMES = "names"


def load(kind: str, name: str) -> Any:
    """Import one plug-in and return the class or function that it provides.

    Raises:
        UnknownNameError: If there is none of this name.
        OptionError: If several have it, or it is no plug-in.
    """
    return loaded(find(kind, name))


def provided(text: str) -> tuple[str, list[str]]:
    """Return the name of a file's plug-ins, and of which kinds it has one; the file can be named from then on.

    Args:
        text: The path of a file that the user named.

    Raises:
        OptionError: If it cannot be read or imported, or has none.
    """
    name, kinds, problems = "", [], []
    for kind in KINDS:
        try:
            name = admit(kind, text)
            load(kind, name)
        except OptionError as error:
            problems.append(error)
        else:
            kinds.append(kind)
    if not kinds:
        about = [error for error in problems if error.code != NONE_IN_FILE]
        raise (about or problems)[0]
    return name, kinds


def listed(kind: str) -> str:
    """Return the names of all plug-ins of one kind for a command's help, with what those from elsewhere are."""
    own = built_in(kind)
    others = [_introduced(kind, name) for name in names(kind) if name not in own]
    return ", ".join(own) + (f"; installed: {'; '.join(others)}" if others else "")


def _introduced(kind: str, name: str) -> str:
    try:
        origin = find(kind, name).origin
    except OptionError:
        return f"{name} (refused: `clora show {name}` says why)"
    about = summary(kind, name).removesuffix(".")
    return f"{name} ({origin}){f': {about}' if about else ''}"


def refusals(kind: str) -> list[str]:
    """Import all plug-ins of one kind and return why those are refused that are."""
    reasons = []
    for name in names(kind):
        try:
            load(kind, name)
        except OptionError as error:
            reasons.append(str(error))
    return reasons


def records(named: Mapping[str, typing.Iterable[str]]) -> dict[str, Any]:
    """Return what a manifest keeps of the plug-ins that it names: where those that do not come with clora come from.

    Args:
        named: Names by kind; what is no plug-in's name is passed over.

    Returns:
        ``{"plugins": {kind: {name: record}}}``, or nothing, so that manifests without such plug-ins stay as they were.
    """
    by_kind = {
        kind: {name: find(kind, name).record() for name in entries if name in {*names(kind)} - {*built_in(kind)}}
        for kind, entries in named.items()
    }
    kept = {kind: entries for kind, entries in by_kind.items() if entries}
    return {"plugins": kept} if kept else {}


def missing(kind: str, name: str, recorded: Any) -> str:
    """Return what to do for a plug-in that a manifest names and that is not here, or comes from elsewhere; else nothing.

    Args:
        kind: The kind.
        name: The name.
        recorded: What ``records`` wrote, as it was read from a manifest.
    """
    entry: Any = recorded
    for key in ("plugins", kind, name):
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    here = find(kind, name).record() if name in names(kind) else None
    if not isinstance(entry, Mapping):
        return f"it was of another version of clora: uninstall {here.get('distribution', '')}" if here else ""
    if here and any(key in here and here[key] == entry.get(key) for key in ("distribution", "sha256")):
        return ""
    if distribution := entry.get("distribution"):
        return f"install the distribution {shortened(str(distribution))} {shortened(str(entry.get('version', '')))}".rstrip()
    return f"it was the file {shortened(str(entry.get('path')))}: name that file on the command line"


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
            raise OptionError(
                f"option {option}={text}: choose one of {', '.join(allowed)}", code="option-choice-unknown"
            )
        return text
    if annotation is bool:
        return _boolean(option, text)
    try:
        value = annotation(text)
    except ValueError:
        raise OptionError(
            f"option {option}={text[:40]}: not a valid {annotation.__name__}", code="option-malformed"
        ) from None
    if isinstance(value, (int, float)):
        check_size(f"option {option}", value)
    return value


def split_options(pairs: typing.Iterable[str]) -> dict[str, str]:
    """Split ``key=value`` texts of ``-o`` into a dictionary; the last of equal keys wins."""
    result: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise OptionError(f"option '{pair}' is not of the form key=value", code="option-malformed")
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


def naming(kind: str, default: str) -> Any:
    """Return a dataclass field for an option that names a plug-in of some kind, with its options after commas."""
    return dataclasses.field(default=default, metadata={_NAMES: kind})


def admit_options(plugins: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, str]:
    """Make plug-in files available that options name; return the options with their names in their place.

    Args:
        plugins: The plug-ins whose options these are, classes by name.
        texts: Option texts; a key may be qualified by a plug-in's name.

    Raises:
        OptionError: As ``admit``.
    """
    fields = [field for plugin in plugins.values() for field in dataclasses.fields(plugin)]
    kinds = {field.name: field.metadata[_NAMES] for field in fields if _NAMES in field.metadata}
    plain = {key: key.rpartition(".")[2] for key in texts}
    return {key: admit(kinds[plain[key]], text) if plain[key] in kinds else text for key, text in texts.items()}


def chosen(plugin: Any) -> dict[str, str]:
    """Return the names of the plug-ins that a bound plug-in's options name, by kind."""
    fields = [field for field in dataclasses.fields(plugin) if _NAMES in field.metadata]
    return {field.metadata[_NAMES]: str(getattr(plugin, field.name)).partition(",")[0] for field in fields}


def recorded(plugin: Any) -> dict[str, Any]:
    """Return a bound plug-in's options as manifests keep them, defaults included but for those of ``added`` options."""
    values = {field: getattr(plugin, field.name) for field in dataclasses.fields(plugin)}
    return {
        field.name: value
        for field, value in values.items()
        if not (field.metadata.get(_ADDED) and value == field.default)
    }


def _boolean(option: str, text: str) -> bool:
    if text.lower() in {"true", "yes", "on", "1"}:
        return True
    if text.lower() in {"false", "no", "off", "0"}:
        return False
    raise OptionError(f"option {option}={text}: choose true or false", code="option-malformed")
