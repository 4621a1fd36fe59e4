"""Options of serving (layer L1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from clora_cli.base.errors import OptionError
from clora_cli.base.options import option
from clora_cli.options.route_options import RouteChoices
from clora_cli.options.shared_options import LENGTHS, ROWS

__all__ = ["ServeOptions"]

_PORTS = (1 << 16) - 1
_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class ServeOptions(RouteChoices):
    """How ``clora serve`` answers, where it listens, and what it allows."""

    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.", interval="[0, inf)", most=_PORTS)
    combine: str = option(
        "route",
        "What the model named auto is: route lets each prompt choose among the adapters, sum adds all, last takes the last.",
        choices=("route", "sum", "last"),
    )
    upstream: str | None = option(
        None,
        "Choose only, and pass requests on to this OpenAI-style server, such as http://127.0.0.1:8001.",
        metavar="URL",
    )
    upstream_key_file: Path | None = option(None, "File whose first line is the API key of --upstream.")
    upstream_base: str | None = option(
        None, "What --upstream calls the base model; the first model that it lists by default."
    )
    api_key_file: Path | None = option(None, "File of the API keys that clients may use, one a line; none by default.")
    batch_size: int = option(
        32, "Prompts of one forward pass.", flags=("-b", "--batch-size"), interval="[1, inf)", most=ROWS
    )
    max_length: int = option(2048, "Tokens of a prompt; longer ones are refused.", interval="[1, inf)", most=LENGTHS)
    max_new_tokens: int = option(
        256, "Tokens of an answer, if the request does not say.", interval="[1, inf)", most=LENGTHS
    )
    queue: int = option(
        256, "Requests that may wait; further ones are told to come back (429).", interval="[1, inf)", most=ROWS
    )
    timeout: float = option(120.0, "Seconds that a request may take.", interval="(0, inf)", most=_DAY)
    max_body: int = option(1 << 20, "Bytes of a request.", interval="[1, inf)", most=1 << 30)
    log_prompts: bool = option(False, "Write prompts and answers into the log, too.")

    def check(self) -> None:
        """Refuse options that exclude each other.

        Raises:
            OptionError: If routing is chosen although prompts are not routed, or something about no upstream server.
        """
        super().check()
        if self.nproc != 1:
            raise OptionError(
                f"--nproc {self.nproc}: a server is one process; start several at ports of their own",
                code="option-has-no-effect",
            )
        if self.route and self.combine != "route":
            raise OptionError(
                f"--combine {self.combine} does not route: leave the options of routing out",
                code="option-has-no-effect",
            )
        if self.upstream and self.combine == "sum":
            raise OptionError(
                "--combine sum adds adapters up, and --upstream answers with one at a time; leave one of them out",
                code="option-has-no-effect",
            )
        if self.upstream is None and (self.upstream_key_file or self.upstream_base):
            flag = "--upstream-key-file" if self.upstream_key_file else "--upstream-base"
            raise OptionError(f"{flag} is about another server: pass --upstream too", code="option-missing")
        if self.upstream and not _is_server(self.upstream):
            raise OptionError(
                f"--upstream {self.upstream}: give a URL that begins with http:// or https://, names a host, and has no ? or #",
                code="option-malformed",
            )


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or half an IPv6 address
        return False
    return known and not set("?# \t\r\n") & set(url)
