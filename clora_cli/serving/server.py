"""A server from its start to its end (layer L3)."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import uvicorn

from clora_cli.base.addresses import bound, listen
from clora_cli.options import ServeOptions
from clora_cli.serving.application import application
from clora_cli.serving.gate import read_keys
from clora_cli.serving.line import Line
from clora_cli.serving.service import Service
from clora_cli.serving.upstream import Upstream

__all__ = ["bound_for", "serve"]

_GRACE = 30  # seconds for answers under way when the server is told to stop
_BACKLOG = 2048


def bound_for(options: ServeOptions) -> socket.socket:
    """Return a socket at the address to listen on, before anything heavy is loaded.

    Raises:
        OptionError: If the address is taken, or not this machine's.
    """
    return bound(options.host, options.port, _flags(options))


def _flags(options: ServeOptions) -> str:
    return f"--host {options.host} --port {options.port}"


def serve(
    service: Service,
    options: ServeOptions,
    listening: socket.socket,
    log: Callable[[Mapping[str, Any]], None],
    ready: Callable[[Callable[[], None]], None],
) -> None:
    """Serve until a signal comes.

    Args:
        service: Answers.
        options: How.
        listening: From ``bound_for``.
        log: Takes one entry for each request.
        ready: Called when requests are taken, with a function that stops the server.

    Raises:
        OptionError: If a file of keys cannot be read, or another process took the address meanwhile.
    """
    keys = read_keys(options.api_key_file, "--api-key-file")
    line = Line(service.answer, options.queue, options.batch_size, service.refresh)
    upstream = _upstream(options, log, trusts=not keys)
    app = application(service, line, options, keys, log, upstream)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        line.start()
        ready(stop)
        yield
        if upstream is not None:
            await upstream.close()

    app.router.lifespan_context = lifespan
    _pass_on_complaints(log)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE,
    )
    running = uvicorn.Server(config)
    listen(
        listening, _BACKLOG, _flags(options)
    )  # so that nobody is refused between the word that it listens and uvicorn's own call

    def stop() -> None:
        running.should_exit = True

    try:
        running.run(sockets=[listening])
    finally:
        line.stop()


def _upstream(options: ServeOptions, log: Callable[[Mapping[str, Any]], None], *, trusts: bool) -> Upstream | None:
    if options.upstream is None:
        return None
    key = next(iter(read_keys(options.upstream_key_file, "--upstream-key-file")), "")
    return Upstream(options.upstream, key, options.upstream_base, options.timeout, trusts=trusts, log=log)


class _Complaints(logging.Handler):
    """Gives the server's own complaints to the log."""

    def __init__(self, log: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        self._log({"event": "server", "level": record.levelname.lower(), "message": record.getMessage()})


def _pass_on_complaints(log: Callable[[Mapping[str, Any]], None]) -> None:
    logger = logging.getLogger("uvicorn")
    logger.handlers, logger.propagate = [_Complaints(log)], False
