"""One adapter's place in a union of packages (layer L3): what it is called there, what is written, what is there already."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clora_cli.base.errors import ArtifactError, OptionError
from clora_cli.base.files import read_json, sha256, to_json
from clora_cli.base.intake import real_path
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.manifest import MANIFEST
from clora_cli.store.side_files import current_name
from clora_cli.store.steady import unchanged
from clora_cli.transforming.routable import Routable

__all__ = ["Member", "check_apart", "copy_file", "files_of", "package_around"]

# What makes two adapters of equal tensors two adapters after all.
_SCALING = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True, eq=False)
class Member:
    """One adapter's place in a union.

    Attributes:
        folder: The adapter, where it is now.
        package: The folder that it is a member of.
        task: What it is called in the union; its folder there, too.
        stage: Its place in the union, from 1; None for a bare PEFT folder.
        routable: What matters of its feature distribution; None until that was checked, and where it has none.
        renamed: What tasks of its package are called in the union, where they are called otherwise there.
    """

    folder: AdapterFolder
    package: Path
    task: str
    stage: int | None = None
    routable: Routable | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where it is now."""
        return self.folder.path

    @property
    def is_bare(self) -> bool:
        """Whether it has no manifest, hence no place in a sequence."""
        return self.folder.manifest is None

    @property
    def origin(self) -> Mapping[str, Any]:
        """The package that it came from first, with its stage and task there; the present ones of a bare PEFT folder."""
        now = {"package": self.package.name, "stage": self.folder.stage, "task": self.folder.task}
        recorded = self.folder.manifest and self.folder.manifest.origin
        return dict(recorded.raw) if recorded else now

    @property
    def names(self) -> list[str]:
        """What ``--rename`` may call it, the most particular first."""
        task = self.folder.task
        return [str(self.path), f"{self.package}/{task}", f"{self.package.name}/{task}", task]

    def manifest(self) -> str | None:
        """Return its ``clora.json`` in the union; None for a bare PEFT folder, which gets none."""
        if self.folder.manifest is None:
            return None
        place: dict[str, Any] = {"task": self.task, "stage": self.stage, "origin": self.origin}
        raw = self.folder.manifest.raw
        if head := raw.get("head"):
            place["head"] = [{**entry, "task": self.renamed.get(entry["task"], entry["task"])} for entry in head]
        return to_json({**raw, **place, "files": self._known})

    def same_as(self, other: Member) -> bool:
        """Tell whether both are one adapter: equal tensors under equal scalings."""
        return self._digest == other._digest and all(
            self.folder.config.get(key) == other.folder.config.get(key) for key in _SCALING
        )

    def write(self, target: Path) -> None:
        """Write it as a new folder: every file as it is, under its present name, but the manifest, which comes last.

        Raises:
            ArtifactError: If a file of it cannot be read any more.
            OSError: If the disk is full; the caller's ``new_folder`` turns it into a message.
        """
        target.mkdir()
        with unchanged(self.path, self.folder.seen):
            files = {current_name(name): self.path / name for name in self.folder.files}
            for name, file in sorted((files | files_of(self.path)).items()):
                if name != MANIFEST:
                    copy_file(file, target / name)
        if (manifest := self.manifest()) is not None:
            (target / MANIFEST).write_text(manifest, encoding="utf-8")

    def difference(self, target: Path) -> str | None:
        """Name the first file in which a folder is not what ``write`` would write there; None if it is."""
        there, files = files_of(target), files_of(self.path)
        for name in sorted(there.keys() | files.keys()):
            if name not in there or name not in files:
                return f"{self.task}/{name} is {'missing' if name in files else 'no part of it'}"
            if not self._equal(there[name], files[name]):
                return f"{self.task}/{name} differs"
        return None

    @property
    def _digest(self) -> str:
        return str(self._known.get(self.folder.weights.name) or self.folder.digest)

    @property
    def _known(self) -> Mapping[str, str]:
        # Reading the manifest has compared these checksums with the files.
        return {current_name(name): digest for name, digest in self.folder.files.items()}

    def _equal(self, there: Path, source: Path) -> bool:
        if source.name == MANIFEST:
            manifest = read_json(there, "manifest")
            files = {current_name(name): digest for name, digest in dict(manifest.get("files") or {}).items()}
            return to_json({**manifest, "files": files}) == self.manifest()
        same_size = there.stat().st_size == source.stat().st_size
        return same_size and sha256(there) == (self._known.get(current_name(source.name)) or sha256(source))


def check_apart(out: Path, inputs: Iterable[Path], option: str = "--out") -> None:
    """Check that a place to write is not an input, nor inside one, nor around one.

    Raises:
        OptionError: If it is.
    """
    place = real_path(out)
    for path in inputs:
        source = real_path(path)
        if place.is_relative_to(source) or source.is_relative_to(place):
            where = "is" if place == source else "lies in" if place.is_relative_to(source) else "holds"
            raise OptionError(
                f"{option} {out} {where} {path}, which is read and never changed; choose another {option}",
                code="output-would-change-input",
            )


def files_of(folder: Path) -> dict[str, Path]:
    """Return a folder's own files by their present names, without hidden ones."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    # What stands there under its present name goes before what is left of an earlier one.
    files.sort(key=lambda path: path.name == current_name(path.name))
    return {current_name(path.name): path for path in files}


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes.

    Raises:
        ArtifactError: If the source cannot be read.
        OSError: If the target cannot be written; the caller's ``new_folder`` turns it into a message.
    """
    try:
        shutil.copyfile(source, target)
    except (PermissionError, FileNotFoundError) as error:
        if error.filename != str(source):
            raise
        raise ArtifactError(
            f"cannot read {source}: {error.strerror}; nothing was changed", code="path-unreadable"
        ) from error


def package_around(
    out: Path, packages: Sequence[Path], members: Sequence[AdapterFolder]
) -> tuple[Path, Sequence[AdapterFolder]] | None:
    """Return the package among some in which a result will be, with its members; None if there is none."""
    around = out.parent.resolve()
    if around not in [path.resolve() for path in packages]:
        return None
    return around, [member for member in members if member.path.parent.resolve() == around]
