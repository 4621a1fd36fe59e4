"""Options from a YAML file: flag > environment > file > default (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from clora_cli.errors import ArtifactError, OptionError, UnknownNameError

__all__ = ["use_config"]

_NOT_IN_FILES = {"config", "help", "dry_run", "json", "quiet"}


def use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make a file's keys the command's defaults, before its other options are read.

    Raises:
        ArtifactError: If the file is missing or no YAML.
        UnknownNameError: If a key is no option of the command.
        OptionError: If the file is not a mapping.
    """
    if path is None:
        return None
    known = {
        str(parameter.name): parameter for parameter in context.command.params if parameter.name not in _NOT_IN_FILES
    }
    defaults: dict[str, Any] = {}
    for key, value in _read(path).items():
        name = str(key).replace("-", "_")
        if name not in known:
            options = (known_name.replace("_", "-") for known_name in known)
            raise UnknownNameError(f"key in {path}", str(key), options)
        several = getattr(known[name], "multiple", False)
        defaults[name] = [value] if several and isinstance(value, (str, int, float)) else _as_texts(value)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _read(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"configuration {path} does not exist") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ArtifactError(f"configuration {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise OptionError(f"configuration {path} is not a mapping of options to values")
    return content


def _as_texts(value: Any) -> Any:
    # `option: {strength: 0.4}` reads better in a file than a list of key=value texts; both are taken.
    if isinstance(value, dict):
        return [f"{key}={entry}" for key, entry in value.items()]
    return value
