"""Answers whose client is still sending (layer L3)."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Lingering"]

_LONGEST = 30.0  # seconds of reading what nobody wants
_SILENCE = 5.0  # seconds without any of it


class Lingering:
    """Sends an answer whole and at once, then reads on for a while, and drops it, before the connection may end.

    A socket that is closed with unread bytes is reset, and a client that is still sending loses the answer that it was
    sent: that a body is too large, or its key wrong. The times are those of nginx's ``lingering_time`` and
    ``lingering_timeout``.

    Args:
        app: Answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        read = scope["type"] != "http"

        async def noted() -> Message:
            nonlocal read
            message = await receive()
            read = not message.get("more_body")
            return message

        async def ended(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body") and not read:
                await send({**message, "more_body": True})
                message = {**message, "body": b""}
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_drained(receive), _LONGEST)
            await send(message)

        await self._app(scope, noted, ended)


async def _drained(receive: Receive) -> None:
    while (await asyncio.wait_for(receive(), _SILENCE)).get("more_body"):
        pass
