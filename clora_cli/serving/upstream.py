"""Another OpenAI-style server that answers what is chosen here (layer L3): vLLM, SGLang, llama.cpp and their like."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from clora_cli.serving.held import Held
from clora_cli.serving.refusal import Refusal
from clora_cli.serving.replies import event
from clora_cli.serving.verdict import Verdict
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Upstream"]

# What is about one connection, and not about the answer.
_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "proxy-authenticate",
    "date",
    "server",
}
_ABSENT = {404, 405, 501}
_SHOWN = 12  # letters of a digest in the name under which an adapter is loaded


class Upstream:
    """Passes requests on with the model that was chosen.

    An adapter is loaded there under its name and the start of its digest, by vLLM's interface or SGLang's, so that another
    adapter of its name is another model; what the package no longer holds is unloaded. Where the server cannot load adapters, it
    must list them under their own names.

    Args:
        url: The server, with or without ``/v1``.
        key: Its API key; empty for none, which passes the client's on if ``trusts`` it.
        base: What it calls the base model; the first model that it lists by default.
        seconds: How long an answer may take.
        trusts: Whether a client's own key is meant for that server.
        log: Takes an entry for each answer that broke off.
    """

    def __init__(
        self,
        url: str,
        key: str,
        base: str | None,
        seconds: float,
        *,
        trusts: bool,
        log: Callable[[Mapping[str, Any]], None] = lambda entry: None,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._key, self._base, self._trusts, self._log = key, base, trusts, log
        self._seconds, self._changing = seconds, asyncio.Lock()  # one at a time changes what is loaded there
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(seconds, connect=10.0), trust_env=False)
        self._names: dict[str, str] = {}  # an adapter's own name with its digest, to what the server calls it
        self._loaded: dict[str, str] = {}  # the same for those that were loaded from here, to the path that unloads

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def forward(self, request: Request, values: Mapping[str, Any], verdict: Verdict, held: Held) -> Response:
        """Pass a request on, and the answer back as it comes, byte for byte.

        Raises:
            Refusal: If the server cannot be reached, or has no such adapter.
        """
        named = {} if verdict.weights else verdict.used
        if len(named) > 1 or any(scale != 1 for scale in named.values()):
            raise Refusal(400, "this server answers with one adapter at a time, as it is; name one", param="model")
        until = time.monotonic() + self._seconds
        await self._unload(held)
        answer = await self._sent(request, values, verdict.adapter, held)
        if answer.status_code == 404 and self._names:  # it was started again, and has forgotten
            await answer.aclose()
            self._names, self._loaded = {}, {}
            answer = await self._sent(request, values, verdict.adapter, held)
        answer.headers.encoding = "latin-1"  # in which they are written again: the same bytes
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        return StreamingResponse(self._passed_back(answer, until), answer.status_code, headers | verdict.headers)

    async def _passed_back(self, answer: httpx.Response, until: float) -> AsyncIterator[bytes]:
        """Yield an answer as it comes; of a stream that breaks off, or goes on for too long, an event that says so."""
        parts = answer.aiter_raw()
        try:
            while part := await asyncio.wait_for(anext(parts, b""), until - time.monotonic()):
                yield part
        except (httpx.HTTPError, asyncio.TimeoutError) as error:
            told = Refusal(502, f"the upstream server broke its answer off: {error}", code="upstream")
            if isinstance(error, (httpx.TimeoutException, asyncio.TimeoutError)):
                told = Refusal(504, "the upstream server takes too long", code="upstream")
            self._log({"event": "failed", "status": told.status, "code": told.code, "error": str(told)})
            streams = answer.headers.get("content-type", "").startswith("text/event-stream")
            if not streams or "content-length" in answer.headers:
                raise  # the client sees an answer shorter than it was to be
            yield b"\n\n" + event(told.body)
        finally:  # also where the client has left, which ends the answer there
            await answer.aclose()

    async def _sent(
        self, request: Request, values: Mapping[str, Any], chosen: str | None, held: Held
    ) -> httpx.Response:
        name = await self._base_name() if chosen is None else await self._name(_member(held, chosen))
        headers = self._headers(request.headers.get("authorization", "") if self._trusts else "")
        headers["accept-encoding"] = request.headers.get("accept-encoding", "identity")
        body = json.dumps({**values, "model": name}).encode()
        query = f"?{request.url.query}" if request.url.query else ""
        url = f"{self._url}{request.url.path}{query}"
        return await self._reached(self._client.build_request("POST", url, content=body, headers=headers), stream=True)

    async def _name(self, member: AdapterFolder) -> str:
        """Return what the server calls an adapter, once it has it."""
        own = f"{member.task}@{member.digest[:_SHOWN]}"
        async with self._changing:
            if own not in self._names:
                self._names[own] = await self._found(own, member)
            return self._names[own]

    async def _found(self, own: str, member: AdapterFolder) -> str:
        there = await self._models()
        if own in there:
            return own
        told = {"lora_name": own, "lora_path": str(member.path.resolve())}
        for load, form in (("/v1/load_lora_adapter", "{name}"), ("/load_lora_adapter", "{base}:{name}")):
            answer = await self._post(load, told)
            if answer.status_code == 200:
                self._loaded[own] = load.replace("load", "unload", 1)
                return form.format(name=own, base=await self._base_name() if "{base}" in form else "")
            if answer.status_code not in _ABSENT:
                raise Refusal(
                    502, f"the upstream server does not load {member.task}: {answer.text[:200]}", code="upstream"
                )
        if member.task in there:
            return member.task
        raise Refusal(
            502,
            f"the upstream server has no adapter {member.task} and cannot load one; start it with this adapter, or vLLM with "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
            code="upstream",
        )

    async def _unload(self, held: Held) -> None:
        kept = {f"{member.task}@{member.digest[:_SHOWN]}" for member in held.members}
        async with self._changing:
            for own in set(self._names) - kept:
                del self._names[own]
                if path := self._loaded.pop(own, ""):
                    await self._post(path, {"lora_name": own})

    async def _base_name(self) -> str:
        if self._base is None:
            there = await self._models()
            if not there:
                raise Refusal(502, "the upstream server lists no model; name one with --upstream-base", code="upstream")
            self._base = there[0]
        return self._base

    async def _models(self) -> list[str]:
        answer = await self._reached(
            self._client.build_request("GET", f"{self._url}/v1/models", headers=self._headers())
        )
        try:
            return [str(one["id"]) for one in answer.json()["data"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise Refusal(502, "the upstream server does not list its models", code="upstream") from None

    async def _post(self, path: str, values: Mapping[str, Any]) -> httpx.Response:
        return await self._reached(
            self._client.build_request("POST", f"{self._url}{path}", json=values, headers=self._headers())
        )

    async def _reached(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            return await self._client.send(request, stream=stream)
        except httpx.TimeoutException:
            raise Refusal(504, "the upstream server takes too long", code="upstream") from None
        except httpx.HTTPError as error:
            raise Refusal(502, f"the upstream server {self._url} cannot be reached: {error}", code="upstream") from None

    def _headers(self, given: str = "") -> dict[str, str]:
        sent = f"Bearer {self._key}" if self._key else given
        return {"content-type": "application/json", **({"authorization": sent} if sent else {})}


def _member(held: Held, name: str) -> AdapterFolder:
    found = next((member for member in held.members if member.task == name), None)
    if found is None:
        raise Refusal(503, f"adapter {name} has just been removed; ask again", code="served-package-gone")
    return found
