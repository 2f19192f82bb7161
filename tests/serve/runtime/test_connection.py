"""Slow, oversized and too many clients; graceful ends."""

import contextlib
import json
import socket
import threading
import time

import pytest

from opengte.serve.http.app import AppOptions, build_app
from opengte.serve.runtime.loop_lag import LoopLagMonitor
from tests.support.serve_fakes import FakeAuthorizer, FakeService
from tests.support.serve_sockets import (
    early,
    read_all,
    read_answer,
    read_head_and_body,
    served,
    until,
)

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


# (line, headers, status) of requests that are answered before their body comes
BODY = b'{"input": "a"}'
JSON = b"host: x\r\ncontent-type: application/json\r\n"
GOOD = b"authorization: Bearer good\r\n"
EARLY = {
    "no key": (b"POST /v1/embeddings", b"", 401),
    "no such path": (b"POST /v1/nope", GOOD, 404),
    "no such path, a slash": (b"POST /v1/nope/", GOOD, 404),
    "no such method": (b"POST /v1/models", GOOD, 405),
    "no such method, another": (b"PUT /v1/embeddings", GOOD, 405),
    "a compressed body": (b"POST /v1/embeddings", GOOD + b"content-encoding: gzip\r\n", 415),
    "a route that reads no body": (b"GET /healthz", b"", 200),
}


def head(line, headers, length):
    return b"%b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n" % (line, JSON, headers, length)


@pytest.fixture
def early_server(uvloop):
    app = build_app(FakeService(), FakeAuthorizer(), AppOptions(max_body_bytes=100_000))
    with served(app=app, uvloop=uvloop, max_body_bytes=100_000, body_timeout=1) as server:
        yield server


def answered_next(client):
    """Send a good request in two packets; return whether it is answered."""
    client.sendall(head(b"POST /v1/embeddings", GOOD, len(BODY)))
    time.sleep(0.02)
    client.sendall(BODY)
    return read_answer(client)[0] == 200


@pytest.mark.parametrize("name", EARLY)
def test_an_early_answer_keeps_the_connection_once_the_body_has_come(early_server, name):
    line, headers, status = EARLY[name]
    with early_server.connect() as client:
        for length in (len(BODY), 100_000):
            client.sendall(head(line, headers, length))
            assert read_answer(client)[0] == status
            for start in range(0, length, 30_000):
                client.sendall(b" " * min(30_000, length - start))
                time.sleep(0.01)
            assert answered_next(client)
        client.sendall(head(line, headers, len(BODY)))
        assert read_answer(client)[0] == status
        # the rest and the next request in one packet
        client.sendall(BODY + head(b"POST /v1/embeddings", GOOD, len(BODY)) + BODY)
        assert read_answer(client)[0] == 200
    assert early_server.refused == []


@pytest.mark.parametrize("name", EARLY)
@pytest.mark.parametrize(
    "length",
    [
        b"content-length: 100001\r\n",
        b"transfer-encoding: chunked\r\n",
        b"content-length: 10\r\nexpect: 100-continue\r\n",
        b"content-length: 10\r\nconnection: close\r\n",
    ],
    ids=["large", "chunked", "expect", "close"],
)
def test_an_early_answer_announces_a_close_where_no_end_is_in_sight(early_server, name, length):
    line, headers, status = EARLY[name]
    if name == "no key" or b"100001" not in length:
        expected = {status}
    else:
        expected = {status, 413}
    with early_server.connect() as client:
        client.sendall(b"%b HTTP/1.1\r\n%b%b%b\r\n" % (line, JSON, headers, length))
        answer, _ = read_head_and_body(client)
        assert int(answer.split()[1]) in expected
        assert answer.count(b"connection: close") == 1
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)  # it is not closed before the client has read the answer
        client.settimeout(20)
        client.sendall(b"5\r\n12345\r\n0\r\n\r\n" if b"chunked" in length else b" " * 100_001)
        assert read_all(client) == b""
    assert early_server.refused == []


def test_a_body_that_does_not_follow_its_answer_ends_the_connection_without_a_word(
    uvloop,
):
    with served(app=early, uvloop=uvloop, body_timeout=0.2) as server, server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        assert read_answer(client) == (413, b"large")
        assert read_all(client) == b""
        assert server.refused == ["body_slow"]


def test_a_broken_body_after_its_answer_ends_the_connection_without_a_word(uvloop):
    with served(app=early, uvloop=uvloop) as server, server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        assert read_answer(client) == (413, b"large")
        client.sendall(b"no chunk\r\n")
        assert read_all(client) == b""


def test_the_answer_to_a_large_body_arrives():
    with served(app=early) as server, server.connect() as client:
        client.sendall(post(b"x" * 20_000_000))
        assert read_answer(client) == (413, b"large")
        client.sendall(post(b""))
        assert read_answer(client) == (413, b"large")
        client.sendall(post(b"x" * 40_000_000))
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


@pytest.mark.parametrize("length", [b"transfer-encoding: chunked", b"content-length: 99999999"])
def test_a_loop_that_is_behind_announces_a_close_where_no_end_is_in_sight(uvloop, behind, length):
    with served(uvloop=uvloop) as server, server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % length)
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"connection: close\r\n" in answer
        if b"chunked" in length:
            client.sendall(b"0\r\n\r\n")
            assert read_all(client) == b""
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
