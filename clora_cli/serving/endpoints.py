"""What each path of the HTTP application does (layer L3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from importlib import resources
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from clora_cli.base.addresses import is_loopback
from clora_cli.base.errors import CloraError
from clora_cli.options import ServeOptions
from clora_cli.routing.inputs import Input
from clora_cli.serving.asked import Asked, Decoding, read_choice
from clora_cli.serving.bodies import Answered, Chat, Completion, Routed, forwarded, read_body
from clora_cli.serving.feed import Feed, Finished
from clora_cli.serving.gate import Gate
from clora_cli.serving.line import Line
from clora_cli.serving.measures import Measures
from clora_cli.serving.refusal import Refusal, refusal_of
from clora_cli.serving.replies import Reply, event
from clora_cli.serving.service import Service
from clora_cli.serving.upstream import Upstream
from clora_cli.serving.verdict import Verdict

__all__ = ["Endpoints"]

_Found = TypeVar("_Found")
_Endpoint = Callable[[Request], Awaitable[Response]]
_OPEN = {"/", "/health"}  # what needs no key: the page holds nothing, and who watches over servers has none
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)
_TURNS = 5  # attempts to choose and to pass on, while the package keeps changing in between


class Endpoints:
    """The paths' functions; ``application`` has the arguments."""

    def __init__(
        self,
        service: Service,
        line: Line,
        options: ServeOptions,
        keys: tuple[str, ...],
        log: Callable[[Mapping[str, Any]], None],
        upstream: Upstream | None,
    ) -> None:
        self._service, self._line, self._options, self._log = service, line, options, log
        self._gate = Gate(keys, options.max_body, local=is_loopback(options.host))
        self._upstream, self._started = upstream, int(time.time())
        self._measures = Measures(
            lambda: len(line), lambda: len(service.held.names), lambda: bool(service.trouble) or line.died
        )

    def guarded(self, endpoint: _Endpoint, path: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a path's function with what all have: who may ask, errors in one form, counts and the log."""

        async def reply(request: Request) -> Response:
            begun = time.monotonic()
            try:
                if path not in _OPEN:
                    self._gate.admit(request)
                response = await endpoint(request)
            except (Refusal, CloraError) as error:
                return self.refused(path, error, time.monotonic() - begun)
            self._measures.replied(path, response.status_code)
            return response

        return reply

    def refused(self, path: str, error: Refusal | CloraError, seconds: float = 0.0) -> Response:
        """Return the reply to a request that is not carried out."""
        told = error if isinstance(error, Refusal) else refusal_of(error)
        self._measures.replied(path, told.status)
        entry = {
            "event": "refused",
            "path": path,
            "status": told.status,
            "code": told.code,
            "seconds": round(seconds, 4),
        }
        self._log(entry | ({"error": str(told)} if told.status >= 500 else {}))
        return JSONResponse(told.body, told.status, told.headers)

    async def page(self, request: Request) -> Response:
        """Return the page to type a prompt into."""
        text = (resources.files(__package__) / "playground.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"content-security-policy": _POLICY, "referrer-policy": "no-referrer"})

    async def health(self, request: Request) -> Response:
        """Tell how the server is; what it serves is told to those alone who may ask it."""
        held, status = self._service.held, "down" if self._line.died else self._service.status
        state: dict[str, Any] = {"status": status}
        if not self._gate.knows(request):
            return JSONResponse(state, 503 if status == "down" else 200)
        state |= {
            "version": held.version,
            "adapters": len(held.names),
            "base": self._service.base,
            "waiting": len(self._line),
            "trouble": self._service.trouble,
            "unrouted": held.unrouted,
        }
        return JSONResponse(state, 503 if status == "down" else 200)

    async def metrics(self, request: Request) -> Response:
        """Return Prometheus's text."""
        return Response(self._measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        """List what a request may call its model."""
        data = [self._about(name) for name in self._service.models]
        return JSONResponse({"object": "list", "data": data}, headers={"x-clora-version": self._service.held.version})

    async def model(self, request: Request) -> Response:
        """Tell of one of them."""
        service, name = self._service, request.path_params["name"]
        if name not in service.models:
            read_choice(name, service.held.names, service.base)  # refuses what is none
        return JSONResponse(self._about(name), headers={"x-clora-version": service.held.version})

    def _about(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "clora"}

    async def route(self, request: Request) -> Response:
        """Tell where a prompt goes."""
        body: Routed = read_body(Routed, await self._body(request))
        verdict = await self._routed(request, body.input, body.model)
        self._told("/v1/route", body.input, body.model, verdict)
        return JSONResponse(verdict.told(per_site=body.per_site), headers=verdict.headers)

    async def completions(self, request: Request) -> Response:
        """Answer a plain prompt."""
        return await self._answered(request, Completion)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answered(request, Chat)

    async def _body(self, request: Request) -> bytes:
        try:
            return await asyncio.wait_for(self._gate.body(request), self._options.timeout)
        except asyncio.TimeoutError:
            raise Refusal(
                408, "the body takes too long to come", code="body_late", headers={"connection": "close"}
            ) from None

    async def _answered(self, request: Request, kind: type[Answered]) -> Response:
        text = await self._body(request)
        if self._upstream is not None:
            return await self._passed_on(request, self._upstream, text)
        body: Answered = read_body(kind, text)
        one, decoding = body.input, body.decoding(self._options.max_new_tokens)
        feed = self._ask(one, body.model, decoding, eager=bool(body.stream))
        try:
            verdict = await _unless_gone(request, _verdict(feed))
            reply = Reply(body.model, verdict, chat=kind is Chat)
            if body.stream:
                parts = self._streamed(request, feed, reply, body)
                return StreamingResponse(parts, media_type="text/event-stream", headers=verdict.headers)
            answer, end = await _unless_gone(request, _whole(feed))
        except BaseException:
            feed.leave()
            raise
        self._measures.answered(feed, verdict, end)
        self._told(request.url.path, one, body.model, verdict, feed, end, answer)
        return JSONResponse(reply.whole(answer, end), headers=verdict.headers)

    async def _streamed(self, request: Request, feed: Feed, reply: Reply, body: Answered) -> AsyncIterator[bytes]:
        said: list[str] = []
        try:
            yield reply.opening()
            while isinstance(found := await feed.next(), str):
                said.append(found)
                yield reply.part(found)
            if isinstance(found, Finished):
                self._measures.answered(feed, reply.verdict, found)
                self._told(request.url.path, body.input, body.model, reply.verdict, feed, found, "".join(said))
                yield reply.closing(found, usage=body.usage)
        except CloraError as error:
            told = refusal_of(error)
            self._broken(request.url.path, told.status, told.code)
            yield event(told.body)
        except (asyncio.CancelledError, GeneratorExit):
            self._broken(request.url.path, 499, "client-gone")
            raise
        finally:
            feed.leave()

    def _broken(self, path: str, status: int, code: str | None) -> None:
        self._log({"event": "failed", "path": path, "status": status, "code": code})

    async def _routed(self, request: Request, one: Input, model: Any) -> Verdict:
        feed = self._ask(one, model, None)
        try:
            return await _unless_gone(request, _verdict(feed))
        finally:
            feed.leave()

    def _ask(self, one: Input, model: Any, decoding: Decoding | None, *, eager: bool = False) -> Feed:
        feed = Feed(self._options.timeout)
        if not self._line.add(Asked(one, model, decoding, feed, eager)):
            if self._line.died:
                raise Refusal(503, "the server has failed; start it again", code="server-stops")
            raise Refusal(
                429,
                "too many requests wait; come back later",
                code="queue_full",
                headers={"retry-after": str(self._line.patience)},
            )
        return feed

    async def _passed_on(self, request: Request, upstream: Upstream, text: bytes) -> Response:
        values, one = forwarded(text)
        model = values.get("model", "auto")
        for turn in range(_TURNS):
            verdict, held = await self._routed(request, one, model), self._service.held
            if verdict.version == held.version or turn == _TURNS - 1:
                break
        self._told(request.url.path, one, model, verdict)
        return await upstream.forward(request, values, verdict, held)

    def _told(
        self,
        path: str,
        one: Input,
        model: Any,
        verdict: Verdict,
        feed: Feed | None = None,
        end: Finished | None = None,
        answer: str = "",
    ) -> None:
        entry: dict[str, Any] = {"event": "answered" if end else "routed", "path": path, "model": model}
        entry |= {"adapter": verdict.adapter, "confidence": verdict.confidence, "version": verdict.version}
        if end is not None and feed is not None:
            entry |= {"finish": end.reason, "prompt_tokens": end.read, "answer_tokens": end.written}
            entry |= {"seconds": round(feed.age, 4), "first": feed.first and round(feed.first, 4)}
        if self._options.log_prompts:
            entry |= {"prompt": one.example.prompt, "answer": answer}
        self._log(entry)


async def _verdict(feed: Feed) -> Verdict:
    found = await feed.next()
    if not isinstance(found, Verdict):
        raise RuntimeError("an answer began before it was decided who gives it")
    return found


async def _whole(feed: Feed) -> tuple[str, Finished]:
    said: list[str] = []
    while not isinstance(found := await feed.next(), Finished):
        said.append(str(found))
    return "".join(said), found


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _Found]) -> _Found:
    """Return what work finds, unless the client leaves first."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(499, "the client has gone", code="client-gone")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
