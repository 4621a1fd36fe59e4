"""What serving costs: choosing among adapters, requests a second, the first token, memory over many requests.

- ``choose``: seconds to choose among 15, 1,000 and 10,000 adapters, beside the features: similarities, weights, and what the answer's
  headers tell. Random distributions of SmolLM2's shape, whose last layer decides.
- ``throughput``: requests a second of ``clora serve``, ``base`` and ``auto``, beside ``transformers serve`` on the same model, from
  ``--clients`` clients at once; in turns, so that a busy machine slows all alike. Processor seconds beside those of the clock.
- ``first``: seconds until the first token of a stream, ``auto`` over a named adapter, in turns; all layers decide, or one of the first.
- ``memory``: resident memory of a server of the bundled model over ``--requests`` requests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import torch

from clora_cli.algebra.statistics import Moments
from clora_cli.data import Example
from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.nano import MODEL_NAME
from clora_cli.options import RouteOptions
from clora_cli.routing.inputs import Input
from clora_cli.routing.weights import Routing
from clora_cli.serving.chooser import Chooser

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from routed import give_distribution
from support import write_random_adapter

_PORT = 8731
_WORDS = ("boat", "film", "lunch", "book", "song", "lamp", "river", "market", "engine", "letter", "garden", "winter")


def choose(arguments: argparse.Namespace) -> None:
    """Print the time to choose."""
    shapes = {"model.layers.29.self_attn.q_proj": 576, "model.layers.29.self_attn.v_proj": 192}
    print(
        "| adapters | router | one prompt, processor ms | in a batch of 16, processor ms a prompt |\n|---:|---|---:|---:|"
    )
    for count in (15, 1_000, 10_000):
        for router, second in (("l2", False), ("mahalanobis", True)):
            routing = Routing(_moments(count, shapes, second), list(shapes), RouteOptions(similarity=router, top_k=1))
            chooser = Chooser(routing, 0, [f"task{number}" for number in range(count)], "0")
            times = []
            for rows in (1, 16):
                features = {site: torch.randn(rows, width) for site, width in shapes.items()}
                inputs = [Input(Example("", "a", "", ()), {}, "") for _ in range(rows)]
                times.append(_median(lambda c=chooser, f=features, i=inputs: c.among(f, i)) / rows * 1e3)
            print(f"| {count:,} | {router} | {times[0]:.2f} | {times[1]:.2f} |", flush=True)


def _moments(count: int, shapes: dict[str, int], second: bool) -> Iterator[dict[str, Moments]]:
    source = torch.Generator().manual_seed(0)
    shared = {site: torch.eye(width, dtype=torch.float64) * 50 for site, width in shapes.items()}
    for _ in range(count):
        means = {site: torch.randn(width, generator=source, dtype=torch.float64) for site, width in shapes.items()}
        yield {site: Moments(50, mean, shared[site] if second else None) for site, mean in means.items()}


def _median(run: Callable[[], object], turns: int = 15) -> float:
    times = []
    for _ in range(turns):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return median(times)


def throughput(arguments: argparse.Namespace) -> None:
    """Print requests a second."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        package = arguments.package or _package(Path(folder), arguments.model, arguments.adapters)
        ours = stack.enter_context(_clora(package, _PORT, "--batch-size", arguments.clients))
        plain = stack.enter_context(_transformers(arguments.model, _PORT + 1))
        ways = {"clora serve, base": (ours, "base"), "clora serve, auto": (ours, "auto")}
        ways |= {"transformers serve": (plain, arguments.model)}
        clock: dict[str, list[float]] = {name: [] for name in ways}
        processor: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(arguments.turns + 1):
            for name, (server, model) in ways.items():
                seconds, used = _load(server, model, arguments)
                if turn:  # the first warms up
                    clock[name].append(arguments.requests / seconds)
                    processor[name].append(arguments.requests / used)
        _compared("transformers serve", clock, processor)


def _compared(plain: str, clock: dict[str, list[float]], processor: dict[str, list[float]]) -> None:
    print("| server | requests a second | x | requests a processor second | x |\n|---|---:|---:|---:|---:|")
    for name, rates in clock.items():
        ratios = [median(a / b for a, b in zip(one[name], one[plain], strict=True)) for one in (clock, processor)]
        print(f"| {name} | {median(rates):.2f} | {ratios[0]:.2f} | {median(processor[name]):.2f} | {ratios[1]:.2f} |")


def _load(server: _Server, model: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds that some requests take from several clients at once, and the server's processor seconds."""
    body = {"model": model, "max_tokens": arguments.tokens, "temperature": 0}

    def ask(number: int) -> None:
        messages = [{"role": "user", "content": _prompt(number, 30)}]
        with httpx.Client(timeout=600) as client:
            client.post(f"{server.url}/v1/chat/completions", json={**body, "messages": messages}).raise_for_status()

    start, used = time.perf_counter(), server.processor
    with ThreadPoolExecutor(arguments.clients) as pool:
        list(pool.map(ask, range(arguments.requests)))
    return time.perf_counter() - start, server.processor - used


def first(arguments: argparse.Namespace) -> None:
    """Print the seconds until the first token."""
    print("| what decides | words | named, ms | auto, ms | x |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        package = arguments.package or _package(Path(folder), arguments.model, arguments.adapters)
        for layer in arguments.deciding:
            told = layer if layer in {"all", "middle"} else f"layer {layer}"
            with _clora(package, _PORT, "--route-layer", layer) as server:
                for words in arguments.words:
                    pairs = [
                        (_first(server, "task0", turn, words), _first(server, "auto", turn, words))
                        for turn in range(arguments.turns)
                    ]
                    ratio = median(auto / named for named, auto in pairs[1:])
                    named, auto = (median(one) * 1e3 for one in zip(*pairs[1:], strict=True))
                    print(f"| {told} | {words} | {named:.0f} | {auto:.0f} | {ratio:.2f} |", flush=True)


def _first(server: _Server, model: str, turn: int, words: int) -> float:
    body = {"model": model, "prompt": _prompt(turn, words), "max_tokens": 4, "stream": True}
    start, before, seconds = time.perf_counter(), server.processor, 0.0
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=600) as answer:
        for line in answer.iter_lines():
            if not seconds and line.startswith("data: {") and json.loads(line[6:])["choices"][0]["text"]:
                seconds = server.processor - before if _BY_PROCESSOR else time.perf_counter() - start
    if not seconds:
        raise SystemExit("an answer has no text: choose other --words")
    return seconds


def memory(arguments: argparse.Namespace) -> None:
    """Print resident memory."""
    print("| requests | resident, MiB | seconds |\n|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        package = _package(Path(folder), MODEL_NAME, 3)
        with _clora(package, _PORT, "--batch-size", 8) as server:
            done, start = 0, time.perf_counter()
            marks = [arguments.requests * part // 10 for part in (1, 2, 4, 6, 8, 10)]
            with ThreadPoolExecutor(8) as pool:
                for mark in marks:
                    list(pool.map(lambda number: _any_request(server, number), range(done, mark)))
                    done = mark
                    print(f"| {done:,} | {server.resident:.0f} | {time.perf_counter() - start:.0f} |", flush=True)


_LOCAL = threading.local()


def _any_request(server: _Server, number: int) -> None:
    if not hasattr(_LOCAL, "client"):
        _LOCAL.client = httpx.Client(timeout=600)
    body: dict[str, Any] = {"prompt": _prompt(number, 5 + number % 30), "model": ("auto", "base", "task1")[number % 3]}
    body |= {"max_tokens": 1 + number % 8, "stream": number % 2 == 0}
    if number % 10 == 9:
        body = {"prompt": 3}  # what is refused must not stay either
    path = "route" if number % 10 == 8 else "completions"
    if path == "route":
        body = {"prompt": body["prompt"]}
    _LOCAL.client.post(f"{server.url}/v1/{path}", json=body)


def _prompt(number: int, words: int) -> str:
    return " ".join(_WORDS[(number * 7 + place * (1 + number % 5)) % len(_WORDS)] for place in range(words))


def _package(folder: Path, model: str, count: int) -> Path:
    """Write random adapters, each with a distribution of prompts of its own."""
    backbone = load_backbone(find_model(model), device=torch.device("cpu"))
    for number in range(count):
        write_random_adapter(folder / "adapters" / f"task{number}", backbone, stage=number + 1, rank=8, factor=0.1)
        rows = [Example("", f"{_WORDS[number % len(_WORDS)]} {_prompt(place, 12)}", "", ()) for place in range(16)]
        give_distribution(folder / "adapters" / f"task{number}", backbone, rows, data=f"task{number}")
    return folder / "adapters"


class _Server:
    """A process that serves."""

    def __init__(self, command: list[str], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self._process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{self.url}/health", timeout=5)
                return
            time.sleep(0.3)
        raise SystemExit(f"{' '.join(command)} ended with {self._process.returncode}")

    @property
    def processor(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="utf-8").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextlib.contextmanager
def _served(command: list[str], port: int) -> Iterator[_Server]:
    server = _Server(command, port)
    try:
        yield server
    finally:
        server.close()


def _clora(package: Path, port: int, *options: object) -> contextlib.AbstractContextManager[_Server]:
    command = [sys.executable, "-m", "clora_cli", "serve", str(package), "--port", str(port), "--device", "cpu", "-q"]
    return _served([*command, *map(str, options)], port)


def _transformers(model: str, port: int) -> contextlib.AbstractContextManager[_Server]:
    command = ["transformers", "serve", model, "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    return _served([*command, "--log-level", "error"], port)


def main() -> None:
    """Run one of the four."""
    global _BY_PROCESSOR  # noqa: PLW0603 - one switch of a script
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "throughput", "first", "memory"))
    parser.add_argument("--model", default=MODEL_NAME, help="a Transformers folder; the bundled one by default")
    parser.add_argument("--adapters", type=int, default=5)
    parser.add_argument(
        "--package", type=Path, help="a package of task0, task1 …, made by an earlier run; made anew by default"
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--words", type=int, nargs="+", default=[60], help="first: words of a prompt")
    parser.add_argument("--deciding", nargs="+", default=["all", "middle", "3"], help="first: layers that decide")
    parser.add_argument("--processor", action="store_true", help="first: the server's processor seconds instead")
    arguments = parser.parse_args()
    _BY_PROCESSOR = arguments.processor
    torch.set_num_threads(1)
    {"choose": choose, "throughput": throughput, "first": first, "memory": memory}[arguments.what](arguments)


_BY_PROCESSOR = False

if __name__ == "__main__":
    main()
