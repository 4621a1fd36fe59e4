"""Options from a YAML file: flag > environment > file > default (layer L4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from clora_cli.base.errors import ArtifactError, OptionError, UnknownNameError
from clora_cli.base.intake import reason

__all__ = ["use_config"]

_LONGEST = 1 << 20  # bytes of a configuration
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


def _read(path: Path) -> dict[str, Any]:
    import yaml

    from clora_cli.recipes.document import read_document

    try:
        with path.open("rb") as file:  # a pipe will do: the user gave it
            document = read_document(file.read(_LONGEST).decode(), str(path), "configuration")
    except FileNotFoundError:
        raise ArtifactError(f"configuration {path} does not exist", code="file-missing") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"configuration {path} cannot be read: {reason(error)}", code="path-unreadable") from error
    except OptionError as error:
        if isinstance(error.__cause__, yaml.YAMLError):
            raise ArtifactError(f"configuration {path} cannot be read: {error}", code="yaml-malformed") from error
        raise
    if not isinstance(document.value, dict):
        raise OptionError(
            f"configuration {path} is not a mapping of options to values", code="configuration-not-a-mapping"
        )
    return {key: item.plain for key, item in document.value.items()}


def _as_texts(value: Any) -> Any:
    # `option: {strength: 0.4}` reads better in a file than a list of key=value texts; both are taken.
    if isinstance(value, dict):
        return [f"{key}={entry}" for key, entry in value.items()]
    return value
