"""clora serve as a process: it starts, ends and starts again; what is wrong is one line."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from support import one_line

from clora_cli.processes import signals


@contextlib.contextmanager
def launched(*arguments):
    command = [sys.executable, "-m", "clora_cli", "serve", *map(str, arguments), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    giving_up = threading.Timer(240, process.kill)
    giving_up.start()
    try:
        yield process
    finally:
        giving_up.cancel()
        process.kill()
        process.communicate()


def url_in(process):
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return json.loads(line)["url"]


BODY = {"prompt": "a quiet film", "model": "first", "max_tokens": 4}
ENDLESS = {**BODY, "max_tokens": 1_000_000, "stop": ["never said"], "stream": True}


def asked(url, **more):
    return httpx.post(f"{url}/v1/completions", json={**BODY, **more}).json()["choices"]


@contextlib.contextmanager
def streaming(url):
    """Yield the parts of an answer without an end, of which the first has come."""
    with httpx.stream("POST", f"{url}/v1/completions", json=ENDLESS, timeout=60) as response:
        parts = response.iter_raw()
        next(parts)
        yield parts


def test_a_server_that_is_killed_starts_again_at_its_port_and_a_second_signal_ends_it_at_once(package):
    with launched(package, "--port", 0, "--json") as process:
        url = url_in(process)
        first = asked(url)
        process.send_signal(signal.SIGKILL)
    with launched(package, "--port", url.rpartition(":")[2], "--json") as process:
        assert url_in(process) == url
        assert asked(url) == first
        with streaming(url) as parts:
            process.send_signal(signal.SIGTERM)
            time.sleep(signals.ONE + 0.2)  # what comes sooner is the same signal, passed on
            assert next(parts) and process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            assert process.returncode == 143  # the first one's
    assert out == ""
    lines = err.splitlines()
    assert "model auto is not served" in lines[0] and lines[1].startswith("serving 2 adapters of ")
    answered, stopping = [json.loads(line) for line in lines[2:]]
    assert (answered["event"], answered["adapter"], answered["answer_tokens"]) == ("answered", "first", 4)
    assert stopping["event"] == "stopping" and "another signal" in stopping["message"]


def test_a_dry_run_checks_everything_and_serves_nothing(clora, package):
    result = clora("serve", package, "--port", 0, "--device", "cpu", "--dry-run", "--json")
    assert result.code == 0, result.err
    plan = json.loads(result.out)
    assert (plan["schema"], plan["adapters"]) == ("clora.plan/1", ["first", "second"])


def test_mistakes_are_one_line(clora, package, tmp_path):
    (tmp_path / "empty").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [
            (("--port", port), "address-unavailable", 2),
            (("--nproc", 2), "option-has-no-effect", 2),
            (("--port", 70000), "option-out-of-range", 2),
            (("--api-key-file", tmp_path / "none"), "key-file-unreadable", 2),
            (("--api-key-file", tmp_path / "empty"), "key-file-malformed", 2),
            (("--upstream", "localhost"), "option-malformed", 2),
            *(
                (("--upstream", f"http://{odd}"), "option-malformed", 2)
                for odd in ("", "[::1", "a:b", "a?x=1", "a#b", "a b")
            ),
            (("--upstream-base", "m"), "option-missing", 2),
            (("--combine", "sum", "--upstream", "http://127.0.0.1:9"), "option-has-no-effect", 2),
            (("--combine", "sum", "--top-k", 2), "option-has-no-effect", 2),
        ]
        for options, error, code in cases:
            result = clora("serve", package, "--device", "cpu", *options)
            assert (result.error, result.code) == (error, code), result.err
            one_line(result)
    (package / "first" / "adapter_model.safetensors").write_bytes(b"damaged")
    result = clora("serve", package, "--port", 0, "--device", "cpu")
    assert result.code == 3
    assert "first" in one_line(result)


def test_without_the_extra_the_error_names_it(clora, package, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "fastapi" else real(name, *rest)
    )
    result = clora("serve", package)
    assert (result.code, result.error) == (2, "serving-unavailable")
    assert "pip install 'clora-cli[serve]'" in one_line(result)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_needs_no_key(clora, package, host):
    result = clora("serve", package, "--host", host, "--port", 0, "--device", "cpu", "--dry-run")
    assert "warning" not in result.err
