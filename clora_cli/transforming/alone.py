"""Keep other writers off where a result is to go, and check that it is of what is there now (layer L3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clora_cli.adapter_folder import AdapterFolder, is_adapter
from clora_cli.errors import ReplacedError
from clora_cli.locks import Patience, locked
from clora_cli.package import changed
from clora_cli.progress import Progress
from clora_cli.spots import inside, place

__all__ = ["package_around", "writing_alone"]


def package_around(out: Path, inputs: Iterable[Path]) -> Path | None:
    """Return the package among the inputs in which the result itself will be; None if there is none."""
    around = out.parent.resolve()
    return next((path for path in inputs if path.resolve() == around and not is_adapter(path)), None)


@contextlib.contextmanager
def writing_alone(
    out: Path,
    package: Path | None,
    members: Sequence[AdapterFolder],
    *,
    patience: Patience,
    progress: Progress,
) -> Iterator[None]:
    """Hold the place of a result for the length of a block.

    Args:
        out: Where it goes.
        package: The package that was read as a whole and that it becomes a member of: then nothing else may change there.
        members: What was read, of that package and of others.
        patience: What to do if another process is there.
        progress: Who to tell of a wait.

    Raises:
        BusyError: If another process is there and stays.
        ReplacedError: If the package changed after it was read.
    """
    with locked([place(out) if package is None else inside(package)], patience=patience, progress=progress):
        if package is not None:
            read = [member for member in members if member.path.parent.resolve() == package.resolve()]
            if changed(package, read):
                raise ReplacedError(f"package {package} changed after it was read; try again")
        yield
