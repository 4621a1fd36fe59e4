"""The HTTP application (layer L3): OpenAI-style endpoints around a service and its waiting line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from clora_cli.options import ServeOptions
from clora_cli.serving.endpoints import Endpoints
from clora_cli.serving.line import Line
from clora_cli.serving.lingering import Lingering
from clora_cli.serving.refusal import Refusal
from clora_cli.serving.service import Service
from clora_cli.serving.upstream import Upstream

__all__ = ["application"]

Log = Callable[[Mapping[str, Any]], None]


def application(
    service: Service,
    line: Line,
    options: ServeOptions,
    keys: tuple[str, ...],
    log: Log,
    upstream: Upstream | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        service: Answers.
        line: Where prompts wait for it.
        options: How.
        keys: Which clients may have; empty for none.
        log: Takes one entry for each request.
        upstream: The server that answers instead, if any.
    """
    app = FastAPI(title="clora", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    served = Endpoints(service, line, options, keys, log, upstream)
    gets = {"/": served.page, "/health": served.health, "/metrics": served.metrics, "/v1/models": served.models}
    gets["/v1/models/{name:path}"] = served.model
    posts = {"/v1/route": served.route, "/v1/completions": served.completions, "/v1/chat/completions": served.chat}
    for methods, endpoints in ((["GET", "HEAD"], gets), (["POST"], posts)):
        for path, endpoint in endpoints.items():
            app.add_api_route(path, served.guarded(endpoint, path), methods=methods, response_model=None)

    async def unknown(request: Request, error: Exception) -> Response:
        return served.refused("unknown", _unknown(request, error))

    app.add_exception_handler(HTTPException, unknown)
    app.add_middleware(Lingering)
    return app


def _unknown(request: Request, error: Exception) -> Refusal:
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    allowed = (headers or {}).get("Allow")
    told = f"use {allowed}" if allowed else "there is no such thing"
    return Refusal(status, f"{request.method} {request.url.path}: {told}", headers=headers)
