"""In front of another server: the choice is made here, the answer is that server's, byte for byte."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest
from routed import give_distribution
from served import running
from support import write_random_adapter

from clora_cli.data import load_task
from clora_cli.store.package import read_package

PROMPT = "the boat was great today"
ODD = b'data: {"odd":  "\xf0\x9f\x98\x80 spacing"}\n\n: a comment\n\ndata: [DONE]\n\n'


class Stub(ThreadingHTTPServer):
    """A server as vLLM, SGLang or neither is; keeps what it was asked."""

    daemon_threads = True

    def __init__(self, kind: str, names=("the-base",)) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kind, self.names, self.asked = kind, list(names), []
        self.load = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}.get(kind, "none")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def paths(self):
        return [path for path, _, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self):
        listed = json.dumps({"data": [{"id": name} for name in self.server.names]}).encode()
        self._reply(200, b"[" * 100_000 if self.server.kind == "garbage" else listed)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, body, dict(self.headers)))
        if self.path == self.server.load and body["lora_name"] in self.server.names:
            self._reply(400, b"has already been loaded")
        elif self.path == self.server.load:
            time.sleep(0.05)
            self.server.names.append(body["lora_name"])
            self._reply(200, b"loaded")
        elif self.path == self.server.load.replace("load", "unload", 1):
            self.server.names.remove(body["lora_name"])
            time.sleep(0.05)
            self._reply(200, b"gone")
        elif not self.path.partition("?")[0].endswith("completions"):
            self._reply(404, b"{}")
        elif body["model"].removeprefix("the-base:") not in self.server.names:
            self._reply(404, b'{"error": {"message": "no such model"}}')
        elif self.server.kind == "endless":
            self._go_on()
        elif self.server.kind == "broken":
            self._break_off("text/event-stream" if body.get("stream") else "application/json")
        elif body.get("stream"):
            self._stream()
        else:
            text = {
                "choices": [{"index": 0, "text": body["model"], "finish_reason": "stop"}],
                "object": "text_completion",
            }
            self._reply(200, json.dumps(text).encode(), {"x-own": "kept"})

    def _stream(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for start in range(0, len(ODD), 7):  # cut anywhere, also inside a letter
            self.wfile.write(ODD[start : start + 7])
            self.wfile.flush()

    def _go_on(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-own", "\u00e9")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b": still here\n\n")
                self.wfile.flush()
                time.sleep(0.1)

    def _break_off(self, kind):
        self.wfile.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        self.wfile.write(b"9\r\ndata: {}\n\r\n")
        self.wfile.flush()
        self.connection.shutdown(2)

    def _reply(self, status, text, headers=()):
        self.send_response(status)
        for name, value in {"content-type": "application/json", **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def stub():
    servers = []

    def start(kind, names=("the-base",)):
        servers.append(server := Stub(kind, names))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(url, model="first", **more):
    return httpx.post(f"{url}/v1/completions", json={"prompt": PROMPT, "model": model, **more}, timeout=30)


def names_of(package):
    return {member.task: f"{member.task}@{member.digest[:12]}" for member in read_package([package])}


@pytest.mark.parametrize("kind", ["vllm", "sglang", "other"])
def test_the_model_is_rewritten_to_what_the_server_has_or_loads(made, serve, stub, kind):
    package, _ = made()
    server = stub(kind, ("the-base", "first", "second") if kind == "other" else ("the-base",))
    url, service = serve(package, upstream=f"{server.url}/v1")
    loaded = names_of(package)
    form = {"vllm": "{1}", "sglang": "the-base:{1}", "other": "{0}"}[kind]
    for model in ("first", "second", "first"):
        answer = ask(url, model, max_tokens=3, logprobs=2)
        assert answer.json()["choices"][0]["text"] == form.format(model, loaded[model])
        assert (answer.headers["x-clora-adapter"], answer.headers["x-own"]) == (model, "kept")
    assert ask(url, "base").json()["choices"][0]["text"] == "the-base"
    auto = ask(url, "auto")
    chosen = auto.headers["x-clora-adapter"]
    assert auto.json()["choices"][0]["text"] == form.format(chosen, loaded[chosen])
    path, body, _ = server.asked[-1]
    assert (path, body["prompt"]) == ("/v1/completions", PROMPT)
    assert {"max_tokens": 3, "logprobs": 2}.items() <= next(b for p, b, _ in server.asked if p == path).items()
    loads = [body for path, body, _ in server.asked if path == server.load]
    assert [one["lora_name"] for one in loads] == ([] if kind == "other" else [loaded["first"], loaded["second"]])
    assert ask(url, ["first", "second"]).status_code == 400
    assert auto.headers["x-clora-version"] == service.held.version


def test_a_requests_query_string_is_passed_on_as_it_is(made, serve, stub):
    server = stub("vllm")
    url, _ = serve(made()[0], upstream=server.url)
    query = "?api-version=2024-10-21&x=%2B+a%20b&x=&empty"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", default_query={"api-version": "2024-10-21"})
    client.completions.create(model="first", prompt=PROMPT)
    httpx.post(f"{url}/v1/completions{query}", json={"prompt": PROMPT, "model": "first"}).raise_for_status()
    asked = [path for path in server.paths() if path.startswith("/v1/completions")]
    assert asked == ["/v1/completions?api-version=2024-10-21", f"/v1/completions{query}"]


def test_a_stream_comes_back_byte_for_byte(made, serve, stub):
    url, _ = serve(made()[0], upstream=stub("vllm").url)
    messages = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    body = {"messages": messages, "stream": True, "tools": [{"type": "function", "function": {"name": "f"}}]}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        assert answer.read() == ODD
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-clora-adapter"] in {"first", "second"}


def test_a_replaced_adapter_is_another_model_there_and_a_removed_one_is_unloaded(made, serve, stub, tasks):
    package, base = made()
    server = stub("vllm")
    url, _ = serve(package, upstream=server.url)
    former = ask(url).json()["choices"][0]["text"]
    shutil.rmtree(package / "first")
    folder = write_random_adapter(package / "first", base, stage=1, factor=2.0).path
    give_distribution(folder, base, load_task(str(tasks["first"])).train, data="first", second="full")
    later = ask(url).json()["choices"][0]["text"]
    assert former != later == names_of(package)["first"]
    assert former not in server.names and later in server.names
    shutil.rmtree(folder)
    assert ask(url).status_code == 404
    ask(url, "second").raise_for_status()
    assert later not in server.names


def test_a_server_that_was_started_again_gets_its_adapters_again(made, serve, stub):
    server = stub("vllm")
    url, _ = serve(made()[0], upstream=server.url)
    first = ask(url).json()
    server.names[:] = ["the-base"]
    assert ask(url).json() == first
    assert server.paths().count("/v1/load_lora_adapter") == 2


def test_what_goes_wrong_there_is_told(made, serve, stub):
    package, _ = made()
    url, _ = serve(package, upstream=stub("other").url)
    refused = ask(url)
    assert refused.status_code == 502 and "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in refused.json()["error"]["message"]
    with pytest.raises(openai.InternalServerError), running(package, [], upstream="http://127.0.0.1:9") as (dead, _):
        openai.OpenAI(base_url=f"{dead}/v1", api_key="k", max_retries=0).completions.create(model="base", prompt="a")


def test_a_stream_that_breaks_off_there_ends_with_an_error_here(made, serve, stub):
    log = []
    url, _ = serve(made()[0], log, upstream=stub("broken", ("the-base", "first", "second")).url)
    with httpx.stream(
        "POST", f"{url}/v1/completions", json={"prompt": PROMPT, "model": "first", "stream": True}
    ) as answer:
        begun, _, told = answer.read().partition(b"\n\n\n")
    assert begun == b"data: {}"
    assert "broke its answer off" in json.loads(told.removeprefix(b"data: "))["error"]["message"]
    with pytest.raises(httpx.RemoteProtocolError):
        ask(url)
    assert [(entry["status"], entry["code"]) for entry in log if entry["event"] == "failed"] == [(502, "upstream")] * 2
    assert ask(url, "nobody").status_code == 404


def test_many_who_ask_at_once_load_and_unload_an_adapter_once(made, serve, stub):
    package, _ = made()
    server = stub("vllm")
    url, _ = serve(package, upstream=server.url)
    with ThreadPoolExecutor(8) as clients:
        assert {answer.status_code for answer in clients.map(lambda _: ask(url), range(8))} == {200}
        ask(url, "second").raise_for_status()
        shutil.rmtree(package / "first")
        assert {answer.status_code for answer in clients.map(lambda _: ask(url, "second"), range(8))} == {200}
    paths = server.paths()
    assert (paths.count("/v1/load_lora_adapter"), paths.count("/v1/unload_lora_adapter")) == (2, 1)


def test_garbage_and_an_answer_without_an_end_are_told(made, serve, stub):
    package, log = made()[0], []
    url, _ = serve(package, upstream=stub("garbage").url)
    assert "does not list its models" in ask(url).json()["error"]["message"]
    url, _ = serve(package, log, upstream=stub("endless", ("the-base", "first")).url, timeout=1.0)
    body = {"prompt": PROMPT, "model": "first", "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
        assert "takes too long" in answer.read().decode().splitlines()[-2]
        assert dict(answer.headers.raw)[b"x-own"] == b"\xe9"
    assert [(entry["status"], entry["code"]) for entry in log if entry["event"] == "failed"] == [(504, "upstream")]


def test_keys_of_clients_stay_here_and_the_servers_own_is_sent(made, serve, stub, tmp_path):
    package, _ = made()
    (tmp_path / "mine").write_text("mine\n")
    (tmp_path / "theirs").write_text("theirs\n")
    server = stub("vllm")
    url, _ = serve(package, upstream=server.url, api_key_file=tmp_path / "mine", upstream_key_file=tmp_path / "theirs")
    body = {"prompt": PROMPT, "model": "first"}
    httpx.post(f"{url}/v1/completions", json=body, headers={"authorization": "Bearer mine"}).raise_for_status()
    url, _ = serve(package, upstream=server.url, api_key_file=tmp_path / "mine")
    httpx.post(f"{url}/v1/completions", json=body, headers={"authorization": "Bearer mine"}).raise_for_status()
    sent = [headers.get("authorization") for path, _, headers in server.asked if path == "/v1/completions"]
    assert sent == ["Bearer theirs", None]
