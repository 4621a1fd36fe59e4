"""A page that shows how far a run is (layer L3): served to this machine alone, from the run's folder alone."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from clora_cli.base.addresses import bound, listen, names_this_machine, url_of
from clora_cli.base.errors import CloraError
from clora_cli.base.legible import legible_json
from clora_cli.recipes.run_state import RunState

__all__ = ["STATE_PATH", "reserved", "shown"]

STATE_PATH = "/state"
_HOST = "127.0.0.1"
_BACKLOG = 64
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def reserved(port: int) -> socket.socket:
    """Return a socket that takes connections to the page from now on.

    Raises:
        OptionError: If another process has the port.
    """
    flags = f"--port {port}"
    found = bound(_HOST, port, flags)
    listen(found, _BACKLOG, flags)
    return found


@contextlib.contextmanager
def shown(state: RunState, listening: socket.socket) -> Iterator[str]:
    """Serve the page during a block, and yield its address.

    Args:
        state: The run.
        listening: From ``reserved``.
    """

    class Handler(_Handler):
        run = state
        turn = threading.Lock()  # one look at the folder at a time, however many pages are open

    server = _Server(listening.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    thread = threading.Thread(target=server.serve_forever, name="clora page", daemon=True)
    thread.start()
    try:
        yield url_of(listening)
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that left."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    run: RunState
    turn: threading.Lock
    timeout = 30  # seconds: a client that says nothing keeps no thread

    def do_GET(self) -> None:
        """Answer with the page, or with the run's state as JSON."""
        if not names_this_machine(self.headers.get("host", "")):
            self._answer(403, "text/plain", "ask 127.0.0.1 or localhost\n")
        elif self.path == "/":
            self._answer(200, "text/html", resources.files(__package__).joinpath("live.html").read_text("utf-8"))
        elif self.path == STATE_PATH:
            self._answer(*self._state())
        else:
            self._answer(404, "text/plain", "there is no such thing\n")

    def _state(self) -> tuple[int, str, str]:
        try:
            with self.turn:
                return 200, "application/json", legible_json(json.dumps(self.run.data(), ensure_ascii=False))
        except CloraError as error:
            return 503, "application/json", json.dumps({"error": str(error)})

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        for name, value in {**_HEADERS, "content-type": f"{kind}; charset=utf-8"}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the terminal is the run's."""
