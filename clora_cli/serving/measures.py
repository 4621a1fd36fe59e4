"""What Prometheus may read (layer L3)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from clora_cli.serving.feed import Feed, Finished
from clora_cli.serving.verdict import Verdict

__all__ = ["Measures"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Measures:
    """Counts of one server.

    Args:
        waiting: Tells how many prompts wait.
        adapters: Tells how many adapters there are.
        stale: Tells whether what is on disk cannot be served.
    """

    def __init__(self, waiting: Callable[[], int], adapters: Callable[[], int], stale: Callable[[], bool]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "clora_requests", "Requests by path and status.", ("path", "status"), registry=registry
        )
        self._chosen = Counter("clora_answers", "Answers by adapter.", ("adapter",), registry=registry)
        self._tokens = Counter("clora_tokens", "Tokens by kind.", ("kind",), registry=registry)
        self._first = Histogram(
            "clora_first_token_seconds", "Until the first part of an answer.", buckets=_SECONDS, registry=registry
        )
        self._wait = Histogram(
            "clora_wait_seconds", "Until a prompt left the line.", buckets=_SECONDS, registry=registry
        )
        self._whole = Histogram("clora_answer_seconds", "Until an answer's end.", buckets=_SECONDS, registry=registry)
        for name, about, told in (
            ("clora_waiting", "Prompts that wait.", waiting),
            ("clora_adapters", "Adapters that are served.", adapters),
            ("clora_stale", "1 if what is on disk cannot be served.", stale),
        ):
            Gauge(name, about, registry=registry).set_function(told)

    def replied(self, path: str, status: int) -> None:
        """Count a reply."""
        self._requests.labels(path, str(status)).inc()

    def answered(self, feed: Feed, verdict: Verdict, end: Finished) -> None:
        """Count an answer."""
        self._chosen.labels(verdict.adapter or "base").inc()
        self._tokens.labels("prompt").inc(end.read)
        self._tokens.labels("answer").inc(end.written)
        self._whole.observe(feed.age)
        for histogram, value in ((self._first, feed.first), (self._wait, feed.begun)):
            if value is not None:
                histogram.observe(value)

    def text(self) -> bytes:
        """Return everything in Prometheus's form."""
        return generate_latest(self._registry)
