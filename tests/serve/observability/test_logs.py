"""Logs: what is in them, and what never is."""

import asyncio
import io
import json
import logging
import sys
import warnings

import pytest

from opengte.errors import FallbackWarning, InputError, TruncationWarning
from opengte.serve.http.middleware import observe
from opengte.serve.http.middleware.observe import ObserveMiddleware, ObserveOptions
from opengte.serve.observability import logs, metric_store
from opengte.serve.observability.metrics import Metrics
from opengte.serve.observability.request_record import RequestRecord
from opengte.serve.types import Timing

SECRET = "the patient's name is Ada"


@pytest.fixture
def lines():
    """Set up logging; returns a function that gives the lines so far."""
    root = logging.getLogger()
    before, level, show = root.handlers[:], root.level, warnings.showwarning
    levels = {name: logging.getLogger(name).level for name in ("opengte", "uvicorn")}
    stream = io.StringIO()

    def set_up(format="json", level="info"):
        logs.configure(format, level, stream)
        return lambda: stream.getvalue().splitlines()

    yield set_up
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)
    warnings.showwarning = show
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


def failing():
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        raise InputError(f"input 0 is {SECRET!r}") from error


def test_an_event_is_a_line_of_json(lines):
    said = lines()
    logs.event(logs.INFO, "model reloaded", model="minilm", seconds=1.5)
    (line,) = map(json.loads, said())
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "event": "model reloaded", "model": "minilm", "seconds": 1.5}


def test_an_event_for_people(lines):
    said = lines("human")
    logs.event(logs.INFO, "model", name="a b\n", engine="native")
    logs.event(logs.ERROR, "broken")
    assert said()[0][9:] == 'model name="a b\\n" engine=native'
    assert said()[1][9:] == "error: broken"


@pytest.mark.parametrize("format", ["json", "human"])
def test_of_an_exception_the_class_and_the_place_are_logged_and_no_word_of_it(lines, format):
    said = lines(format)
    try:
        failing()
    except InputError as error:
        logs.failure("request failed", error, request_id="r1")
        logging.getLogger("opengte.serve").error("failed", exc_info=error)
        logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=error)
    text = "\n".join(said())
    assert SECRET not in text
    assert "InputError" in text
    assert "ValueError" in text
    assert "test_logs.py" in text
    assert "failing" in text


def test_what_other_libraries_say_is_not_repeated(lines):
    said = lines()
    logging.getLogger("asyncio").error("Task exception was never retrieved: %s", SECRET)
    logging.getLogger("elsewhere").warning(SECRET)
    assert SECRET not in "\n".join(said())
    assert json.loads(said()[0])["event"].startswith("asyncio logged at ")


def test_a_lost_task_is_logged_without_its_message(lines):
    said = lines()

    async def main():
        asyncio.get_running_loop().set_exception_handler(logs.on_loop_error)

        async def task():
            raise ValueError(SECRET)

        lost = asyncio.create_task(task())
        await asyncio.sleep(0.01)
        del lost

    asyncio.run(main())
    import gc

    gc.collect()
    assert SECRET not in "\n".join(said())
    assert json.loads(said()[0])["exc"] == "ValueError"


def test_warnings_are_logged_by_kind_and_those_about_models_in_full(lines):
    said = lines()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs_of = logs._log_warning
        logs_of(TruncationWarning(SECRET), TruncationWarning, "x.py", 3)
        logs_of(FallbackWarning("torch is used"), FallbackWarning, "x.py", 4)
    first, second = map(json.loads, said())
    assert SECRET not in str(first)
    assert first["kind"] == "TruncationWarning"
    assert second["says"] == "torch is used"


def test_levels(lines):
    said = lines(level="error")
    logs.event(logs.WARNING, "no")
    logs.event(logs.ERROR, "yes")
    assert [json.loads(line)["event"] for line in said()] == ["yes"]


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


def test_stderr_is_where_logs_go(lines, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    lines()
    logs.configure("auto", "info")
    logs.event(logs.INFO, "here")
    assert json.loads(stream.getvalue())["event"] == "here"
