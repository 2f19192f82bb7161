"""Logs: what is in them, and what never is."""

import asyncio
import io
import json
import logging
import sys
import warnings

import pytest

from opengte.errors import FallbackWarning, InputError, TruncationWarning
from opengte.serve.observability import logs
from opengte.serve.observability.request_record import RequestRecord
from tests.support.serve_logs import logging_to_memory

SECRET = "the patient's name is Ada"


@pytest.fixture
def lines():
    """Set up logging; returns a function that gives the lines so far."""
    with logging_to_memory() as set_up:
        yield set_up


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
        logs_of = logs.log_warning
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


def test_stderr_is_where_logs_go(lines, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    lines()
    logs.configure("auto", "info")
    logs.event(logs.INFO, "here")
    assert json.loads(stream.getvalue())["event"] == "here"
