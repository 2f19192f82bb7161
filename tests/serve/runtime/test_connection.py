"""Slow, oversized and too many clients; graceful ends."""

import contextlib
import json
import socket
import threading
import time

import pytest

from opengte.serve.runtime.loop_lag import LoopLagMonitor
from tests.support.serve_sockets import early, read_all, read_answer, served, until

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def uvloop(request):
    return request.param


def post(body, path=b"/", extra=b""):
    head = b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
    return head % (path, extra, len(body)) + body


def drip(server, client, drop):
    """Send drops until the server has had enough, or 900 of them."""
    with contextlib.suppress(ConnectionError):
        for _ in range(900):
            if server.refused:
                return
            client.sendall(drop)
            time.sleep(0.01)


def test_requests_one_after_the_other_and_in_one_piece(uvloop):
    with served(uvloop=uvloop) as server, server.connect() as client:
        client.sendall(GET)
        assert read_answer(client) == (200, b"0")
        client.sendall(post(b"a" * 100_000))
        assert read_answer(client) == (200, b"100000")
        client.sendall(GET * 3)
        answers = b""
        while answers.count(b"200 OK") < 3:
            answers += client.recv(65536)
        assert server.refused == []


def test_headers_that_never_end(uvloop):
    with served(uvloop=uvloop, header_timeout=0.3) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        drip(server, client, b"x-a: 1\r\n")  # a drop at a time is no progress
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n") or answer == b""
        assert server.refused == ["headers_slow"]


def test_a_client_that_says_nothing():
    with served(header_timeout=0.2) as server, server.connect() as client:
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_no_slow_one():
    with served(header_timeout=0.2, keep_alive_timeout=5) as server, server.connect() as client:
        client.sendall(GET)
        read_answer(client)
        time.sleep(0.5)
        client.sendall(GET)
        assert read_answer(client)[0] == 200
        client.sendall(b"GET / HT")
        assert read_all(client).startswith(b"HTTP/1.1 408 ")
        assert server.refused == ["headers_slow"]


def test_an_idle_connection_is_closed_in_the_end():
    with served(keep_alive_timeout=0.2) as server, server.connect() as client:
        client.sendall(GET)
        read_answer(client)
        assert read_all(client) == b""


def test_a_body_that_never_ends(uvloop):
    with served(uvloop=uvloop, body_timeout=0.3) as server, server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        drip(server, client, b"x")
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 408 ") or answer == b""
        assert server.refused == ["body_slow"]


def test_a_large_body_at_a_fair_rate_has_its_time():
    with served(body_timeout=0.2) as server, server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 600000\r\n\r\n")
        for _ in range(6):
            client.sendall(b"x" * 100_000)
            time.sleep(0.1)
        assert read_answer(client) == (200, b"600000")
        assert server.refused == []


def test_a_slow_answer_is_no_slow_client():
    with served(header_timeout=0.2, body_timeout=0.2) as server, server.connect() as client:
        client.sendall(post(b"abc", b"/slow"))
        assert read_answer(client) == (200, b"3")
        assert server.refused == []


def test_a_reader_that_does_not_read(uvloop):
    with served(uvloop=uvloop, write_timeout=0.3) as server, server.connect() as client:
        client.sendall(post(b"", b"/large"))
        until(lambda: server.refused)
        assert server.refused == ["reader_slow"]
        assert len(read_all(client)) < 64 * 2**20


def test_a_reader_that_reads_gets_all():
    with served(write_timeout=2) as server, server.connect() as client:
        client.sendall(post(b"", b"/large"))
        assert len(read_answer(client)[1]) == 64 * 2**20
        assert server.refused == []


@pytest.mark.parametrize("piece", [100, 1000, 10**6])
def test_headers_that_are_too_large(uvloop, piece):
    with served(uvloop=uvloop, max_header_bytes=4096) as server, server.connect() as client:
        data = b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x-a: " + b"a" * 5000 + b"\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data), piece):
                client.sendall(data[start : start + piece])
        assert read_all(client).startswith(b"HTTP/1.1 431 ")
        assert server.refused == ["headers_large"]


def test_small_headers_before_a_large_body_in_one_piece():
    with served(max_header_bytes=256) as server, server.connect() as client:
        client.sendall(post(b"x" * 100_000))
        assert read_answer(client) == (200, b"100000")
        client.sendall(GET * 20)  # 500 bytes of requests, none of them large
        answers = b""
        while answers.count(b"200 OK") < 20:
            answers += client.recv(65536)
        assert server.refused == []


def test_a_refused_body_is_read_on_so_that_the_answer_arrives():
    with served(app=early) as server, server.connect() as client:
        client.sendall(post(b"x" * 20_000_000))
        assert read_answer(client) == (413, b"large")
        assert read_all(client) == b""
        assert server.refused == []


def test_too_many_connections():
    with served(max_connections=2) as server:
        clients = [server.connect() for _ in range(2)]
        for client in clients:
            client.sendall(GET)
            read_answer(client)
        with server.connect() as third:
            answer = read_all(third)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        clients.pop().close()
        until(lambda: server.server.connections == 1)
        with server.connect() as third:
            third.sendall(GET)
            assert read_answer(third)[0] == 200
        assert server.refused == ["connections"]
        clients.pop().close()


@pytest.fixture
def behind(monkeypatch):
    """Say whether the event loop is behind: yes, until it is cleared."""
    said = threading.Event()
    said.set()
    monkeypatch.setattr(LoopLagMonitor, "overloaded", lambda monitor: said.is_set())
    return said


def test_a_loop_that_is_behind_refuses_before_it_answers(uvloop, behind):
    with served(uvloop=uvloop) as server, server.connect() as client:
        for _ in range(3):
            client.sendall(post(b"a" * 1000))
            status, body = read_answer(client)
            assert status == 503
            assert json.loads(body)["error"] == {
                "message": "the server cannot keep up; come back in a second",
                "type": "overloaded",
                "param": None,
                "code": None,
            }
        client.sendall(GET)  # who asks how it is, is told
        assert read_answer(client) == (200, b"0")
        behind.clear()
        client.sendall(post(b"abc"))
        assert read_answer(client) == (200, b"3")
        assert server.refused == ["behind"] * 3


def test_what_is_refused_says_when_to_come_back_and_keeps_the_connection(behind):
    with served() as server, server.connect() as client:
        client.sendall(post(b""))
        answer = client.recv(65536)
        assert b"retry-after: 1\r\n" in answer and b"connection: keep-alive\r\n" in answer
        assert server.refused == ["behind"]


def test_the_rest_of_what_was_refused_is_read_and_dropped(uvloop, behind):
    with served(uvloop=uvloop) as server, server.connect() as client:
        whole = post(b"a" * 300_000)
        client.sendall(whole[:1000])
        assert read_answer(client)[0] == 503
        behind.clear()
        for start in range(1000, len(whole), 50_000):
            client.sendall(whole[start : start + 50_000])
            time.sleep(0.01)
        client.sendall(post(b"abc"))
        assert read_answer(client) == (200, b"3")
        assert server.refused == ["behind"]


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        (b"/", b"connection: close\r\n"),
        (b"/", b"expect: 100-continue\r\n"),
        (b"/admin/reload", b""),
    ],
)
def test_what_is_not_refused_before_it_is_answered(behind, path, extra):
    with served() as server, server.connect() as client:
        client.sendall(post(b"abc", path, extra))
        answer = b""
        while b"200 OK" not in answer:
            answer += client.recv(65536)
        assert server.refused == []


def test_a_connection_that_was_refused_is_closed_when_it_stays_idle(behind):
    with served(keep_alive_timeout=0.2) as server, server.connect() as client:
        client.sendall(post(b"abc"))
        assert read_answer(client)[0] == 503
        assert read_all(client) == b""
        assert server.refused == ["behind"]


def test_a_request_behind_another_one_is_not_refused(behind):
    with served() as server, server.connect() as client:
        behind.clear()
        client.sendall(post(b"abc", b"/slow"))
        until(lambda: server.begun)
        behind.set()
        client.sendall(post(b"ab"))
        answers = b""
        while answers.count(b"200 OK") < 2:
            answers += client.recv(65536)
        assert b"503" not in answers
        assert server.refused == []


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/9\r\n\r\n"])
def test_what_is_no_http(data):
    with served() as server, server.connect() as client:
        client.sendall(data)
        assert read_all(client).startswith(b"HTTP/1.1 400 ")
        with server.connect() as other:
            other.sendall(GET)
            assert read_answer(other)[0] == 200


def test_a_half_closed_socket_ends_quietly():
    with served() as server, server.connect() as client:
        client.sendall(post(b"abc", b"/slow"))
        client.shutdown(socket.SHUT_WR)
        read_all(client)
        until(lambda: server.server.connections == 0)
