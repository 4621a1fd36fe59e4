"""Over HTTP, with the clients that people use: answers, streams, refusals, limits, and a package that changes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from refusals import refused
from routed import give_distribution
from served import answered, asked, running, service_of
from starlette.requests import Request
from support import write_random_adapter

from clora_cli.base.addresses import listen
from clora_cli.data import load_task
from clora_cli.options import ServeOptions
from clora_cli.serving import lingering, server, stopping
from clora_cli.serving.gate import Gate, read_keys
from clora_cli.serving.verdict import Verdict

PROMPTS = ("the boat was great today", "a quiet film", "our lunch seemed so so in the end", "this long book")
JSON = {"content-type": "application/json"}


def client_of(url, **more):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, **more)


def direct(package, prompt, model, tokens=6):
    """Return an answer without HTTP."""
    return answered(service_of(package), [asked(prompt, model, tokens=tokens)])[0]


def error_of(response):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    return error


def test_openai_clients_get_answers_models_and_who_answered(made, serve):
    package, _ = made()
    url, service = serve(package)
    client = client_of(url)
    assert [model.id for model in client.models.list()] == ["auto", "llama-0", "first", "second"]
    assert [client.models.retrieve(name).id for name in ("auto", "first", "base:first")] == [
        "auto",
        "first",
        "base:first",
    ]
    raw = client.completions.with_raw_response.create(model="auto", prompt=PROMPTS[0], max_tokens=6)
    expected = direct(package, PROMPTS[0], "auto")
    found = raw.parse()
    assert found.choices[0].text == expected.text
    assert found.choices[0].finish_reason == "length" and found.usage.completion_tokens == 6
    assert raw.headers["x-clora-adapter"] == expected.verdict.adapter == found.clora["adapter"]
    assert float(raw.headers["x-clora-confidence"]) == pytest.approx(expected.verdict.confidence, abs=1e-5)
    assert raw.headers["x-clora-version"] == service.held.version
    assert "mahalanobis" in raw.headers["x-clora-reason"]
    for model in ("base", "first", "llama-0:second"):
        text = client.completions.create(model=model, prompt=PROMPTS[1], max_tokens=6).choices[0].text
        assert text == direct(package, PROMPTS[1], model).text
    mixed = ["first", {"name": "second", "scale": 0.5}]
    text = client.completions.create(model=mixed, prompt=PROMPTS[1], max_tokens=6).choices[0].text
    assert text == direct(package, PROMPTS[1], mixed).text


def test_streams_add_up_to_the_whole_answer(made, serve):
    url, _ = serve(made()[0])
    client = client_of(url)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": PROMPTS[0]}]
    whole = client.chat.completions.create(model="first", messages=messages, max_completion_tokens=20)
    parts = list(
        client.chat.completions.create(
            model="first", messages=messages, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
    )
    said = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert "".join(said) == whole.choices[0].message.content and sum(map(bool, said)) > 5
    assert parts[0].clora["adapter"] == "first"
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert parts[-1].usage == whole.usage
    plain = client.completions.create(model="first", prompt=PROMPTS[0], max_tokens=20, stream=True)
    text = "".join(part.choices[0].text for part in plain)
    assert text == client.completions.create(model="first", prompt=PROMPTS[0], max_tokens=20).choices[0].text


def test_route_tells_weights_as_the_command_does(made, serve, tasks):
    package, _ = made()
    url, _ = serve(package)
    rows = load_task(str(tasks["second"])).test
    found = [
        httpx.post(f"{url}/v1/route", json={"prompt": row.prompt, "per_site": True}).raise_for_status().json()
        for row in rows[:3]
    ]
    from clora_cli.options import RouteSettings
    from clora_cli.routing.dispatch import Dispatcher
    from clora_cli.routing.inputs import inputs_of_task
    from clora_cli.routing.route_settings import route_options
    from clora_cli.store.package import read_package

    members = read_package([package])
    dispatcher = Dispatcher(members, route_options(members, {}, top_k=0), RouteSettings(device="cpu"))
    dispatcher.start()
    (decided,) = dispatcher.decide(inputs_of_task(load_task(str(tasks["second"])), "test", 3))
    for row, one in enumerate(found):
        weights = dict(zip(dispatcher.names, decided.weights[row].tolist(), strict=True))
        assert one["weights"] == {name: pytest.approx(weights[name], abs=1e-5) for name in one["weights"]}
        assert one["adapter"] == dispatcher.names[decided.chosen[row]]
        assert set(one["sites"]) == set(decided.sites)
    chat = httpx.post(f"{url}/v1/route", json={"messages": [{"role": "user", "content": PROMPTS[0]}]}).json()
    assert "sites" not in chat and chat["adapter"] in {"first", "second"}


def test_fifty_clients_at_once_get_each_their_own(made, serve):
    package, _ = made()
    service = service_of(package)
    url, _ = serve(package, batch_size=16)
    models = ("auto", "first", "second", "base")
    wanted = [(f"{PROMPTS[number % 4]} {number}", models[number // 2 % 4], 3 + number % 7) for number in range(50)]
    expected = answered(service, [asked(prompt, model, tokens=tokens) for prompt, model, tokens in wanted])

    def ask(one):
        prompt, model, tokens = one
        client = client_of(url)
        if tokens % 2:
            return client.completions.create(model=model, prompt=prompt, max_tokens=tokens).choices[0].text
        stream = client.completions.create(model=model, prompt=prompt, max_tokens=tokens, stream=True)
        return "".join(part.choices[0].text for part in stream)

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(ask, wanted)) == [one.text for one in expected]


def test_a_task_that_lands_while_serving_answers_the_next_request(made, serve, tasks):
    package, base = made()
    url, _ = serve(package)
    failures, over = [], threading.Event()

    def keep_asking(stream):
        body = {"prompt": PROMPTS[0], "model": "first", "max_tokens": 2, "stream": stream}
        while not over.is_set():
            response = httpx.post(f"{url}/v1/completions", json=body)
            if response.status_code != 200 or stream != response.text.endswith("[DONE]\n\n"):
                failures.append(response.text)

    asking = [threading.Thread(target=keep_asking, args=(stream,)) for stream in (False, True)]
    for one in asking:
        one.start()
    before = httpx.get(f"{url}/v1/models").headers["x-clora-version"]
    third = load_task(str(tasks["third"]))
    folder = write_random_adapter(package / "third", base, stage=3).path
    give_distribution(folder, base, third.train, data="third", second="full")
    response = httpx.post(f"{url}/v1/completions", json={"prompt": third.train[0].prompt, "max_tokens": 2})
    assert response.headers["x-clora-adapter"] == "third" and response.headers["x-clora-version"] != before
    for path in sorted(folder.iterdir(), reverse=True):
        path.unlink()
    folder.rmdir()
    gone = httpx.post(f"{url}/v1/completions", json={"prompt": PROMPTS[0], "model": "third"})
    assert gone.status_code == 404 and error_of(gone)["code"] == "model_not_found"
    over.set()
    for one in asking:
        one.join()
    assert failures == []
    assert httpx.get(f"{url}/v1/models").headers["x-clora-version"] == before


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("completions", b"{", 400, "no JSON"),
        ("completions", b"[1]", 400, "object"),
        ("completions", b'{"prompt": "a", "prompt": "b"}', 400, "twice"),
        ("completions", b'{"prompt": "a", "temperature": NaN}', 400, "NaN"),
        ("completions", b"[" * 100000, 400, "no JSON"),
        ("completions", b"\xff\xfe{", 400, "no JSON"),
        ("completions", b'{"prompt": "a", "model": "\\ud800"}', 400, "no JSON"),
        ("completions", b'{"prompt": "a", "\\udfff": 1}', 400, "no JSON"),
        ("route", b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "no JSON"),
        ("completions", b'{"prompt": "a", "model": ' + b"[" * 900 + b"]" * 900 + b"}", 400, ""),
        ("completions", b'{"prompt": "a", "model": {"name": "first", "scale": 1e999}}', 400, "JSON"),
        ("completions", b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400, "a number of 5000 digits"),
        ("completions", b'{"max_tokens": 2}', 400, "prompt"),
        ("completions", b'{"prompt": "a", "max_tokens": 0}', 400, "max_tokens"),
        ("completions", b'{"prompt": "a", "logprobs": 5}', 400, "logprobs"),
        ("completions", b'{"prompt": "a", "best": 5}', 400, "best"),
        ("completions", b'{"prompt": ["a", "b"]}', 400, "prompt"),
        ("completions", b'{"prompt": "a", "logit_bias": {"1": 2}}', 400, "logit_bias"),
        ("completions", b'{"prompt": "a", "model": "firsst"}', 404, "did you mean 'first'"),
        ("completions", b'{"prompt": "a", "model": [["first"]]}', 400, "model"),
        ("completions", b'{"prompt": "a", "stream": true, "stream_options": {"include": true}}', 400, "stream_options"),
        ("completions", b'{"prompt": "a", "stream_options": {"include_usage": true}}', 400, "stream"),
        ("completions", b'{"prompt": "a", "model": ["first", "base"]}', 400, "'base' stands alone"),
        ("completions", b'{"prompt": "a", "model": []}', 400, "model"),
        ("completions", b'{"prompt": "a", "model": "' + b"a" * 100000 + b'"}', 404, "unknown model"),
        ("completions", b'{"prompt": "a", "' + b"a" * 100000 + b'": 1}', 400, "aaa"),
        ("chat/completions", b'{"messages": []}', 400, "messages"),
        ("chat/completions", b'{"messages": [{"role": "king", "content": "a"}]}', 400, "messages"),
        ("chat/completions", b'{"messages": [{"role": "assistant", "content": "a"}]}', 400, "messages"),
        ("route", b'{"prompt": "a", "messages": []}', 400, "messages"),
        ("route", b"{}", 400, "prompt"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(refusing, path, body, status, named):
    response = httpx.post(f"{refusing}/v1/{path}", content=body, headers=JSON)
    assert response.status_code == status, response.text
    error = error_of(response)
    assert named in error["message"] and len(error["message"]) <= 1001
    assert error["type"] == "invalid_request_error"
    if "'base'" in named or b'"model": []' in body:
        assert error["param"] == "model"


@pytest.fixture(scope="module")
def refusing(tmp_path_factory, model_folder, tasks):
    """One server for all bad requests."""
    import torch
    from routed import write_routable

    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    base = load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))
    names = [str(tasks[name]) for name in ("first", "second")]
    package = write_routable(tmp_path_factory.mktemp("http") / "adapters", base, names, second="diag")
    with running(package, [], max_body=200_000, max_length=50) as (url, _):
        yield url


@pytest.mark.parametrize("asks", ["", "Connection: close\r\n"], ids=["kept alive", "to be closed"])
@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [("/v1/completions", "application/json", 413), ("/v1/completions", "text/plain", 415), ("/nowhere", "", 404)],
)
def test_a_client_that_is_still_sending_gets_its_refusal(refusing, path, kind, status, asks):
    most = 3_000_000
    with socket.create_connection(("127.0.0.1", httpx.URL(refusing).port), timeout=30) as connection:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {most}\r\n{asks}\r\n"
        )
        connection.sendall(head.encode() + b" " * 300_000)
        time.sleep(0.05)  # by now a server that does not wait has closed
        connection.sendall(b" " * (most - 300_000))
        assert connection.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_client_that_never_ends_its_body_is_left(refusing, monkeypatch):
    monkeypatch.setattr(lingering, "_SILENCE", 0.1)
    with socket.create_connection(("127.0.0.1", httpx.URL(refusing).port), timeout=30) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 900000\r\n\r\n ".encode())
        told = b"".join(iter(lambda: connection.recv(65536), b""))
    assert told.startswith(b"HTTP/1.1 413 ") and told.endswith(b"}")


def test_other_refusals_have_their_own_status(refusing):
    url = refusing
    large = httpx.post(f"{url}/v1/completions", content=b" " * 200_001, headers=JSON)
    assert (large.status_code, error_of(large)["code"]) == (413, "body_too_large")

    def parts():
        yield from (b" " * 100_000 for _ in range(4))

    assert httpx.post(f"{url}/v1/completions", content=parts(), headers=JSON).status_code == 413
    form = httpx.post(f"{url}/v1/completions", data={"prompt": "a"})
    assert form.status_code == 415 and "Content-Type" in error_of(form)["message"]
    long = httpx.post(f"{url}/v1/completions", json={"prompt": "word " * 60})
    assert (long.status_code, error_of(long)["code"]) == (400, "context_length_exceeded")
    packed = httpx.post(f"{url}/v1/completions", content=b"", headers={**JSON, "content-encoding": "gzip"})
    assert (packed.status_code, error_of(packed)["code"]) == (415, "content_encoding")
    for path in ("nothing", "v1/completions/", "v1/models/nobody"):
        assert httpx.get(f"{url}/{path}").status_code == 404
    wrong = httpx.get(f"{url}/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"], error_of(wrong)["type"]) == (
        405,
        "POST",
        "invalid_request_error",
    )
    assert "use POST" in error_of(wrong)["message"]
    assert (head := httpx.head(f"{url}/health")).status_code == 200 and head.content == b""
    for host in (
        "evil.example",
        "127.evil.example",
        "[::1",
        "localhost@evil.example",
    ):  # a name that a page's owner made up for this machine
        assert httpx.get(f"{url}/v1/models", headers={"host": host}).status_code == 403
    assert httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_names_of_any_letters_make_headers_of_one_printable_line():
    headers = Verdict("mögen\x1b[31m\r\nset-cookie: x 日本\u202e", 0.5, "nearest\x7f", "0").headers
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert headers["x-clora-adapter"] == "m\\xf6gen\\x1b[31m\\r\\nset-cookie: x \\u65e5\\u672c\\u202e"


def test_a_second_server_at_a_port_is_refused_in_one_line(made, serve):
    url, _ = serve(made()[0])
    taken = ServeOptions(port=int(url.rpartition(":")[2]))
    with refused("address-unavailable", f"--port {taken.port}", "choose another"):
        server.bound_for(taken)
    early, late = (server.bound_for(ServeOptions(port=0)) for _ in range(2))
    with early, late:
        port = early.getsockname()[1]
        beside = server.bound_for(ServeOptions(port=port))  # while the first one still loads
        early.listen()
        with refused("address-unavailable", f"--port {port}"):
            listen(beside, 1, f"--port {port}")


def test_keys_are_asked_for(made, serve, tmp_path):
    (tmp_path / "keys").write_text("one\ntwo\n")
    url, _ = serve(made()[0], api_key_file=tmp_path / "keys")
    with pytest.raises(openai.AuthenticationError):
        client_of(url).models.list()
    for key in ("one", "two"):
        good = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
        assert good.completions.create(model="base", prompt="a", max_tokens=1).object == "text_completion"
    assert httpx.get(f"{url}/metrics").status_code == 401
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{url}/health").status_code == httpx.get(f"{url}/").status_code == 200


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (b"\xef\xbb\xbfone\r\n\r\n  two \r\n# alice's\r\nthree", ("one", "two", "three")),
        (b"# nobody's yet\n\n", "it holds no key"),
        ("one\nschlüssel\n".encode(), "line 2 is no key"),
        (b"Bearer one\n", "line 1 is no key"),
        (b"one\0\n", "line 1 is no key"),
        ("one".encode("utf-16"), "it is no UTF-8"),
    ],
)
def test_a_file_of_keys_holds_one_a_line(tmp_path, text, keys):
    (tmp_path / "keys").write_bytes(text)
    options = ServeOptions(api_key_file=tmp_path / "keys")
    if isinstance(keys, tuple):
        assert read_keys(options).clients == keys
    else:
        error = "key-file-unreadable" if "UTF-8" in keys else "key-file-malformed"
        with refused(error, "--api-key-file", keys):
            read_keys(options)


def test_a_file_of_keys_is_read_once_and_should_be_the_owners_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # as <(pass show keys) makes one
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("one\n",))
    writer.start()
    assert read_keys(ServeOptions(api_key_file=tmp_path / "pipe")).clients == ("one",)
    writer.join()
    (tmp_path / "keys").write_text("two\n")
    for mode, exposed in ((0o600, ()), (0o640, ()), (0o644, (tmp_path / "keys",))):
        (tmp_path / "keys").chmod(mode)
        assert read_keys(ServeOptions(api_key_file=tmp_path / "keys")).exposed == exposed


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ([], False),
        (["Bearer one"], True),
        (["bearer one"], True),
        (["BEARER  two"], True),
        (["Bearer one two"], False),
        (["Bearer "], False),
        (["one"], False),
        (["Basic one"], False),
        (["Bearer schlüssel"], False),
        (["Bearer wrong", "Bearer one"], False),
    ],
)
def test_a_key_is_known_by_its_header(given, known):
    headers = [(b"authorization", one.encode("latin-1")) for one in given]
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": headers})
    assert Gate(("one", "two"), 1, local=True).knows(request) is known


def test_a_full_line_says_when_to_come_back(made, serve, monkeypatch):
    from clora_cli.serving.service import Service

    begun, free = threading.Event(), threading.Event()
    real = Service.answer
    monkeypatch.setattr(Service, "answer", lambda self, batch: (begun.set(), free.wait(60), real(self, batch))[2])
    url, _ = serve(made()[0], queue=2, batch_size=1)
    body = {"prompt": "a", "model": "first", "max_tokens": 1}
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=100)
        assert begun.wait(60)  # it has left the line
        others = [pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=100) for _ in range(6)]
        while sum(one.done() for one in others) < 4:  # those for which there is no room are told at once
            time.sleep(0.02)
        free.set()
        replies = [one.result() for one in (first, *others)]
    assert sorted(one.status_code for one in replies) == [200] * 3 + [429] * 4
    assert all(int(one.headers["retry-after"]) >= 1 for one in replies if one.status_code == 429)


ENDLESS = {"prompt": "a", "model": "first", "max_tokens": 1_000_000, "stop": ["never said"]}


def test_a_late_answer_ends(made, serve):
    log = []
    url, _ = serve(made()[0], log, timeout=0.02)
    late = httpx.post(f"{url}/v1/completions", json=ENDLESS, timeout=60)
    assert (late.status_code, error_of(late)["type"]) == (504, "timeout_error")
    with httpx.stream("POST", f"{url}/v1/completions", json={**ENDLESS, "stream": True}, timeout=60) as one:
        assert "timeout_error" in one.read().decode()
    assert [entry["status"] for entry in log] == [504, 504]
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(
            b"POST /v1/route HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_what_is_not_done_when_the_server_has_waited_long_enough_is_told_so(made, monkeypatch):
    monkeypatch.setattr(stopping, "_GRACE", 0.2)
    log = []
    with contextlib.ExitStack() as client:
        with running(made()[0], log, timeout=600) as (url, _):
            endless = httpx.stream("POST", f"{url}/v1/completions", json={**ENDLESS, "stream": True}, timeout=60)
            parts = client.enter_context(endless).iter_text()
            assert "clora" in next(parts)
        last = "".join(parts).split("data: ")[-1]
    assert json.loads(last)["error"]["code"] == "server-stops"
    assert [(entry["event"], entry.get("status")) for entry in log] == [("stopping", None), ("failed", 503)]


def test_a_client_that_leaves_frees_the_model(made, serve):
    log = []
    url, _ = serve(made()[0], log, timeout=600)
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(ENDLESS).encode()
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n")
        raw.sendall(b"content-length: %d\r\n\r\n%b" % (len(body), body))
        time.sleep(0.3)
    with httpx.stream("POST", f"{url}/v1/completions", json={**ENDLESS, "stream": True}, timeout=60) as one:
        next(one.iter_lines())
    short = httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 1}, timeout=60)
    assert short.status_code == 200  # what was left would have gone on for ten minutes
    assert [entry["event"] for entry in log if entry.get("code") == "client-gone"] == ["refused", "failed"]


def test_the_log_holds_no_prompt_unless_asked(made, serve):
    package, _ = made()
    for options in ({}, {"log_prompts": True}):
        log = []
        url, _ = serve(package, log, **options)
        httpx.post(f"{url}/v1/completions", json={"prompt": PROMPTS[0], "max_tokens": 3}).raise_for_status()
        (entry,) = [one for one in log if one["event"] == "answered"]
        assert {"adapter", "confidence", "version", "seconds", "prompt_tokens", "answer_tokens"} <= set(entry)
        assert (PROMPTS[0] in json.dumps(entry)) is bool(options)


def test_health_and_metrics_tell_what_is_served(made, serve):
    package, base = made()
    url, service = serve(package)
    httpx.post(f"{url}/v1/completions", json={"prompt": PROMPTS[0], "model": "second", "max_tokens": 3})
    httpx.post(f"{url}/v1/completions", content=b"{", headers=JSON)
    text = httpx.get(f"{url}/metrics").text
    for line in (
        'clora_requests_total{path="/v1/completions",status="200"} 1.0',
        'clora_requests_total{path="/v1/completions",status="400"} 1.0',
        'clora_answers_total{adapter="second"} 1.0',
        'clora_tokens_total{kind="answer"} 3.0',
        "clora_first_token_seconds_count 1.0",
        "clora_adapters 2.0",
    ):
        assert line in text
    health = httpx.get(f"{url}/health").json()
    assert (health["status"], health["version"], health["adapters"]) == ("ok", service.held.version, 2)
    write_random_adapter(package / "third", base, stage=3)  # has no distribution
    deadline = time.monotonic() + 10
    while (health := httpx.get(f"{url}/health").json())["status"] == "ok" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert health["status"] == "stale" and "third" in health["trouble"]


def test_the_page_asks_for_nothing_from_elsewhere(made, serve):
    url, _ = serve(made()[0])
    response = httpx.get(url)
    assert "connect-src 'self'" in response.headers["content-security-policy"]
    for mark in ("http://", "https://", "src=", "@import", "url("):
        assert mark not in response.text.replace("http://www.w3.org/2000/svg", "")
