"""A stub of the Hub on loopback: repositories of small files, commits, and requests that fail when a test wants them to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Holds repositories: id to file to content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits = 0
        self.fetched: list[str] = []
        self.failing: set[str] = set()
        self.wrong: Callable[[_Handler], None] | None = None  # answers instead of the Hub
        self.asked: list[tuple[str, str]] = []  # path and token

    @property
    def commit(self) -> str:
        return f"{self.commits:040x}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, code: str) -> None:
        self.answer({"error": code}, 404, X_Error_Code=code)

    def do_POST(self) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            hub.repos.setdefault(name, {})
            hub.private.setdefault(name, asked.get("private") or asked.get("visibility") == "private")
            self.answer({"url": f"{hub.url}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in path:
            files = hub.repos["/".join(path.split("/")[3:5])]
            hub.commits += 1
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    files.pop(line["value"]["path"], None)
            self.answer(
                {
                    "commitUrl": f"{hub.url}/{'/'.join(path.split('/')[3:5])}/commit/{hub.commit}",
                    "commitOid": hub.commit,
                    "success": True,
                }
            )
        else:
            self.missing("Unknown")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization", "")))
        if self.server.wrong is not None:
            self.server.wrong(self)
            return
        words = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = words[:2] == ["api", "models"]
        words = words[2:] if api else words
        files = self.server.repos.get("/".join(words[:2]))
        if files is None:
            self.missing("RepoNotFound")
        elif api and words[2:3] == ["tree"]:
            self.answer([_entry(name, content) for name, content in sorted(files.items())])
        elif api:
            siblings = [{"rfilename": name} for name in sorted(files)]
            self.answer(
                {
                    "id": "/".join(words[:2]),
                    "sha": self.server.commit,
                    "siblings": siblings,
                    "private": True,
                    "tags": [],
                }
            )
        else:
            self._file("/".join(words[4:]), files)

    def _file(self, name: str, files: dict[str, bytes]) -> None:
        if self.command == "GET":
            self.server.fetched.append(name)
        if name in self.server.failing:
            self.answer({"error": "down"}, 403)
        elif name not in files:
            self.missing("EntryNotFound")
        else:
            etag = f'"{_git(files[name])}"'
            self.answer(files[name], ETag=etag, X_Repo_Commit=self.server.commit, Accept_Ranges="bytes")


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": _git(content)}


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Serve on loopback."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
