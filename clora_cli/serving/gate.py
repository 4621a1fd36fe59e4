"""Who may ask, and how much at once (layer L3)."""

from __future__ import annotations

import hmac
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from clora_cli.base.addresses import names_this_machine
from clora_cli.base.errors import OptionError
from clora_cli.serving.refusal import Refusal

__all__ = ["Gate", "read_keys"]


def read_keys(path: Path | None, flag: str) -> tuple[str, ...]:
    """Return the keys in a file, one a line; none without a file.

    Raises:
        OptionError: If it cannot be read, or holds none.
    """
    if path is None:
        return ()
    try:
        keys = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeError) as error:
        raise OptionError(
            f"{flag} {path} cannot be read: {error}; make it readable", code="key-file-unreadable"
        ) from error
    if not keys or not all(key.isascii() and key.isprintable() for key in keys):
        raise OptionError(f"{flag} {path}: write one key of ASCII letters a line", code="key-file-malformed")
    return keys


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
            Refusal: If it is too large, or no JSON by its own word: a page of another site cannot send that unasked.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send the header 'Content-Type: application/json'", code="content_type")
        told = request.headers.get("content-length", "")
        size, parts = int(told) if told.isdecimal() else 0, []
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
