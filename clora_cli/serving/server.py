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
from clora_cli.serving.gate import Keys
from clora_cli.serving.line import Line
from clora_cli.serving.service import Service
from clora_cli.serving.stopping import Stoppable
from clora_cli.serving.upstream import Upstream

__all__ = ["bound_for", "serve"]

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
    keys: Keys,
    listening: socket.socket,
    log: Callable[[Mapping[str, Any]], None],
    ready: Callable[[Callable[[], None]], None],
) -> None:
    """Serve until a signal comes.

    Args:
        service: Answers.
        options: How.
        keys: From ``read_keys``.
        listening: From ``bound_for``.
        log: Takes one entry for each request.
        ready: Called when requests are taken, with a function that stops the server.

    Raises:
        OptionError: If another process took the address meanwhile.
        KeyboardInterrupt: At the end, if it was a signal that ended it.
    """
    line = Line(service.answer, options.queue, options.batch_size, service.refresh)
    upstream = _upstream(options, keys, log)
    app = application(service, line, options, keys.clients, log, upstream)

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
    )
    running = Stoppable(config, line, log)
    listen(
        listening, _BACKLOG, _flags(options)
    )  # so that nobody is refused between the word that it listens and uvicorn's own call

    def stop() -> None:
        running.should_exit = True

    try:
        running.run(sockets=[listening])
    finally:
        line.stop()
    if running.told:
        raise KeyboardInterrupt


def _upstream(options: ServeOptions, keys: Keys, log: Callable[[Mapping[str, Any]], None]) -> Upstream | None:
    if options.upstream is None:
        return None
    return Upstream(
        options.upstream, keys.upstream, options.upstream_base, options.timeout, trusts=not keys.clients, log=log
    )


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
