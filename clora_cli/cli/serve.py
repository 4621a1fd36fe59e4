"""``clora serve`` (layer L4)."""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clora_cli.base.addresses import is_loopback, url_of
from clora_cli.base.errors import OptionError
from clora_cli.cli._declared import takes_declared
from clora_cli.cli._options import ConfigOption, DryRunOption, JsonOption, QuietOption, form
from clora_cli.cli._output import Form, Terminal, emit, json_line, tell
from clora_cli.options import ServeOptions

if TYPE_CHECKING:
    from clora_cli.serving.service import Service

__all__ = ["serve"]

_LIBRARIES = ("fastapi", "uvicorn", "httpx", "prometheus_client")


@takes_declared
def serve(
    package: Annotated[
        list[Path], typer.Argument(help="A package, an adapter folder, or several.", show_default=False)
    ],
    options: ServeOptions,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer requests in OpenAI's form, each by the adapters that it names or that its prompt chooses.

    Prints where it listens, then one JSON line for each request on stderr. A task that is trained, removed or replaced on disk is
    taken up without a restart, whole or not at all. /v1/completions, /v1/chat/completions, /v1/models, /v1/route, /health,
    /metrics, and a page to try it at /.

    Example: clora serve adapters --port 8000 --abstain 0.05
    """
    output = form(json, quiet)
    _check_libraries()
    from clora_cli.serving import server
    from clora_cli.serving.gate import read_keys
    from clora_cli.serving.service import Service

    keys, log = read_keys(options), _log(output)
    terminal, listening = Terminal(output), server.bound_for(options)
    with listening:
        for path in keys.exposed:
            terminal.warn(f"{path}: other users of this machine can read these keys; chmod 600 {path}")
        if not is_loopback(options.host) and not keys.clients:
            terminal.warn(f"--host {options.host} lets other machines ask without a key; pass --api-key-file")
        service = Service(package, options, terminal, log)
        url = url_of(listening)
        if dry_run:
            text = f"would serve {_told(service)} at {url}"
            emit(output, text=text, data={"schema": "clora.plan/1", **_facts(service, url)}, brief=text)
            return
        if service.held.unrouted:
            terminal.warn(f"model auto is not served: {service.held.unrouted}")
        terminal.note(f"serving {_told(service)}")
        text = f"listening on {url}"
        data = {"schema": "clora.serve/1", **_facts(service, url)}
        server.serve(service, options, keys, listening, log, lambda stop: emit(output, text=text, data=data, brief=url))


def _check_libraries() -> None:
    if lacking := [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]:
        raise OptionError(
            f"clora serve needs {', '.join(lacking)}: pip install 'clora-cli[serve]'", code="serving-unavailable"
        )


def _told(service: Service) -> str:
    count = len(service.held.names)
    return f"{count} adapter{'s' * (count != 1)} of {service.base}, version {service.held.version}"


def _facts(service: Service, url: str) -> dict[str, Any]:
    held = service.held
    return {"url": url, "base_model": service.base, "adapters": held.names, "version": held.version}


def _log(output: Form) -> Any:
    def write(entry: Mapping[str, Any]) -> None:
        if output is not Form.QUIET:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
            tell(json_line({"time": now, **entry}))

    return write
