"""What is logged and counted of each request."""

import asyncio
import json

import pytest

from opengte.serve.http.middleware import observe
from opengte.serve.http.middleware.observe import ObserveMiddleware, ObserveOptions
from opengte.serve.observability import logs, metric_store
from opengte.serve.observability.metrics import Metrics
from opengte.serve.observability.request_record import RequestRecord
from opengte.serve.types import Timing
from tests.support.serve_logs import logging_to_memory

SECRET = "the patient's name is Ada"


@pytest.fixture
def lines():
    """Set up logging; returns a function that gives the lines so far."""
    with logging_to_memory() as set_up:
        yield set_up


NAMES = frozenset({"minilm"})


class Route:
    path = "/v1/embeddings"


def application(status=200, body=b"12345", record=None, error=None):
    async def app(scope, receive, send):
        scope["route"] = Route
        scope["opengte"] = record or RequestRecord("r1")
        if error is not None:
            raise error
        if status:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": body})

    return app


def ask(app, path="/v1/embeddings", **observation):
    memory = metric_store.metric_memory(1)
    metrics = Metrics(["minilm"], ["/v1/embeddings"], memory)
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": SECRET.encode(),
        "headers": [(b"authorization", b"Bearer gte_x_y")],
        "client": ("10.0.0.9", 999),
    }
    try:
        asyncio.run(
            ObserveMiddleware(app, ObserveOptions(metrics, models=NAMES, **observation))(
                scope, None, send
            )
        )
    finally:
        page = metrics.render()[0].decode()
        metrics.close()
        memory.close()
    return sent, page


COMPUTED = RequestRecord(
    "r7",
    protocol="openai",
    operation="openai_embeddings",
    model="minilm",
    key="k1",
    priority="bulk",
    texts=3,
    tokens=21,
    truncated=1,
    timing=Timing(0.001, 0.002, 0.003),
)


def test_a_request_is_logged_with_its_measures_and_not_its_query_or_key(lines):
    said = lines()
    rung = []
    ask(application(record=COMPUTED), record_load=lambda status, seconds: rung.append(status))
    (line,) = map(json.loads, said())
    assert line.pop("ms") >= 0
    line.pop("time")
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "r7",
        "method": "POST",
        "path": "/v1/embeddings",
        "status": 200,
        "bytes": 5,
        "client": "10.0.0.9",
        "key": "k1",
        "operation": "openai_embeddings",
        "protocol": "openai",
        "model": "minilm",
        "priority": "bulk",
        "texts": 3,
        "tokens": 21,
        "truncated": 1,
        "tokenize_ms": 1.0,
        "queue_ms": 2.0,
        "compute_ms": 3.0,
    }
    assert rung == [200]


@pytest.mark.parametrize("path", ["/v1/embeddings", '/"ä\n', "/\udc80", "/\x85\u2028"])
@pytest.mark.parametrize("record", [None, COMPUTED, RequestRecord("r8", error="invalid")])
@pytest.mark.parametrize("status", [200, 424, 500])
def test_a_request_is_one_line_whatever_its_path(lines, record, path, status):
    said = lines()
    logs.request({"method": "POST", "path": path, "client": None}, record, status, 0.0123456, 77)
    (line,) = map(json.loads, said())
    assert (line["path"], line["status"], line["ms"]) == (path, status, 12.346)
    assert line["level"] == ("info" if status == 200 else "error")


def test_a_request_is_below_the_level_that_was_asked_for(lines):
    said = lines(level="error")
    logs.request({"method": "GET", "path": "/"}, COMPUTED, 200, 0.1, 0)
    assert said() == []
    logs.request({"method": "GET", "path": "/"}, COMPUTED, 500, 0.1, 0)
    assert len(said()) == 1


def test_a_model_that_a_client_made_up_is_no_name(lines):
    said = lines()
    _, page = ask(
        application(status=404, record=RequestRecord("r", model=SECRET, error="unknown_model"))
    )
    assert SECRET not in "".join(said()) + page


def test_successes_are_sampled_and_failures_are_not(lines, monkeypatch):
    said = lines()
    monkeypatch.setattr(observe.random, "random", lambda: 0.5)
    ask(application(), log_sample=0.4)
    assert said() == []
    ask(application(), log_sample=0.6)
    ask(application(status=400), log_sample=0.0)
    assert [json.loads(line)["status"] for line in said()] == [200, 400]


def test_probes_are_not_logged_unless_they_fail_or_one_debugs(lines):
    said = lines()
    ask(application(), path="/health")
    assert said() == []
    ask(application(status=503), path="/health")
    assert len(said()) == 1
    said = lines(level="debug")
    ask(application(), path="/health")
    assert len(said()) == 2


def test_a_client_that_went_away_counts_as_499(lines):
    said = lines()
    _, page = ask(application(status=0, record=RequestRecord("r", status=499, error="cancelled")))
    assert json.loads(said()[0])["status"] == 499
    assert 'opengte_requests_total{code="499",route="/v1/embeddings"} 1.0' in page
    assert 'opengte_errors_total{kind="cancelled"} 1.0' in page


def test_an_unforeseen_error_counts_as_500_and_goes_on(lines):
    said = lines()
    with pytest.raises(ZeroDivisionError):
        ask(application(error=ZeroDivisionError(SECRET)))
    assert json.loads(said()[0])["status"] == 500
    assert SECRET not in "".join(said())


def test_while_draining_connections_are_closed(lines):
    lines()
    sent, _ = ask(application(), draining=lambda: True)
    assert sent[0]["headers"] == [(b"connection", b"close")]
    sent, _ = ask(application())
    assert sent[0]["headers"] == []


def test_what_is_no_request_passes():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(ObserveMiddleware(app, None)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
