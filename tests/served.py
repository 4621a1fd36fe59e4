"""Prompts and listeners for tests of serving."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clora_cli.base.addresses import url_of
from clora_cli.base.errors import CloraError
from clora_cli.data import Example
from clora_cli.options import ServeOptions
from clora_cli.routing.inputs import Input
from clora_cli.serving import server
from clora_cli.serving.asked import Asked, Decoding
from clora_cli.serving.gate import read_keys
from clora_cli.serving.service import Service
from clora_cli.serving.verdict import Verdict


class Heard:
    """Keeps what a listener is told."""

    def __init__(self, after: int = -1) -> None:
        self.verdict: Verdict | None = None
        self.parts: list[str] = []
        self.reason, self.tokens = "", (0, 0)
        self.error: CloraError | None = None
        self.after = after

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def decided(self, verdict: Verdict) -> None:
        assert self.verdict is None
        self.verdict = verdict

    def said(self, text: str) -> None:
        self.parts.append(text)

    def finished(self, reason: str, tokens: tuple[int, int]) -> None:
        assert not self.reason
        self.reason, self.tokens = reason, tokens

    def failed(self, error: CloraError) -> None:
        assert self.error is None
        self.error = error

    def wanted(self) -> bool:
        return self.after < 0 or len(self.parts) < self.after


def asked(
    prompt: str | Example,
    model: Any = "auto",
    *,
    tokens: int = 6,
    only_route: bool = False,
    eager: bool = False,
    heard: Heard | None = None,
    **decoding: Any,
) -> Asked:
    """Return a prompt to be answered, whose listener keeps what it hears."""
    example = Example("", prompt, "", ()) if isinstance(prompt, str) else prompt
    one = Input(example, {}, "the request")
    how = None if only_route else Decoding(tokens, **decoding)
    return Asked(one, model, how, heard or Heard(), eager)


def answered(service: Service, batch: Sequence[Asked]) -> list[Any]:
    """Answer a batch; return what the listeners heard."""
    service.answer(batch)
    return [one.listener for one in batch]


def service_of(package: Path, **options: Any) -> Service:
    """Return a service on the CPU."""
    return Service([package], ServeOptions(device="cpu", **options))


@contextlib.contextmanager
def running(package: Path, log: list[Any], **options: Any) -> Iterator[tuple[str, Service]]:
    """Serve a package in threads of this process."""
    chosen = ServeOptions(device="cpu", port=0, **options)
    listening = server.bound_for(chosen)
    service = Service([package], chosen, log=log.append)
    begun, stops = threading.Event(), []

    def ready(stop: Callable[[], None]) -> None:
        stops.append(stop)
        begun.set()

    thread = threading.Thread(
        target=server.serve, args=(service, chosen, read_keys(chosen), listening, log.append, ready)
    )
    thread.start()
    try:
        assert begun.wait(30)
        yield url_of(listening), service
    finally:
        for stop in stops:
            stop()
        thread.join(30)
        listening.close()
    assert not thread.is_alive()
