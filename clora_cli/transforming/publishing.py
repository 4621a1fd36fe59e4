"""Packages to others and from others, every file by its checksum (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clora_cli.base.durable import persist, publish
from clora_cli.base.errors import ArtifactError, CloraError, MismatchError, OptionError
from clora_cli.base.files import discard, to_json, writing
from clora_cli.base.folder_names import check_path, folder_problem
from clora_cli.base.intake import real_path
from clora_cli.base.progress import Progress, Silent
from clora_cli.model.base_model import is_local
from clora_cli.nano import MODEL_NAME
from clora_cli.options import PushOptions
from clora_cli.processes.locks import NO_PATIENCE, Patience, locked
from clora_cli.processes.spots import place
from clora_cli.store.adapter_folder import AdapterFolder, is_adapter
from clora_cli.store.package import read_package
from clora_cli.store.package_card import package_card
from clora_cli.store.scanning import PICKLES, scan_adapter
from clora_cli.store.scores import read_scores
from clora_cli.store.steady import ANCHORS, unchanged
from clora_cli.transforming.member import check_apart, files_of
from clora_cli.transforming.remotes import CHECKSUMS, SCHEMA, Digest, FolderRemote, Item, remote_at

__all__ = ["pull_package", "push_package"]


def push_package(
    members: Sequence[AdapterFolder],
    target: str,
    options: PushOptions,
    *,
    force: bool = False,
    progress: Progress | None = None,
    packages: Sequence[Path] = (),
) -> tuple[Mapping[str, str], bool]:
    """Send a package: a folder an adapter, a model card, and the list of checksums.

    Args:
        members: The adapters, by stage.
        target: As for ``remote_at``.
        options: How.
        force: Replace another package in a folder; a repository on the Hub keeps what was there in its history.
        progress: Who to tell.
        packages: Where the adapters were read from: nothing is written into a package.

    Returns:
        The checksum of each file, and whether anything was sent (False: all is there).

    Raises:
        OptionError: If licence or base model cannot be stated, or the target holds something else.
        CloraError: If it cannot be sent; what was there stays.
    """
    progress, remote = progress or Silent(), remote_at(target, private=not options.public)
    if isinstance(remote, FolderRemote):
        check_path(remote.path, "target")
    base = _public_base(members, options.base_name)
    name = options.name or target.rstrip("/").rpartition("/")[2].partition("@")[0]
    card = package_card(
        name, members, [read_scores(path) for path in options.scores], license=options.license, base=base
    )
    items = {**_gathered(members), "README.md": Item.of(card.encode())}
    files = {name: items[name].sha256 for name in sorted(items)}
    items[CHECKSUMS] = Item.of(to_json({"schema": SCHEMA, "files": files}).encode())
    there = remote.listing()
    if there == {name: Digest("sha256", digest) for name, digest in files.items()}:
        return files, False
    if there and not force and not target.startswith("hf://"):
        raise OptionError(
            f"{target} holds something else; pass --force to replace it, or another target", code="output-differs"
        )
    if isinstance(remote, FolderRemote):
        check_apart(remote.path, [*packages, *(member.path for member in members)], "target")
        _check_package(remote.path)
    with progress.track("push", len(files)) as advance:
        remote.send(items, sorted(there.keys() - files.keys()))
        advance(len(files), target)
    return files, True


def pull_package(
    source: str, out: Path, *, force: bool = False, progress: Progress | None = None, patience: Patience = NO_PATIENCE
) -> tuple[list[AdapterFolder], bool]:
    """Fetch a package, or a repository of one adapter, and check every file; nothing appears before all are right.

    What is complete of an interrupted call stays in a hidden folder beside ``out``, and is not fetched again.

    Args:
        source: As for ``remote_at``.
        out: The folder to write.
        force: Replace another folder that was pulled.
        progress: Told of files that are left out and of findings.
        patience: What to do if another process writes there.

    Returns:
        The adapters, and whether they were fetched now (False: all is there).

    Raises:
        ArtifactError: If nothing is there, or a file is not what its checksum says.
        CloraError: If it cannot be fetched or written; what was there stays.
    """
    progress = progress or Silent()
    check_path(out, "--out")
    out = real_path(out) if out.is_symlink() else out  # the link stays; its target is replaced
    remote = remote_at(source)
    wanted = _wanted(remote.listing(), source, progress)
    work = out.parent / f".{out.name}.unfinished"
    if _is_there(out, wanted):
        if work.exists():  # of a call that was killed when all was in its place
            with locked([place(out)], patience=patience, progress=progress):
                discard(work)
        return read_package([out]), False
    if out.exists() and not force:
        raise OptionError(
            f"{out} exists and is not {source}; pass --force to replace it, or another --out", code="output-differs"
        )
    if isinstance(remote, FolderRemote):
        check_apart(out, [remote.path])
    _check_package(out)
    with locked([place(out)], patience=patience, progress=progress), progress.track("pull", len(wanted)) as advance:
        if _strange(work, wanted):
            discard(work)  # what is left of another package
        for name, digest in wanted.items():
            if not ((work / name).is_file() and digest.of(work / name)):
                with writing(out):
                    (work / name).parent.mkdir(parents=True, exist_ok=True)
                    remote.fetch(name, work)
                _check_file(work / name, digest, f"{source}: {name}")
            advance(1, name)
        discard(work / ".cache")  # the Hub's library's own
        members = read_package([work])
        for member in members:
            for finding in scan_adapter(member.path):
                progress.warn(f"{member.path.name}/{finding.place}: {finding.what}")
        with writing(out):
            persist(work)
            publish(work, out)
        discard(work)  # what was there before
    return read_package([out]), True


def _check_file(file: Path, digest: Digest, what: str) -> None:
    if not digest.of(file):
        file.unlink()
        raise ArtifactError(
            f"{what} is not the file that was pushed; pull again, or have it pushed again", code="remote-damaged"
        )


def _check_package(path: Path) -> None:
    """Refuse to replace what is no package, whatever is forced.

    Raises:
        OptionError: If a file is there, or a folder of other things.
    """
    inner = list(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
    if inner and not (is_adapter(path) or any(map(is_adapter, inner))):
        raise OptionError(
            f"{path} exists and is no package; --force replaces packages alone: choose another place",
            code="output-not-a-package",
        )


def _gathered(members: Sequence[AdapterFolder]) -> dict[str, Item]:
    """Return the files of adapters, each under its name in the package."""
    items = {}
    for member in members:
        if problem := folder_problem(member.task):
            raise MismatchError(
                f"adapter '{member.task}' cannot be a folder's name; {problem}", code="name-unfit-for-folder"
            )
        with unchanged(member.path, member.seen):
            for name, file in files_of(member.path).items():
                if problem := folder_problem(name):
                    raise MismatchError(
                        f"adapter '{member.task}' has a file '{name}', which not every disk can hold; {problem}",
                        code="name-unfit-for-folder",
                    )
                if file.suffix not in PICKLES:
                    items[f"{member.task}/{name}"] = Item.of(file)
    return items


def _public_base(members: Sequence[AdapterFolder], given: str | None) -> str:
    base = given or next((str(member.base["id"]) for member in members if member.base.get("id")), "")
    if not base or (base != MODEL_NAME and not given and (is_local(base) or Path(base).is_absolute())):
        raise OptionError(
            f"the adapters' base model is '{base}', which means nothing elsewhere; pass --base-name with its public name",
            code="base-model-not-public",
        )
    return base


def _is_there(out: Path, wanted: Mapping[str, Digest]) -> bool:
    """Tell whether a folder holds these files, and no other adapter; what else a user keeps there does not count."""
    if not out.is_dir() or not all((out / name).is_file() and digest.of(out / name) for name, digest in wanted.items()):
        return False
    adapters = {path.name for path in out.iterdir() if not path.name.startswith(".") and is_adapter(path)}
    return adapters <= {name.split("/")[0] for name in wanted}


def _strange(work: Path, wanted: Mapping[str, Digest]) -> bool:
    """Tell whether an unfinished folder is none, or holds links or what is not wanted; the Hub's library has its own there."""
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        return True
    inner = {path.relative_to(work).as_posix(): path for path in work.rglob("*")}
    return any(
        path.is_symlink() or (path.is_dir() is (name in wanted) and not f"{name}/".startswith(".cache/"))
        for name, path in inner.items()
    )


def _wanted(listing: Mapping[str, Digest], source: str, progress: Progress) -> dict[str, Digest]:
    """Return what to fetch: names that stay within the folder, and no pickles."""
    if not listing:
        mend = "look at its name, and log in with `hf auth login` if it is private"
        mend = mend if source.startswith("hf://") else "look at its name"
        raise ArtifactError(f"{source} does not exist or is empty; {mend}", code="remote-missing")
    wanted = {}
    for name, digest in sorted(listing.items()):
        parts = name.split("/")
        if parts[0].startswith(".") and not {"", ".", ".."} & set(parts):
            continue  # .gitattributes and the like
        around = {"/".join(parts[:count]) for count in range(1, len(parts))}
        if any(folder_problem(part) for part in parts) or not around.isdisjoint(listing):
            raise ArtifactError(f"{source} lists '{name}', which is no name of a file", code="remote-damaged")
        if Path(name).suffix in PICKLES:
            progress.note(f"{name} is left out: a pickle, which clora never loads")
        else:
            wanted[name] = digest
    if not any(name.rpartition("/")[2] in ANCHORS for name in wanted):  # a whole model may be large
        raise CloraError(f"{source} holds no adapter; see clora scan for what it is", code="remote-without-adapter")
    return wanted
