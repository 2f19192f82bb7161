"""Traces: spans of requests and of what happens inside, in the names of both conventions."""

import sys

import pytest

from tests.support.installed import needs

needs("opentelemetry")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from opengte.errors import MissingExtraError
from opengte.serve.config.settings import ServerSettings
from opengte.serve.observability import tracing
from opengte.serve.observability.request_record import RequestRecord
from opengte.serve.types import Timing

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    made = tracing.open_tracer(ServerSettings(), [exporter])
    assert made is not None
    yield made
    made.close()


def scope(*headers):
    return {
        "method": "POST",
        "path": "/v1/embeddings",
        "scheme": "http",
        "http_version": "1.1",
        "server": ("127.0.0.1", 8080),
        "client": ("10.0.0.9", 999),
        "headers": list(headers),
    }


def record(operation="openai_embeddings", **more):
    timing = Timing(tokenizing=0.001, queued=0.01, computing=0.1)
    values = {"operation": operation, "model": "minilm", "texts": 2, "tokens": 9, "timing": timing}
    return RequestRecord("r1", **(values | more))


def spans(tracer, exporter, told, status=200, headers=(), seconds=0.2):
    span = tracer.start(scope(*headers))
    tracer.finish(span, "/v1/embeddings", told, status, seconds)
    return {span.name: span for span in exporter.get_finished_spans()}


def test_an_embedding_request(tracer, exporter):
    found = spans(tracer, exporter, record(truncated=1))
    assert set(found) == {
        *("POST /v1/embeddings", "embeddings minilm"),
        *("tokenize", "queue", "compute"),
    }
    outer, inner = found["POST /v1/embeddings"], found["embeddings minilm"]
    assert outer.kind is SpanKind.SERVER
    assert outer.parent is None
    assert outer.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "url.path": "/v1/embeddings",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": 8080,
        "client.address": "10.0.0.9",
        "opengte.request_id": "r1",
    }
    assert inner.parent.span_id == outer.context.span_id
    assert dict(inner.attributes) | {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "opengte",
        "gen_ai.request.model": "minilm",
        "gen_ai.usage.input_tokens": 9,
        "openinference.span.kind": "EMBEDDING",
        "embedding.model_name": "minilm",
        "llm.token_count.prompt": 9,
        "opengte.truncated": 1,
    } == dict(inner.attributes)
    compute = found["compute"]
    assert compute.parent.span_id == inner.context.span_id
    assert (compute.end_time - compute.start_time) / 1e9 == pytest.approx(0.1, abs=1e-3)
    assert found["queue"].start_time == found["tokenize"].end_time
    assert inner.start_time <= found["tokenize"].start_time
    assert compute.end_time <= inner.end_time <= outer.end_time


def test_a_rerank_request(tracer, exporter):
    inner = spans(tracer, exporter, record("jina_rerank"))["rerank minilm"]
    assert inner.attributes["openinference.span.kind"] == "RERANKER"
    assert inner.attributes["reranker.model_name"] == "minilm"
    assert inner.attributes["gen_ai.rerank.candidate.count"] == 2


def test_the_callers_trace_goes_on(tracer, exporter):
    header = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
    outer = spans(tracer, exporter, None, headers=[header])["POST /v1/embeddings"]
    assert f"{outer.context.trace_id:032x}" == TRACE
    assert f"{outer.parent.span_id:016x}" == PARENT


@pytest.mark.parametrize("value", [b"00-zz-11-01", b"\xff\xfe", b""])
def test_a_broken_trace_header_starts_a_new_trace(tracer, exporter, value):
    outer = spans(tracer, exporter, None, headers=[(b"traceparent", value)])["POST /v1/embeddings"]
    assert outer.parent is None


def test_a_trace_that_its_caller_does_not_sample_is_not_sampled(tracer, exporter):
    header = (b"traceparent", f"00-{TRACE}-{PARENT}-00".encode())
    assert spans(tracer, exporter, record(), headers=[header]) == {}


def test_a_share_of_the_traces(exporter):
    made = tracing.open_tracer(ServerSettings(trace_sample=0.0), [exporter])
    assert spans(made, exporter, record()) == {}
    header = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
    assert spans(made, exporter, record(), headers=[header])
    made.close()


def test_failures(tracer, exporter):
    found = spans(tracer, exporter, record(error="engine", timing=Timing()), status=503)
    outer, inner = found["POST /v1/embeddings"], found["embeddings minilm"]
    assert outer.status.status_code is inner.status.status_code is StatusCode.ERROR
    assert outer.attributes["error.type"] == inner.attributes["error.type"] == "engine"
    assert set(found) == {"POST /v1/embeddings", "embeddings minilm"}


def test_a_callers_mistake_is_no_failure_of_the_server(tracer, exporter):
    outer = spans(tracer, exporter, record(error="invalid"), status=400)["POST /v1/embeddings"]
    assert outer.status.status_code is StatusCode.UNSET
    assert outer.attributes["error.type"] == "invalid"


def test_what_computes_nothing_has_one_span(tracer, exporter):
    assert set(spans(tracer, exporter, record("openai_models"))) == {"POST /v1/embeddings"}


def test_traces_are_off_unless_asked_for():
    assert tracing.open_tracer(ServerSettings()) is None
    assert not tracing.tracing_enabled(ServerSettings(), {})
    assert tracing.tracing_enabled(ServerSettings(otlp_endpoint="http://collector:4318"), {})
    assert tracing.tracing_enabled(
        ServerSettings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/x/v1/traces", "https://c/x/v1/traces"),
    ],
)
def test_the_address_of_the_collector(given, expected):
    exporter = tracing._collector(ServerSettings(otlp_endpoint=given))
    assert exporter._endpoint == expected
    exporter.shutdown()


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'opengte\[otel\]'"):
        tracing.open_tracer(ServerSettings(otlp_endpoint="http://c:4318"))
