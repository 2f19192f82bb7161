"""Listening sockets: open files, and graceful ends."""

import resource
import threading

import pytest

from opengte.serve.observability import logs
from opengte.serve.runtime.listener import raise_open_file_limit
from tests.support.serve_sockets import read_all, read_answer, served, until

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def post(body, path=b"/", extra=b""):
    head = b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
    return head % (path, extra, len(body)) + body


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((1024, 100_000), (8448, 100_000)),
        ((1024, resource.RLIM_INFINITY), (8448, resource.RLIM_INFINITY)),
        ((1024, 4096), (4096, 4096)),
        ((20_000, 100_000), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_files_for_all_connections(monkeypatch, limits, raised):
    changed, told = [], []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda which, found: changed.append(found))
    monkeypatch.setattr(logs, "event", lambda level, what, **fields: told.append((what, fields)))
    raise_open_file_limit(8192)
    assert changed == ([raised] if raised else [])
    few = [("fewer files than connections", {"files": 4096, "wanted": 8192})]
    assert told == (few if raised == (4096, 4096) else [])


def test_the_end_waits_for_answers_and_closes_idle_connections():
    with served() as server:
        idle, busy = server.connect(), server.connect()
        idle.sendall(GET)
        read_answer(idle)
        busy.sendall(post(b"abc", b"/slow"))
        until(lambda: "/slow" in server.begun)
        server.call(server.server.stop_accepting)
        outcome: list[bool] = []
        ending = threading.Thread(
            target=lambda: outcome.append(server.call(server.server.finish, 5))
        )
        ending.start()
        assert read_all(idle) == b""
        assert read_answer(busy) == (200, b"3")
        ending.join()
        assert outcome == [True]
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        idle.close()
        busy.close()


def test_the_end_does_not_wait_for_ever():
    with served() as server, server.connect() as client:
        client.sendall(post(b"abc", b"/slow"))
        until(lambda: server.begun)
        server.call(server.server.stop_accepting)
        assert server.call(server.server.finish, 0.1) is False  # it takes a second
