"""A whole server and clients that mean no good or know no better; afterwards it still answers."""

import contextlib
import json
import socket
import struct
import threading
import time
from pathlib import Path

import httpx
import pytest

from opengte import Encoder
from tests.support.serve_process import server
from tests.support.serve_sockets import until

pytestmark = pytest.mark.slow

EMBED = "/v1/embeddings"
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def one():
    with server("--model", "minilm", "--cache-memory", "0") as running:
        yield running


@pytest.fixture(autouse=True)
def it_still_answers(one):
    yield
    answer = one.embed(["hello"])
    assert answer.status_code == 200, answer.text
    assert one.other == []  # nothing but JSON lines in the log: no traceback


def post(one, body, path=EMBED, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with one.client() as client:
        return client.post(
            path, content=content, headers={"content-type": "application/json", **headers}
        )


def raw(one, timeout=20):
    address = httpx.URL(one.url)
    return socket.create_connection((address.host, address.port), timeout=timeout)


def read(connection):
    """Read until the server closes; what came before a reset counts."""
    found = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while piece := connection.recv(65536):
            found += piece
    return found


def head(length, path=EMBED):
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


def rss(one):
    status = Path(f"/proc/{one.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line) * 1024


# ---------------------------------------------------------------- bodies

MALFORMED = [
    b"",
    b" ",
    b"null",
    b"{",
    b'{"input": ',
    b'{"input": "a"',
    b'{"input": "a",}',
    b'{"input": "a"} {"input": "b"}',
    b"{'input': 'a'}",
    b'"a"',
    b"[]",
    b"17",
    b"\x00\x01\x02",
    b"\xff\xfe\xfd",
    b'{"input": "\xff"}',
    b"\xef\xbb\xbf{",
    b"<xml/>",
    b"input=a&model=b",
    b'{"input": NaN}',
    b'{"input": "a", "dimensions": NaN}',
    b'{"input": "a", "dimensions": Infinity}',
    b'{"input": "a", "dimensions": 1e999}',
    b'{"input": "a", "dimensions": ' + b"9" * 5000 + b"}",
    b"[" * 100_000,
    b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:24]))
@pytest.mark.parametrize("path", [EMBED, "/embed", "/v2/embed", "/v1/rerank", "/api/embed"])
def test_malformed_bodies(one, path, body):
    answer = post(one, body, path)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert "traceback" not in answer.text.lower()


@pytest.mark.parametrize("value", [0, -1, 385, 10**9, 2**31, 2**63, -(2**70), 1.5, "8", [8], {}])
@pytest.mark.parametrize("path", [EMBED, "/embed", "/api/embed"])
def test_dimensions_that_are_none(one, path, value):
    name = {EMBED: "input", "/embed": "inputs", "/api/embed": "input"}[path]
    answer = post(one, {name: "a", "model": "minilm", "dimensions": value}, path)
    assert 400 <= answer.status_code < 500, answer.text


WRONG = [None, True, 3, -1, 2.5, "", "text", [], [[]], [None], [True], [[1.5]], {}, {"a": []}]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_wrong_types_in_every_field_of_every_route(one, wrong):
    with one.client() as client:
        document = client.get("/openapi.json").json()
        for path, methods in document["paths"].items():
            if "post" not in methods:
                continue
            for body in wrong_bodies(document, methods["post"], wrong):
                answer = client.post(path, json=body)
                assert answer.status_code < 500, (path, body, answer.text)


def wrong_bodies(document, operation, wrong):
    """The smallest good bodies of a route, with each field in turn replaced."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    for one in schema.get("anyOf", [schema]):
        if "$ref" in one:
            one = document["components"]["schemas"][one["$ref"].rpartition("/")[2]]
        names = list(one.get("properties", {}))
        good = {name: "a" if name != "model" else "minilm" for name in one.get("required", [])}
        for name in names:
            yield {**good, name: wrong}
    yield wrong


def test_a_hundred_megabytes_are_refused_unread(one):
    before = rss(one)
    with raw(one) as connection:
        connection.sendall(head(100 * MEGABYTE))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert rss(one) - before < 20 * MEGABYTE


def test_a_hundred_megabytes_in_chunks_are_cut_off(one):
    before = rss(one)
    piece = b"100000\r\n" + b" " * MEGABYTE + b"\r\n"
    with raw(one) as connection:
        start = head(0).replace(b"content-length: 0", b"transfer-encoding: chunked")
        connection.sendall(start)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(piece)
        assert read(connection)[:13] in (b"HTTP/1.1 413 ", b"")
    assert rss(one) - before < 80 * MEGABYTE


def test_ten_thousand_tiny_inputs(one):
    texts = [f"w{i}" for i in range(10_000)]
    answer = one.embed(texts)
    assert answer.status_code == 200
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(10_000))
    expected = Encoder.load("minilm").encode(texts[9_990:])
    for item, vector in zip(data[9_990:], expected, strict=True):
        assert item["embedding"] == pytest.approx(vector, abs=1e-6)


def test_one_input_of_ten_megabytes(one):
    text = "lorem ipsum dolor sit amet " * 400_000
    assert len(text) > 10 * MEGABYTE
    start = time.monotonic()
    answer = one.embed([text, "short"])
    assert time.monotonic() - start < 60  # on a busy machine
    assert answer.status_code == 200
    (report,) = answer.json()["inputs"]
    assert report["index"] == 0
    assert report["truncated"]
    assert report["embedded_tokens"] == 256 < report["tokens"]
    refused = one.embed([text], truncate=False)
    assert refused.status_code == 400
    assert "maximum context length is 256 tokens" in refused.json()["error"]["message"]


def test_others_are_answered_while_ten_megabytes_are_tokenised(one):
    text = "lorem ipsum dolor sit amet " * 400_000
    thread = threading.Thread(target=lambda: one.embed([text] * 2))
    with one.client() as client:
        client.post(EMBED, json={"input": "first"})
        thread.start()
        waits = []
        while thread.is_alive():
            start = time.monotonic()
            assert client.post(EMBED, json={"input": f"query {start}"}).status_code == 200
            waits.append(time.monotonic() - start)
    thread.join()
    assert sorted(waits)[len(waits) // 2] < 1.0


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "a\x00b",
        "\ud800",
        "\udfff\ud800",
        "‮" * 500,
        "e" + "\u0301" * 5000,
        "\u200b" * 1000,
        "\U0010ffff" * 300,
        "a" * 100_000,
        " " * 100_000,
        "ﷺ" * 2000,
        "👩‍👩‍👧‍👦" * 500,
    ],
    ids=lambda text: f"{ascii(text[:3])}x{len(text)}",
)
def test_odd_characters(one, text):
    answer = post(one, {"input": [text, "plain"]})
    assert answer.status_code == 200, answer.text
    vectors = [item["embedding"] for item in answer.json()["data"]]
    assert vectors[1] == one.embed(["plain"]).json()["data"][0]["embedding"]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
def test_compressed_bodies_are_no_bombs(one, encoding):
    import zlib

    bomb = zlib.compress(b" " * (64 * MEGABYTE), 9)
    answer = post(one, bomb, **{"content-encoding": encoding})
    assert 400 <= answer.status_code < 500


# ---------------------------------------------------------------- the wire

LINES = [
    b"\r\n\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),  # TLS to a plain port
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"b" * 200_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(20_000)) + b"\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: abc\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n"
    b"content-length: 5\r\n\r\nabcde",
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    b"GET /assets/../../types.py HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    b"GET /assets/%2e%2e/%2e%2e/types.py HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: a\x00b\xff\r\nconnection: close\r\n\r\n",
]


@pytest.mark.parametrize("sent", LINES, ids=lambda sent: repr(sent[:30]))
def test_what_is_hardly_http(one, sent):
    with raw(one, timeout=3) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        with contextlib.suppress(OSError):  # it has closed already
            connection.shutdown(socket.SHUT_WR)
        found = read(connection)
    statuses = [int(line[9:12]) for line in found.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert all(status < 500 for status in statuses), found[:300]
    assert b"root:" not in found
    assert b"class EmbedRequest" not in found
    if b"content-length: 4" in sent:
        assert statuses[1:] == []  # one request was smuggled inside another otherwise


def test_a_request_id_cannot_write_headers_or_log_lines(one):
    with one.client() as client:
        for bad in ("x" * 5000, "a\tb", "ü", '"},{"'):
            answer = client.get("/v1/models", headers={"x-request-id": bad.encode()})
            assert answer.status_code == 200
            assert len(answer.headers["x-request-id"]) <= 200


def test_half_closed_after_the_request(one):
    body = b'{"input": "a"}'
    with raw(one) as connection:
        connection.sendall(head(len(body)) + body)
        connection.shutdown(socket.SHUT_WR)
        found = read(connection)
    # either is right: the answer, or nothing for a client that is taken to have left
    assert found == b"" or found.startswith(b"HTTP/1.1 200 ")


def test_half_closed_in_the_middle_of_the_body(one):
    with raw(one) as connection:
        connection.sendall(head(1000) + b'{"input": ')
        connection.shutdown(socket.SHUT_WR)
        assert not read(connection).startswith(b"HTTP/1.1 5")


def test_clients_that_leave_without_a_word(one):
    body = json.dumps({"input": [f"text {i} " * 50 for i in range(200)]}).encode()
    for cut in (10, len(body) // 2, len(body)):
        for _ in range(20):
            connection = raw(one)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(head(len(body)) + body[:cut])
            connection.close()  # a reset
    # what nobody waits for is not computed
    until(lambda: [model["queued_tokens"] for model in one.page_state()["models"]] == [0])


def test_slow_loris():
    with server("--header-timeout", "1", "--body-timeout", "1") as one:
        slow = [raw(one) for _ in range(100)]
        for i, connection in enumerate(slow):
            connection.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nho" if i % 2 else head(5000) + b"{"
            )
        start = time.monotonic()
        closed: set[int] = set()
        while len(closed) < len(slow) and time.monotonic() < start + 30:
            for i, connection in enumerate(slow):
                if i in closed:
                    continue
                try:
                    connection.sendall(b"s")  # a byte every now and then
                    connection.settimeout(0.001)
                    if connection.recv(1000) == b"":
                        closed.add(i)
                except TimeoutError:
                    pass
                except ConnectionError:
                    closed.add(i)
            assert one.embed(["meanwhile"]).status_code == 200
            time.sleep(0.2)
        for connection in slow:
            connection.close()
        assert len(closed) == len(slow)
