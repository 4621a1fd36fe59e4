"""Who may ask, and how much at once (layer L3)."""

from __future__ import annotations

import hmac
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from clora_cli.base.addresses import names_this_machine
from clora_cli.base.errors import OptionError
from clora_cli.base.intake import natural
from clora_cli.options import ServeOptions
from clora_cli.serving.refusal import Refusal

__all__ = ["Gate", "Keys", "read_keys"]

_KEY = re.compile("[!-~]+")  # what a header holds as it is


@dataclass(frozen=True)
class Keys:
    """API keys.

    Attributes:
        clients: Of which a client must have one; empty lets everybody in.
        upstream: What another server asks for; empty for nothing.
        exposed: The files that other users of this machine can read.
    """

    clients: tuple[str, ...]
    upstream: str
    exposed: tuple[Path, ...]


def read_keys(options: ServeOptions) -> Keys:
    """Read the files of keys, each once: it may be a pipe.

    Raises:
        OptionError: If one cannot be read, holds no key, or something that is none.
    """
    clients = _keys(options.api_key_file, "--api-key-file")
    upstream = _keys(options.upstream_key_file, "--upstream-key-file")
    paths = [path for path in (options.api_key_file, options.upstream_key_file) if path is not None]
    exposed = tuple(path for path in paths if path.is_file() and path.stat().st_mode & stat.S_IROTH)
    return Keys(clients, upstream[0] if upstream else "", exposed)


def _keys(path: Path | None, flag: str) -> tuple[str, ...]:
    """Return the keys in a file, one a line, lines that begin with # left out; none without a file."""
    if path is None:
        return ()
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8"
        raise OptionError(
            f"{flag} {path} cannot be read: {why}; make it readable", code="key-file-unreadable"
        ) from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    keys = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    odd = next((number for number, key in keys if not _KEY.fullmatch(key)), None)
    if odd is not None or not keys:
        where = f"line {odd} is no key" if odd is not None else "it holds no key"
        raise OptionError(
            f"{flag} {path}: {where}; write one a line, of ASCII letters, digits and signs without spaces",
            code="key-file-malformed",
        )
    return tuple(key for _, key in keys)


class Gate:
    """Checks what comes before a request's content.

    Args:
        keys: One of which a client must have; empty lets everybody in that names this machine as the host.
        most: Bytes of a body at most.
        local: Whether the server listens on loopback alone.
    """

    def __init__(self, keys: tuple[str, ...], most: int, *, local: bool) -> None:
        self._keys, self._most = [key.encode() for key in keys], most
        self._local = local and not keys

    def admit(self, request: Request) -> None:
        """Let a request in.

        Raises:
            Refusal: If it has no key, or comes by a name that a page in somebody's browser made up for this machine.
        """
        if self._local and not names_this_machine(request.headers.get("host", "")):
            raise Refusal(403, "this server answers requests to 127.0.0.1 and localhost alone; give it --api-key-file")
        if not self.knows(request):
            raise Refusal(
                401,
                "wrong or missing API key; send 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def knows(self, request: Request) -> bool:
        """Tell whether a request has a key, or needs none."""
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        right = [hmac.compare_digest(given.strip().encode(), key) for key in self._keys]
        return not self._keys or (kind.lower() == "bearer" and any(right))

    async def body(self, request: Request) -> bytes:
        """Return a request's body.

        Raises:
            Refusal: If it is too large, compressed, or no JSON by its own word: a page of another site cannot
                send that unasked.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send the header 'Content-Type: application/json'", code="content_type")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "send the body as it is, without a Content-Encoding", code="content_encoding")
        told = request.headers.get("content-length", "")
        size, parts = natural(told) or 0, []
        if size <= self._most:
            size = 0
            try:
                async for part in request.stream():
                    parts.append(part)
                    if (size := size + len(part)) > self._most:
                        break
            except ClientDisconnect:
                raise Refusal(400, "the body is incomplete") from None
        if size > self._most:
            raise Refusal(
                413,
                f"the body has more than {self._most} bytes; send less, or start the server with a larger --max-body",
                code="body_too_large",
                headers={"connection": "close"},
            )
        return b"".join(parts)
