"""Import plug-ins that do not come with clora, and refuse broken ones with a reason (layer L0)."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import io
import sys
import traceback
import types
import typing
from collections.abc import Sequence
from functools import cache
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from clora_cli.base.entry_points import Source
from clora_cli.base.errors import OptionError, mark
from clora_cli.base.legible import legible, shortened

__all__ = ["NONE_IN_FILE", "loaded", "options", "unfit"]

NONE_IN_FILE = "plugin-none-in-file"  # the code for a file without a plug-in of a kind: it may have one of another kind

_BASES = {"methods": "Method", "merges": "Merge", "trims": "Trim", "routers": "Router", "scorers": "Scorer"}
_REQUIRED = {"trims": "keep", "routers": "fit", "scorers": "score"}
_METRIC = ("single", "counts", "zero_shot")
_LONGEST = 300  # characters of a plug-in's own error message


class _UnfitError(OptionError):
    """An object cannot be a plug-in."""


def loaded(source: Source) -> Any:
    """Import a plug-in and return the class or function that it provides.

    Raises:
        OptionError: If it is not a plug-in, with its origin and the reason.
    """
    if source.is_own:
        module = importlib.import_module(source.module)
        (public,) = module.__all__
        return getattr(module, public)
    plugin, problem = _examined(source)
    if problem is not None:
        raise OptionError(
            f"{source.kind.removesuffix('s')} '{source.name}' of {source.origin} is refused: {problem}",
            code=problem.code,
        )
    return plugin


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


@cache
def _examined(source: Source) -> tuple[Any, _UnfitError | None]:
    """Return the plug-in, or why it is refused: the same at every call, although a module is run only once."""
    try:
        module, problem = _module(source.module) if source.module else _run(source.path or Path(), source.content)
        if problem is not None:
            return None, problem
        plugin = _object(module, source)
        _check(source.kind, plugin)
        mark(sys.modules.get(getattr(plugin, "__module__", ""), module), source.origin)
    except _UnfitError as error:
        return None, error
    return plugin, None


def unfit(kind: str, plugin: Any) -> str:
    """Return why an object is not a plug-in of a kind; empty if it is."""
    try:
        _check(kind, plugin)
    except _UnfitError as error:
        return str(error)
    return ""


def _check(kind: str, plugin: Any) -> None:
    (_check_metric if kind == "metrics" else _check_class)(plugin, kind)


@cache
def _module(name: str) -> tuple[Any, _UnfitError | None]:
    try:
        with _quietly(None):
            return importlib.import_module(name), None
    except _UnfitError as error:
        return None, error


@cache
def _run(path: Path, content: bytes) -> tuple[Any, _UnfitError | None]:
    """Run a file's bytes, whose checksum is recorded, as a module of its own."""
    name = f"clora_plugin_file_{path.stem}_{hashlib.sha256(content).hexdigest()[:16]}"
    loader = _Bytes(path, content)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, loader, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module  # where dataclasses look for it
    try:
        with _quietly(path):
            loader.exec_module(module)
    except _UnfitError as error:
        del sys.modules[name]
        return None, error
    return module, None


class _Bytes(SourceLoader):
    """Loads bytes that were read before: reads no file again, and no cache of compiled code."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content

    def get_filename(self, fullname: str) -> str:
        """Return the file's path, for tracebacks."""
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        """Return the bytes."""
        return self._content


@contextlib.contextmanager
def _quietly(path: Path | None) -> typing.Iterator[None]:
    """Refuse a plug-in that fails or prints while it is imported."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: whatever outside code raises is a reason to refuse it
        raise _UnfitError(
            f"importing it fails with {_one_line(error)}{_line(error, path)}", code="plugin-import-fails"
        ) from error
    if printed := output.getvalue().strip():
        raise _UnfitError(
            f"it prints while it is imported: {shortened(legible(printed))}", code="plugin-prints-on-import"
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return shortened(legible(f"{type(error).__name__}{f': {text}' if text else ''}"), _LONGEST)


def _line(error: BaseException, path: Path | None) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" in line {frames[-1].lineno}" if frames and not isinstance(error, SyntaxError) else ""


def _object(module: ModuleType, source: Source) -> Any:
    if source.attribute:
        if not hasattr(module, source.attribute):
            raise _UnfitError(f"module {source.module} has no '{source.attribute}'", code="plugin-object-missing")
        return getattr(module, source.attribute)
    public = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    base = _base(source.kind)
    fitting = [
        value
        for value in (getattr(module, str(name), None) for name in public)
        if getattr(value, "__module__", None) == module.__name__
        and (inspect.isfunction(value) if base is None else inspect.isclass(value) and issubclass(value, base))
    ]
    what = "functions" if base is None else f"subclasses of clora_cli.{source.kind}.{base.__name__}"
    if not fitting:
        raise _UnfitError(f"it has no public {what}; give it one, named in __all__", code="plugin-none-in-file")
    if len(fitting) > 1:
        raise _UnfitError(
            f"it has {len(fitting)} public {what}; give it one, named in __all__", code="plugin-several-in-file"
        )
    return fitting[0]


def _base(kind: str) -> Any:
    return getattr(importlib.import_module(f"clora_cli.{kind}"), _BASES[kind]) if kind in _BASES else None


def _check_metric(plugin: Any, kind: str) -> None:
    if not inspect.isfunction(plugin):
        raise _UnfitError("it is not a function", code="plugin-wrong-type")
    try:
        inspect.signature(plugin).bind(None, **dict.fromkeys(_METRIC))
    except TypeError:
        raise _UnfitError(
            f"{plugin.__name__}{inspect.signature(plugin)} does not take (scores, *, {', '.join(_METRIC)})",
            code="plugin-signature-differs",
        ) from None
    import numpy as np

    with _trying("two tasks"):
        float(plugin(np.full((2, 2), 50.0), **dict.fromkeys(_METRIC)))


@contextlib.contextmanager
def _trying(what: str) -> typing.Iterator[None]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _UnfitError(f"with {what} it fails: {_one_line(error)}", code="plugin-fails-when-tried") from error


def _check_class(plugin: Any, kind: str) -> None:
    base = _base(kind)
    if not (inspect.isclass(plugin) and issubclass(plugin, base)):
        raise _UnfitError(f"it is not a subclass of clora_cli.{kind}.{base.__name__}", code="plugin-wrong-type")
    parameters = vars(plugin).get("__dataclass_params__")
    if not (parameters and parameters.frozen):
        raise _UnfitError(
            "it is not a frozen dataclass: decorate it with @dataclass(frozen=True, kw_only=True)",
            code="plugin-not-frozen-dataclass",
        )
    _check_hooks(plugin, base, kind)
    _check_options(plugin)
    with _trying("its default options"):
        plugin()


def _check_hooks(plugin: Any, base: Any, kind: str) -> None:
    required = _REQUIRED.get(kind, "")
    if kind == "merges":
        required = "coefficients" if plugin.linear is True else "merge"
    missing = set(getattr(plugin, "__abstractmethods__", ()))
    missing |= {required} if required and getattr(plugin, required) is getattr(base, required) else set()
    if missing:
        raise _UnfitError(f"it is abstract: define {', '.join(sorted(missing))}", code="plugin-abstract")
    for name, function in vars(base).items():
        own = getattr(plugin, name)
        if not inspect.isfunction(function) or name.startswith("_") or own is function:
            continue
        wanted = inspect.signature(function)
        if not (inspect.isfunction(own) and _takes(own, wanted)):
            shown = inspect.signature(own) if callable(own) else f" = {own!r}"
            raise _UnfitError(
                shortened(f"{name}{shown} does not take what {name}({', '.join(wanted.parameters)}) does", _LONGEST),
                code="plugin-signature-differs",
            )


def _takes(function: Any, wanted: inspect.Signature) -> bool:
    parameters = wanted.parameters.values()
    named = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    try:
        inspect.signature(function).bind(*[None] * (len(parameters) - len(named)), **dict.fromkeys(named))
    except TypeError:
        return False
    return True


def _check_options(plugin: Any) -> None:
    try:
        typed = options(plugin)
    except (NameError, AttributeError, TypeError, KeyError, SyntaxError) as error:
        raise _UnfitError(
            f"the types of its options cannot be read: {_one_line(error)}", code="plugin-option-types-unreadable"
        ) from error
    positional: Sequence[str] = [name for name in inspect.signature(plugin).parameters if name not in typed]
    if positional:
        raise _UnfitError(
            f"option {positional[0]} is positional: write @dataclass(frozen=True, kw_only=True)",
            code="plugin-option-positional",
        )
    for name, parameter in typed.items():
        if parameter.default is inspect.Parameter.empty:
            raise _UnfitError(f"option {name} has no default", code="plugin-option-without-default")
        if not _is_option(parameter.annotation):
            raise _UnfitError(
                f"option {name} must be int, float, bool, str, a Literal of texts, or one of these or None",
                code="plugin-option-type-unsupported",
            )


def _is_option(annotation: Any) -> bool:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return len(parts) == 1 and _is_option(parts[0])
    if typing.get_origin(annotation) is typing.Literal:
        return all(isinstance(choice, str) for choice in typing.get_args(annotation))
    return annotation in (int, float, bool, str)
