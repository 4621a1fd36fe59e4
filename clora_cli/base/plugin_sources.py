"""Where plug-ins come from (layer L0): the package's own folders, installed distributions, files named on the command line.

Nothing here imports a plug-in: names come from file names and from entry points, summaries from the source's docstrings.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from clora_cli import __version__
from clora_cli.base.entry_points import KINDS, Source, installed, name_problem
from clora_cli.base.errors import OptionError, UnknownNameError
from clora_cli.base.intake import read_bytes, reason
from clora_cli.base.legible import legible, shortened

__all__ = ["admit", "built_in", "find", "kinds_of", "names", "summary"]

_ROOT = Path(__file__).parents[1]
_OWN = "clora-cli"
_MOST = 1 << 20  # bytes of a source file
_LINE = 200  # letters of a summary
_admitted: dict[tuple[str, str], Source] = {}


@cache
def built_in(kind: str) -> tuple[str, ...]:
    """Return the sorted names of the plug-ins of one kind that come with clora."""
    files = (_ROOT / kind).glob("*.py")
    return tuple(sorted(file.stem.replace("_", "-") for file in files if not file.stem.startswith("_")))


def names(kind: str) -> tuple[str, ...]:
    """Return the sorted names of all plug-ins of one kind, whether or not those from elsewhere can be imported."""
    others = {source.name for source in installed().sources if source.kind == kind and not source.problem}
    files = {name for of, name in _admitted if of == kind}
    return tuple(sorted({*built_in(kind), *others, *files}))


def find(kind: str, name: str) -> Source:
    """Return where the plug-in of this name comes from.

    Raises:
        UnknownNameError: If there is none.
        OptionError: If several have this name, or its entry point is malformed.
    """
    singular, sources = kind.removesuffix("s"), _candidates(kind, name)
    if not sources:
        raise UnknownNameError(singular, name, names(kind), "; ".join(_hints(name)))
    if len(sources) > 1:
        origins = " and ".join(source.origin for source in sources)
        raise OptionError(
            f"{singular} '{name}' is both in {origins}; uninstall one of these, or rename it there",
            code="plugin-name-twice",
        )
    if sources[0].problem:
        raise OptionError(
            f"{singular} '{shortened(name)}' of {sources[0].origin}: {sources[0].problem}",
            code="plugin-entry-point-malformed",
        )
    return sources[0]


def _hints(name: str) -> Iterator[str]:
    if "/" in name and not name.endswith(".py"):
        yield "a plug-in's file ends in .py"
    elif name.endswith(".py"):
        yield "files are plug-ins on the command line alone: in recipes and manifests name one that is installed"
    yield from installed().problems


def kinds_of(name: str) -> list[str]:
    """Return the kinds of which there is a plug-in of this name, usable or not."""
    return [kind for kind in KINDS if _candidates(kind, name)]


def summary(kind: str, name: str) -> str:
    """Return the first line of a plug-in's docstring, without importing it; empty where there is none to read."""
    try:
        source = find(kind, name)
    except OptionError:
        return ""
    tree = _parsed(source)
    objects = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    public = [node for node in objects if not node.name.startswith("_")]
    named = [node for node in public if node.name == source.attribute]
    # The docstring of a module with one plug-in is the plug-in's.
    texts = [ast.get_docstring(node) or "" for node in ([*named] if len(public) > 1 and named else [tree, *objects])]
    return next((shortened(legible(text.splitlines()[0]), _LINE) for text in texts if text), "")


def admit(kind: str, text: str) -> str:
    """Make plug-in files that the user named available in this process; return the text with their names in their place.

    It is for what the user typed: nothing that is read from a manifest, a recipe or an adapter folder may come here.

    Args:
        kind: One of ``KINDS``.
        text: A name, or names joined by ``+``, or a name with options after commas; any name may be a path that ends
            in ``.py``.

    Raises:
        OptionError: If a file cannot be read, or cannot have its name.
    """
    match = re.fullmatch(r"(.*?\.py)(,.*)", text, re.DOTALL)
    head, options = match.groups() if match else (text, "")
    return "+".join(_take(kind, part) if part.endswith(".py") else part for part in _parts(head)) + options


def _parts(text: str) -> Iterator[str]:
    """Yield what stands between plus signs, but for those in the middle of a path."""
    path = ""
    for part in text.split("+"):
        path = f"{path}+{part}" if path else part
        if path.endswith(".py") or not ("/" in path or path.startswith(".")):
            yield path
            path = ""
    if path:
        yield path


def _take(kind: str, text: str) -> str:
    """Read a file, keep its bytes and return its plug-in's name."""
    path, singular = Path(text), kind.removesuffix("s")
    name = path.stem.replace("_", "-")
    if problem := name_problem(kind, name):
        raise OptionError(
            f"{singular} {text}: {problem}; rename the file, for example to my_{singular}.py",
            code="plugin-name-not-allowed",
        )
    try:
        content = read_bytes(path, _MOST)
    except OSError as error:
        raise OptionError(f"{singular} {text} cannot be read: {reason(error)}", code="path-unreadable") from error
    _admitted.pop((kind, name), None)
    if others := _candidates(kind, name):
        raise OptionError(
            f"{singular} {text}: '{name}' is the name of one in {others[0].origin}; rename the file",
            code="plugin-name-twice",
        )
    _admitted[kind, name] = Source(kind, name, path=path, content=content)
    return name


def _candidates(kind: str, name: str) -> list[Source]:
    sources = [source for source in installed().sources if (source.kind, source.name) == (kind, name)]
    if name in built_in(kind):
        path = _ROOT / kind / f"{name.replace('-', '_')}.py"
        sources.insert(0, Source(kind, name, f"clora_cli.{kind}.{path.stem}", "", _OWN, __version__, path, is_own=True))
    return [*sources, *filter(None, [_admitted.get((kind, name))])]


def _parsed(source: Source) -> ast.Module:
    try:
        content = source.content or (read_bytes(source.path, _MOST) if source.path else b"")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a plug-in's own spelling
            return ast.parse(content)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.Module([], [])
