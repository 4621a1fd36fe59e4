"""What methods check of earlier adapters before a run: that they keep what it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clora_cli.base.errors import MismatchError
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["check_kept"]


def check_kept(earlier: Iterable[AdapterFolder], keeps: Callable[[AdapterFolder], bool], lacking: str) -> None:
    """Check that adapters keep what a method needs of them.

    Args:
        earlier: The adapters.
        keeps: Tells whether one does.
        lacking: What to say behind the path of one that does not, and what to do about it.

    Raises:
        MismatchError: If one does not.
    """
    if odd := next((member for member in earlier if not keeps(member)), None):
        raise MismatchError(f"adapter {odd.path} {lacking}", code="method-state-missing")
