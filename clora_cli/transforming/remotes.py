"""Where packages are sent to and fetched from (layer L3): a folder, or a repository on the Hub."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from clora_cli.base.errors import ArtifactError, CloraError, OptionError, ReplacedError
from clora_cli.base.files import new_folder, read_json, sha256
from clora_cli.base.intake import real_path
from clora_cli.base.legible import shortened
from clora_cli.transforming.member import copy_file

__all__ = ["CHECKSUMS", "SCHEMA", "Digest", "FolderRemote", "HubRemote", "Item", "Remote", "remote_at"]

CHECKSUMS = "clora-checksums.json"
SCHEMA = "clora.checksums/1"
_SMALL = 10 << 20  # bytes up to which the Hub takes a file within the commit
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN, and ask for access on its page where it is gated"
_MENDS = {400: "mend the call", 401: _LOG_IN, 403: _LOG_IN, 404: "look at its name and revision"}


@dataclass(frozen=True)
class Digest:
    """What a file's content must be.

    Attributes:
        kind: ``sha256``, or ``git``: the SHA-1 by which Git knows small files.
        value: The digest, in hex.
    """

    kind: str
    value: str

    def of(self, path: Path) -> bool:
        """Tell whether a file is this one."""
        if self.kind == "sha256":
            return sha256(path) == self.value
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == self.value


@dataclass(frozen=True)
class Item:
    """A file to be sent.

    Attributes:
        source: Where it is, or what it holds.
        sha256: The checksum of its content.
    """

    source: Path | bytes
    sha256: str

    @classmethod
    def of(cls, source: Path | bytes) -> Item:
        """Return an item as it is now."""
        return cls(source, hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256(source))

    def check(self, digest: str) -> None:
        """Check what is about to be sent.

        Raises:
            ReplacedError: If it is another file by now.
        """
        if digest != self.sha256:
            raise ReplacedError(f"{self.source!s} changed while it was sent; push again", code="replaced-while-read")


class Remote(Protocol):
    """A place for a package."""

    def listing(self) -> Mapping[str, Digest]:
        """Return the files there that have a digest, by name; empty if nothing is there."""

    def fetch(self, name: str, folder: Path) -> None:
        """Bring one file into a folder, under its name."""

    def send(self, items: Mapping[str, Item], gone: Sequence[str]) -> None:
        """Put files there, all at once, and remove some."""


@dataclass(frozen=True)
class FolderRemote:
    """A folder, on this machine or on a disk that is shared."""

    path: Path

    def listing(self) -> Mapping[str, Digest]:
        """Return its files: those of its list of checksums, else all, by what they are now."""
        if (self.path / CHECKSUMS).is_file():
            return listed(read_json(self.path / CHECKSUMS, "list of checksums"), str(self.path))
        files = [path for path in sorted(self.path.rglob("*")) if path.is_file()] if self.path.is_dir() else []
        names = [path.relative_to(self.path).as_posix() for path in files]
        return {name: Digest("sha256", sha256(self._own(name))) for name in names}

    def fetch(self, name: str, folder: Path) -> None:
        """Copy one file.

        Raises:
            ArtifactError: If it is missing, or leads to a file of somebody else's.
        """
        if not self._own(name).is_file():
            raise ArtifactError(
                f"{self.path} lacks {name}, which it lists; push the package again", code="remote-damaged"
            )
        shutil.copyfile(self.path / name, folder / name)

    def _own(self, name: str) -> Path:
        """Return a file's path; a link out of the folder would bring in what only the reader may read."""
        path = self.path / name
        if not real_path(path).is_relative_to(real_path(self.path)):
            raise ArtifactError(
                f"{self.path}: {name} is a link that leads out of the folder; have the package pushed again",
                code="remote-damaged",
            )
        return path

    def send(self, items: Mapping[str, Item], gone: Sequence[str]) -> None:
        """Write the folder whole, in place of what is there."""
        with new_folder(self.path) as target:
            for name, item in items.items():
                file = target / name
                file.parent.mkdir(exist_ok=True)
                if isinstance(item.source, bytes):
                    file.write_bytes(item.source)
                else:
                    copy_file(item.source, file)
                item.check(sha256(file))


@dataclass(frozen=True)
class HubRemote:
    """A model repository on the Hub.

    Attributes:
        repo: Its id.
        revision: Branch, tag or commit; None for the main branch.
        private: Whether one that is made anew is private.
    """

    repo: str
    revision: str | None = None
    private: bool = True

    def listing(self) -> Mapping[str, Digest]:
        """Return its files: those of its list of checksums, else all, as the Hub knows them."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        with _hub(self.repo):
            try:
                tree = list(HfApi().list_repo_tree(self.repo, recursive=True, revision=self.revision))
            except RepositoryNotFoundError as error:
                if isinstance(error, GatedRepoError):
                    raise
                return {}
            files = {one.path: one for one in tree if isinstance(one, RepoFile)}
            if CHECKSUMS in files:
                path = HfApi().hf_hub_download(self.repo, CHECKSUMS, revision=self.revision)
                return listed(read_json(Path(path), "list of checksums"), f"hf://{self.repo}")
        return {
            name: Digest("sha256", one.lfs.sha256) if one.lfs else Digest("git", one.blob_id)
            for name, one in files.items()
            if name != ".gitattributes"
        }

    def fetch(self, name: str, folder: Path) -> None:
        """Fetch one file; a part of it that is there already is not fetched again."""
        from huggingface_hub import HfApi

        with _hub(self.repo):
            HfApi().hf_hub_download(self.repo, name, revision=self.revision, local_dir=folder)

    def send(self, items: Mapping[str, Item], gone: Sequence[str]) -> None:
        """Make one commit of all files; large ones that the Hub has already are not sent again."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationDelete(name) for name in gone]
        for name, item in items.items():
            # The Hub compares a large file with the checksum that is sent before it; small ones are sent as they are here.
            content = item.source
            if isinstance(content, Path) and content.stat().st_size <= _SMALL:
                content = content.read_bytes()
            added = CommitOperationAdd(name, content)
            item.check(added.upload_info.sha256.hex())
            operations.append(added)
        with _hub(self.repo):
            HfApi().create_repo(self.repo, private=self.private, exist_ok=True)
            message = "Package of adapters, by clora push"
            HfApi().create_commit(self.repo, operations, commit_message=message, revision=self.revision)


def remote_at(text: str, *, private: bool = True) -> Remote:
    """Return the place that a text names: ``hf://owner/name[@revision]``, ``file://…`` or a path.

    Raises:
        OptionError: If it is another address.
    """
    if not text.removeprefix("file:").strip("/ "):
        raise OptionError(f"'{text}' names no folder; give one, file://…, or hf://OWNER/NAME", code="remote-malformed")
    if text.startswith("hf://"):
        repo, _, revision = text.removeprefix("hf://").partition("@")
        if repo.count("/") != 1 or not all(repo.split("/")):
            raise OptionError(f"{text}: give hf://OWNER/NAME, or hf://OWNER/NAME@REVISION", code="remote-malformed")
        return HubRemote(repo, revision or None, private)
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return FolderRemote(Path(unquote(parts.path)))
    if "://" in text:
        raise OptionError(f"{text}: give a folder, file://…, or hf://OWNER/NAME", code="remote-malformed")
    return FolderRemote(Path(text))


def listed(content: Mapping[str, object], where: str) -> dict[str, Digest]:
    """Return what a list of checksums says.

    Raises:
        ArtifactError: If it is damaged or of a newer format.
    """
    files = content.get("files")
    sound = isinstance(files, dict) and all(isinstance(digest, str) and len(digest) == 64 for digest in files.values())
    if content.get("schema") != SCHEMA or not isinstance(files, dict) or not sound:
        raise ArtifactError(f"{where}: {CHECKSUMS} is damaged or of a newer format; push again", code="remote-damaged")
    return {str(name): Digest("sha256", digest) for name, digest in files.items()}


@contextlib.contextmanager
def _hub(repo: str) -> Iterator[None]:
    """Turn what the Hub's library raises into one line; errors of this machine's disk are left as they are."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    # httpx's own, by whichever name the library imports it.
    transport: type[BaseException] = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    try:
        yield
    except HFValidationError as error:
        raise OptionError(f"hf://{repo} is no valid name on the Hub", code="remote-malformed") from error
    except (LookupError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"hf://{repo}: what answers is not the Hub, or answers half; try again, and look at HF_ENDPOINT",
            code="hub-answer-malformed",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, transport) as error:
        # The library takes a file that it may not have for one that it could not look for.
        refusal = error if isinstance(error, HfHubHTTPError) else error.__cause__
        if isinstance(refusal, HfHubHTTPError) and not isinstance(refusal, LocalEntryNotFoundError):
            why = shortened(" ".join(str(refusal).split()), 200).rstrip(".: ")
            mend = _MENDS.get(refusal.response.status_code, "try again later, what is complete is kept")
            raise ArtifactError(f"hf://{repo}: the Hub refuses: {why}; {mend}", code="hub-refused") from error
        if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError):
            raise
        raise CloraError(
            f"hf://{repo}: the Hub cannot be reached; try again, what is complete is kept", code="hub-unreachable"
        ) from error
