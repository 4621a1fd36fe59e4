"""Versions of what results depend on (layer L0)."""

from __future__ import annotations

from importlib.metadata import version

from clora_cli import __version__

__all__ = ["versions"]

_LIBRARIES = ("accelerate", "peft", "torch", "transformers")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that compute, and of clora."""
    return {name: version(name) for name in _LIBRARIES} | {"clora": __version__}
