"""A Hugging Face Hub on this machine: its file routes, and the faults of a bad day.

    with hub_server.running() as hub:
        commit = hub.commit("org/model", {"config.json": b"{}", "model.safetensors": b"..."})
        hub.fail("/resolve/", status=500, times=2)
        ... HF_ENDPOINT=hub.url ...

Files of the LFS kinds are answered, as on the Hub, by a redirect to another host (the same server
under its other name), with the SHA-256 as the linked ETag.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".onnx", ".gguf", ".h5", ".model")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(name: str) -> bool:
    return name.endswith(LFS_SUFFIXES)


@dataclass
class Request:
    method: str
    path: str
    headers: Message

    @property
    def start(self) -> int | None:
        """The first byte asked for; None without a Range header."""
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked else None


@dataclass
class Fault:
    """What happens to the next `times` requests (of a method) whose path holds `where`."""

    where: str
    times: int
    method: str | None = None
    status: int | None = None  # answered instead
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # bytes of the body sent before the connection is closed
    body: bytes | None = None  # sent instead of the true one


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)


class Hub:
    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def commit(self, name: str, files: dict[str, bytes], reference: str = "main") -> str:
        """Add a commit, let a branch or tag name it, and return its id."""
        repository = self.repositories.setdefault(name, Repository())
        listing = sorted((path, sha256(data)) for path, data in files.items())
        commit = hashlib.sha1(repr((name, listing)).encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.references[reference] = commit
        return commit

    def fail(self, where: str, times: int = 1_000, **how) -> Fault:
        fault = Fault(where, times, **how)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        self.faults.clear()

    def forget_requests(self) -> None:
        self.requests.clear()

    def asked(self, method: str, where: str) -> list[Request]:
        return [seen for seen in self.requests if seen.method == method and where in seen.path]

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.where in path and fault.method in (None, method):
                    fault.times -= 1
                    return fault
        return None

    def content(self, digest: str) -> bytes | None:
        for repository in self.repositories.values():
            for files in repository.commits.values():
                for data in files.values():
                    if sha256(data) == digest:
                        return data
        return None


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Serve a Hub on a free port until the block ends."""
    hub = Hub()

    class BoundHandler(Handler):
        pass

    BoundHandler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), BoundHandler)
    server.daemon_threads = False  # so that closing waits for them
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    fault: Fault | None

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, self.headers))
        self.fault = self.hub.fault_for(self.command, path)
        if self.fault and self.fault.status:
            return self._send(self.fault.status, b"", self.fault.headers)
        if path.startswith("/api/models/"):
            return self._listing(path.removeprefix("/api/models/"))
        if path.startswith("/cdn/"):
            return self._send(200, self.hub.content(path.removeprefix("/cdn/")) or b"")
        if "/resolve/" in path:
            return self._resolve(*path.removeprefix("/").split("/resolve/", 1))
        return self._send(404, b"")

    def _listing(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        if name in self.hub.renamed:
            location = f"/api/models/{self.hub.renamed[name]}/revision/{revision or 'main'}?blobs=1"
            return self._send(307, b"", {"Location": location})
        found = self._find(name, revision or "main")
        if found is None:
            return None
        commit, files = found
        siblings = [_sibling(path, data) for path, data in files.items()]
        answer = {"id": name, "sha": commit, "siblings": siblings}
        return self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.references.get(revision, revision)
        if commit not in repository.commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, repository.commits[commit]

    def _resolve(self, name: str, rest: str) -> None:
        if name in self.hub.renamed:
            location = f"/{self.hub.renamed[name]}/resolve/{rest}"
            return self._send(307, b"", {"Location": location})
        revision, _, file = rest.partition("/")
        found = self._find(name, revision)
        if found is None:
            return None
        commit, files = found
        if file not in files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = files[file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_blob(data)}"'}
        if not is_lfs(file):
            return self._send(200, data, headers)
        headers["X-Linked-Etag"] = f'"{sha256(data)}"'
        headers["X-Linked-Size"] = str(len(data))
        headers["Location"] = f"http://localhost:{self.hub.port}/cdn/{sha256(data)}"
        return self._send(302, b"", headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        fault = self.fault or Fault("", 0)
        body = body if fault.body is None else fault.body
        start = self.hub.requests and Request(self.command, "", self.headers).start
        extra = dict(headers or {})
        if start and status == 200 and self.command == "GET":
            extra["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[start:]
        self.send_response(status)
        for key, value in (extra | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if fault.cut is None else body[: fault.cut])


def _sibling(path: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": git_blob(data)}
    if is_lfs(path):
        entry["lfs"] = {"size": len(data), "sha256": sha256(data), "pointerSize": 134}
    return entry
