"""The material of a report: scores, routes, costs and adapters, recognised by their content (layer L3)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import damage
from clora_cli.base.intake import read_text, real_path, reason
from clora_cli.reporting.drafts import folder_of
from clora_cli.reporting.run_folders import RunFolder, run_folder
from clora_cli.store.adapter_folder import AdapterFolder, is_adapter, read_adapter
from clora_cli.store.costs import COSTS, Cost, read_costs
from clora_cli.store.costs import SCHEMA as COST_SCHEMA
from clora_cli.store.manifest import Manifest
from clora_cli.store.package import read_package
from clora_cli.store.routes import Routes
from clora_cli.store.routes_file import SCHEMA as ROUTES_SCHEMA
from clora_cli.store.routes_file import read_routes
from clora_cli.store.scores import SCHEMA as SCORES_SCHEMA
from clora_cli.store.scores import Scores, read_scores

__all__ = ["Material", "Package", "collect"]


@dataclass(frozen=True, eq=False)
class Package:
    """Adapters that were learned one after another.

    Attributes:
        path: The folder.
        folder: The run folder that it lies in.
        members: The adapters, by stage.
    """

    path: Path
    folder: RunFolder
    members: tuple[AdapterFolder, ...]

    @property
    def name(self) -> str:
        """The run's name, or else its members' method, or else its folder's name."""
        methods = dict.fromkeys(member.manifest.method.name for member in self.members if member.manifest)
        return self.folder.name or ", ".join(methods) or self.path.name


@dataclass(frozen=True)
class Material:
    """Everything that a report is made from.

    Attributes:
        scores: The scores files.
        routes: Where inputs went, by file.
        costs: The steps of runs, by file.
        packages: The packages of adapters.
        files: Every file and package, in the order of reading.
    """

    scores: list[Scores] = field(default_factory=list)
    routes: dict[Path, Routes] = field(default_factory=dict)
    costs: dict[Path, list[Cost]] = field(default_factory=dict)
    packages: list[Package] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def manifests(self) -> dict[tuple[str, str], Manifest]:
        """The adapters' manifests by method and SHA-256 of the weights, those of packages that scores files name included.

        The weights alone do not identify an adapter: methods that begin alike have the same first one.
        """
        manifests: dict[tuple[str, str], Manifest] = {}
        given = (member for package in self.packages for member in package.members)
        for member in (*self._nearby(), *given):
            if member.manifest:
                manifests[member.manifest.method.name, member.digest] = member.manifest
        return manifests

    def _nearby(self) -> Iterator[AdapterFolder]:
        """Yield the adapters that scores files are about, as far as they still exist."""
        read = {package.path.resolve() for package in self.packages}
        for path in {_package(file) for file in self.scores if file.package} - read:
            with contextlib.suppress(OSError):  # the name may be impossible on this disk, the folder unreadable
                folders = [path, *sorted(path.iterdir())] if path.is_dir() else []
                for folder in filter(is_adapter, folders):
                    with contextlib.suppress(ArtifactError):  # the user did not name this adapter
                        yield read_adapter(folder)


def _package(file: Scores) -> Path:
    """Return where a scores file's adapters are: beside it in a run folder, or else at the path that it records."""
    folder = folder_of(file)
    return Path(folder.root, folder.name, f"seed-{folder.seed}", "adapters") if folder.name else Path(file.package)


def collect(paths: Iterable[Path]) -> Material:
    """Find scores, routes, costs and adapters; folders are searched, except hidden ones.

    Args:
        paths: Files and folders, in any mixture; a file that is named twice counts once.

    Raises:
        ArtifactError: If a path is missing or has nothing for a report, or a file is damaged.
        MismatchError: If the adapters of a package do not fit together.
    """
    material, seen = Material(), set[Path]()
    for path in paths:
        if not path.exists():
            raise ArtifactError(
                f"{path} does not exist; name scores, routes or cost files, adapters, or folders of them",
                code="path-missing",
            )
        candidates = list(_walk(path) if path.is_dir() else [path])
        taken = [_take(candidate, material, seen, named=candidate == path) for candidate in candidates]
        if not any(taken):
            raise ArtifactError(
                f"{path} holds no scores, routes or cost file and no adapter; name the folder of a run",
                code="folder-without-results",
            )
    return material


def _walk(folder: Path, above: Collection[Path] = ()) -> Iterator[Path]:
    """Yield the packages and files below a folder, without adapters' own files; links to a folder above are not followed."""
    here = real_path(folder)
    if here in above:
        return
    if is_adapter(folder):
        yield folder
        return
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    adapters = [path for path in inside if is_adapter(path)]
    if adapters:
        yield folder
    for path in inside:
        if path.is_dir() and path not in adapters:
            yield from _walk(path, {*above, here})
        elif path.suffix == ".json" or path.name == COSTS:
            yield path


def _take(path: Path, material: Material, seen: set[Path], *, named: bool) -> bool:
    """Read a file or package into the material; return whether it belongs into a report, and refuse a named one that does not."""
    real = real_path(path)
    if real in seen:
        return True
    if path.is_dir():
        members = [read_adapter(path)] if is_adapter(path) else read_package([path], distinct=False)
        material.packages.append(Package(path, run_folder(real), tuple(members)))
    else:
        schema = _schema(path, named=named)
        if schema.startswith(SCORES_SCHEMA.partition("/")[0] + "/"):
            material.scores.append(read_scores(path))
        elif schema == ROUTES_SCHEMA:
            material.routes[path] = read_routes(path)
        elif schema == COST_SCHEMA:
            material.costs[path] = read_costs(path)
        elif named:
            raise ArtifactError(
                f"{path} is neither a scores, a routes nor a cost file; give what eval, route or run wrote",
                code="file-of-other-kind",
            )
        else:
            return False
    seen.add(real)
    material.files.append(path)
    return True


def _schema(path: Path, *, named: bool) -> str:
    """Return the schema that a JSON file, or the first line of a file of JSON lines, names; ``""`` if it names none.

    A file that the user did not name may be anything, such as an editor's settings, unless it mentions clora.
    """
    text = ""
    try:
        text = read_text(path)
        content = json.loads(text.split("\n", 1)[0] if path.suffix == ".jsonl" else text)
    except (OSError, ValueError, RecursionError) as error:
        if text and "clora." not in text and not named:
            return ""
        raise ArtifactError(
            f"{path} {damage(path, reason(error), 'restore it or make it again')}", code="file-damaged"
        ) from error
    return str(content.get("schema", "")) if isinstance(content, dict) else ""
