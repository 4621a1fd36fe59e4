"""Options that are declared in a class, as parameters of a command (layer L4)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from clora_cli.base import registry
from clora_cli.base.options import Declared, Options, declared
from clora_cli.cli._options import complete_combine, complete_method, complete_plugin, complete_task, writable

__all__ = ["completion", "takes_declared"]

# How a value is typed; a text unless it is one of these.
_TYPES: Mapping[str, Any] = {"whole": int, "number": float, "flag": bool, "path": Path}
_LISTS = {"texts", "pairs"}


def takes_declared(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of a command that is a class of options by the options that the class declares.

    Typer then sees ``--batch-size`` and the others as if they had been written out; the command gets the finished
    instance, its values checked.
    """
    signature, hints = inspect.signature(command), typing.get_type_hints(command, include_extras=True)
    classes = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, Options)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in classes:
            parameters += map(_parameter, _ordered(classes[name]))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))

    def wrapper(**given: Any) -> None:
        made = {name: _made(options, given) for name, options in classes.items()}
        command(**given, **made)

    functools.update_wrapper(wrapper, command)
    del wrapper.__dict__["__wrapped__"]  # whose own parameters Typer would look at
    wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
    wrapper.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return wrapper


def _ordered(options: type[Options]) -> list[Declared]:
    """Return a class's own options first, then those that it shares with other commands."""
    known = declared(options)
    names = [name for owner in options.__mro__ for name in vars(owner).get("__annotations__", {}) if name in known]
    return [known[name] for name in dict.fromkeys(names)]


def _parameter(option: Declared) -> inspect.Parameter:
    default: Any = option.default
    annotation: Any = _TYPES.get(option.kind, str)
    if option.kind in _LISTS:
        annotation, default = list[str] | None, None
    elif option.kind == "numbers" or option.optional:
        annotation, default = annotation | None, default or None
    elif option.parse is not None and option.kind == "whole":  # typed as a text: a number may have a name
        annotation, default = str, str(default)
    given = typer.Option(
        ... if default is dataclasses.MISSING else default,
        *(option.flags or (option.flag,)),  # spelled out, a switch has no --no-… beside it
        help=option.help,
        metavar=option.metavar,
        envvar=list(option.environment) or None,
        autocompletion=completion(option.completes),
        callback=writable if option.writes else None,
    )
    return inspect.Parameter(option.key, inspect.Parameter.KEYWORD_ONLY, default=given, annotation=annotation)


def completion(name: str) -> Callable[[str], list[str]] | None:
    """Return what completes a value, by ``Option.completes``."""
    if not name:
        return None
    if name in registry.KINDS and name != "methods":
        return lambda incomplete: complete_plugin(name, incomplete)
    return {
        "task": complete_task,
        "methods": complete_method,
        "combine": complete_combine,
        "similarity": lambda incomplete: complete_plugin("routers", incomplete, "auto", "learned"),
    }[name]


def _made(options: type[Options], given: dict[str, Any]) -> Options:
    """Take a class's options out of what was given, and return them as an instance of it."""
    return options(**{name: _value(option, given.pop(option.key)) for name, option in declared(options).items()})


def _value(option: Declared, value: Any) -> Any:
    if value is None:
        return {"texts": (), "pairs": {}, "numbers": ()}.get(option.kind)
    if option.parse is not None:
        return option.parse(value)
    if option.kind == "pairs":
        return registry.split_options(value)
    return tuple(value) if option.kind == "texts" else value
