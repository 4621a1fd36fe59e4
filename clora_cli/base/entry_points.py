"""Read the entry points of installed distributions (layer L0), without importing what they name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from clora_cli.base.intake import reason
from clora_cli.base.legible import legible, shortened

__all__ = ["KINDS", "Installed", "Source", "installed", "name_problem"]

KINDS = ("methods", "merges", "trims", "routers", "scorers", "metrics")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Words that options, recipes and manifests accept beside the names of plug-ins.
_RESERVED = {
    "methods": {"compare"},
    "merges": {"auto", "last", "learned", "none", "progressive", "route", "task-id", "weighted"},
    "routers": {"auto", "learned"},
}
_GROUP = "clora."
_VALUE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*)\s*(:\s*(?P<attribute>[^\W\d]\w*))?")


@dataclass(frozen=True)
class Source:
    """Where one plug-in comes from.

    Attributes:
        kind: One of ``KINDS``.
        name: Its name on the command line.
        module: The module to import; empty for a file.
        attribute: The object in it; empty where the module provides one of this kind.
        distribution: The distribution that installed it; empty for a file.
        version: The version of that distribution.
        path: Its source file; None where that cannot be located without importing anything.
        content: The bytes of a file, exactly those that are run.
        problem: Why it cannot be used, if that is known without importing it.
        is_own: Whether it comes with clora.
    """

    kind: str
    name: str
    module: str = ""
    attribute: str = ""
    distribution: str = ""
    version: str = ""
    path: Path | None = None
    content: bytes = field(default=b"", repr=False)
    problem: str = ""
    is_own: bool = False

    @property
    def origin(self) -> str:
        """The distribution with its version, or the file."""
        return f"{self.distribution} {self.version}".rstrip() if self.distribution else str(self.path)

    @property
    def sha256(self) -> str:
        """The checksum of a file."""
        return hashlib.sha256(self.content).hexdigest()

    def record(self) -> dict[str, str]:
        """Return what manifests record: nothing for plug-ins of clora itself, whose version they record anyway."""
        if self.is_own:
            return {}
        if self.distribution:
            return {"distribution": self.distribution, "version": self.version}
        return {"path": str(self.path), "sha256": self.sha256}


class Installed(NamedTuple):
    """The plug-ins that entry points name, and the problems of whole distributions."""

    sources: tuple[Source, ...]
    problems: tuple[str, ...]


def name_problem(kind: str, name: str) -> str:
    """Return why a name is not allowed for a plug-in of a kind; empty if it is."""
    if not _NAME.fullmatch(name):
        return "a plug-in's name has small letters and digits with single hyphens between them"
    if name in _RESERVED.get(kind, ()):
        return f"the name '{name}' means something else beside names of {kind}; choose another name"
    return ""


def installed() -> Installed:
    """Return the plug-ins of all installed distributions."""
    return _scan(tuple(_search_path()))


def _search_path() -> list[str]:
    """Return the folders to search for distributions: not the one that ``python -m`` was started in, which may be anybody's."""
    first, *others = sys.path or [""]
    try:
        here = {"", str(Path.cwd())}
        asked = {str(Path(place).absolute()) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place}
    except OSError:  # the folder is gone
        return others
    return others if first in here - asked else [first, *others]


@cache
def _scan(path: tuple[str, ...]) -> Installed:
    """Read the entry points of all distributions on the path; of two with one name the first counts, as for imports."""
    sources: list[Source] = []
    problems: list[str] = []
    seen = set()
    for distribution in metadata.distributions(path=list(path)):
        text = _entry_points(distribution)
        if f"[{_GROUP}" not in text:
            continue
        name = re.sub(r"[-_.]+", "-", _fact(distribution, "Name") or "?")
        if name.lower() not in seen:
            seen.add(name.lower())
            try:
                sources += _sources(distribution, name, text)
            except ConfigError as error:
                problems.append(f"the entry points of {name} cannot be read: {shortened(reason(error), 200)}")
    return Installed(tuple(sources), tuple(problems))


def _entry_points(distribution: metadata.Distribution) -> str:
    try:
        return distribution.read_text("entry_points.txt") or ""
    except (OSError, ValueError):
        return ""


def _fact(distribution: metadata.Distribution, key: str) -> str:
    try:
        text = str(distribution.metadata[key]) if key in distribution.metadata else ""
    except (OSError, ValueError):
        return ""
    return shortened(legible(text))


def _sources(distribution: metadata.Distribution, name: str, text: str) -> Iterator[Source]:
    parser = ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names are as they are written
    parser.read_string(text)
    for kind in KINDS:
        for entry, value in parser[_GROUP + kind].items() if parser.has_section(_GROUP + kind) else ():
            yield _source(
                distribution,
                Source(kind, entry, distribution=name, version=_fact(distribution, "Version")),
                value,
            )


def _source(distribution: metadata.Distribution, source: Source, value: str) -> Source:
    match = _VALUE.fullmatch(value.strip())
    if match is None:
        return replace(source, problem=f"its entry point '{shortened(value)}' is not of the form module:object")
    if problem := name_problem(source.kind, source.name):
        return replace(source, problem=problem)
    module = match["module"]
    return replace(source, module=module, attribute=match["attribute"] or "", path=_file(distribution, module))


def _file(distribution: metadata.Distribution, module: str) -> Path | None:
    """Return a module's source file, without importing anything; None if it is not in its usual place."""
    stem = Path(*module.split("."))
    places = [Path(str(distribution.locate_file(""))), *_checkout(distribution), *map(Path, sys.path)]
    files = (place / name for place in places for name in (stem.with_suffix(".py"), stem / "__init__.py"))
    return next((file for file in files if file.is_file()), None)


def _checkout(distribution: metadata.Distribution) -> list[Path]:
    """Return the possible source folders of a distribution installed with ``pip install --editable``."""
    try:
        url = json.loads(distribution.read_text("direct_url.json") or "{}")["url"]
        root = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    return [root, root / "src"] if root else []
