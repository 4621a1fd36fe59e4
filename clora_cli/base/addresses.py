"""Where a server of this machine is found, and by whom (layer L0)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from urllib.parse import urlsplit

from clora_cli.base.errors import OptionError

__all__ = ["bound", "is_loopback", "listen", "names_this_machine", "url_of"]


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def names_this_machine(header: str) -> bool:
    """Tell whether a request's ``Host`` header names this machine: pages of other sites reach a server by names of their own."""
    with contextlib.suppress(ValueError):
        return is_loopback(urlsplit(f"//{header}").hostname or "")
    return False


def bound(host: str, port: int, flags: str) -> socket.socket:
    """Return a socket at an address, on which nobody listens yet.

    Args:
        host: A name or an address of this machine.
        port: 0 for a free one.
        flags: How the command line spells the two, for the message.

    Raises:
        OptionError: If the address is taken, or not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(socket.socket(family, kind))
            # A server that was killed can start again at once; one that is still at work is found, here or by `listen`.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            stack.pop_all()
            return found
    except (OSError, UnicodeError) as error:
        raise _unavailable(flags, error) from error


def listen(found: socket.socket, backlog: int, flags: str) -> None:
    """Take connections from now on; a socket that cannot is closed.

    Raises:
        OptionError: If another process came first.
    """
    try:
        found.listen(backlog)
    except OSError as error:
        found.close()
        raise _unavailable(flags, error) from error


def url_of(found: socket.socket) -> str:
    """Return where a server is found."""
    host, port = found.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _unavailable(flags: str, error: OSError | UnicodeError) -> OptionError:
    why = getattr(error, "strerror", None) or error
    return OptionError(
        f"cannot listen on {flags}: {why}; choose another, or --port 0 for a free one", code="address-unavailable"
    )
