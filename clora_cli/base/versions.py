"""The versions of what results depend on (layer L0)."""

from __future__ import annotations

import platform
from importlib import metadata

from clora_cli import __version__

__all__ = ["installed_version", "library_versions", "versions"]

_COMPUTING = ("accelerate", "peft", "torch", "transformers")
_DECIDING = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors")


def installed_version(distribution: str) -> str:
    """Return the version of an installed distribution, from its record, without importing it; empty if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def library_versions() -> dict[str, str]:
    """Return the version of Python and of each installed library that results depend on."""
    found = {name: version for name in _DECIDING if (version := installed_version(name))}
    return {"python": platform.python_version(), **found}


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of libraries, by default of all that compute, and of clora, as artifacts record them."""
    return {name: metadata.version(name) for name in libraries or _COMPUTING} | {"clora": __version__}
