"""What can be asked of a union of packages (layer L1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clora_cli.base.errors import OptionError
from clora_cli.base.folder_names import folder_problem
from clora_cli.base.options import Options, option

__all__ = ["ExpandOptions"]


def _renames(pairs: Iterable[str]) -> dict[str, str]:
    renames: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.rpartition("=")
        if not equals or not old:
            raise OptionError(f"--rename {pair}: give OLD=NEW", code="option-malformed")
        if renames.setdefault(old, new) != new:
            raise OptionError(f"--rename gives '{old}' two names, {renames[old]} and {new}", code="option-given-twice")
    return renames


@dataclass(frozen=True, kw_only=True)
class ExpandOptions(Options):
    """How packages are united."""

    out: Path = option(Path("expanded.pkg"), "Package to write.", flags=("-o", "--out"), writes=True)
    on_conflict: str = option(
        "error",
        "Another adapter of a task that is there already: error refuses, keep leaves the later one out, "
        "rename calls it TASK-2.",
        choices=("error", "keep", "rename"),
    )
    rename: Mapping[str, str] = option(
        {},
        "Rename a task before --on-conflict counts; OLD may be PACKAGE/TASK or an adapter's path; repeatable.",
        flags=("--rename",),
        metavar="OLD=NEW",
        parse=_renames,
    )

    def check(self) -> None:
        """Check the new names.

        Raises:
            OptionError: If one cannot be a folder's.
        """
        for old, new in self.rename.items():
            if problem := folder_problem(new):
                raise OptionError(
                    f"--rename {old}={new}: the new name is also a folder's; {problem}", code="name-unfit-for-folder"
                )
