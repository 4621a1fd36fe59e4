"""A server from its start to its end (layer L3)."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import uvicorn

from clora_cli.base.errors import OptionError
from clora_cli.options import ServeOptions
from clora_cli.serving.application import application
from clora_cli.serving.gate import read_keys
from clora_cli.serving.line import Line
from clora_cli.serving.service import Service
from clora_cli.serving.upstream import Upstream

__all__ = ["bound", "serve", "url_of"]

_GRACE = 30  # seconds for answers under way when the server is told to stop
_BACKLOG = 2048


def bound(options: ServeOptions) -> socket.socket:
    """Return a socket at the address to listen on, before anything heavy is loaded.

    Raises:
        OptionError: If the address is taken, or not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise OptionError(
            f"cannot listen on --host {options.host} --port {options.port}: {error.strerror or error}; choose another, or "
            "--port 0 for a free one",
            code="address-unavailable",
        ) from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Return where a server is found."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


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
        listening: From ``bound``.
        log: Takes one entry for each request.
        ready: Called when requests are taken, with a function that stops the server.

    Raises:
        OptionError: If a file of keys cannot be read.
    """
    keys = read_keys(options.api_key_file, "--api-key-file")
    line = Line(service.answer, options.queue, options.batch_size, service.refresh)
    upstream = _upstream(options, trusts=not keys)
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
    listening.listen(_BACKLOG)  # so that nobody is refused between the word that it listens and uvicorn's own call

    def stop() -> None:
        running.should_exit = True

    try:
        running.run(sockets=[listening])
    finally:
        line.stop()


def _upstream(options: ServeOptions, *, trusts: bool) -> Upstream | None:
    if options.upstream is None:
        return None
    key = next(iter(read_keys(options.upstream_key_file, "--upstream-key-file")), "")
    return Upstream(options.upstream, key, options.upstream_base, options.timeout, trusts=trusts)


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
