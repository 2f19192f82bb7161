"""OpenTelemetry traces: a span for each request, and below it one for what the model did.

Both sets of names are written: OpenTelemetry's for generative AI, which move, so that the strings
are only here, and OpenInference's. No text and no vector is ever written. The spans inside a
request are made when it ends, from the times that were measured anyway.
"""

import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from opengte import __version__
from opengte.errors import MissingExtraError
from opengte.serve.config.settings import Settings
from opengte.serve.observability.metrics import work_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from opengte.serve.observability.request_record import Record

# what is computed -> OpenTelemetry's name of it, and OpenInference's kind of span
_KINDS = {"embed": ("embeddings", "EMBEDDING"), "score": ("rerank", "RERANKER")}
_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracer:
    """Makes the spans of requests."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation import tracecontext

        self._provider = provider
        self._tracer = provider.get_tracer("opengte", __version__)
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._trace = trace

    def start(self, scope: Mapping[str, Any]) -> "Span":
        """Begin the span of a request; its caller's trace goes on where it sent one."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        server = scope.get("server") or ("", None)
        client = scope.get("client")
        return self._tracer.start_span(
            scope["method"],
            context=self._propagator.extract(carrier) if carrier else None,
            kind=self._trace.SpanKind.SERVER,
            attributes=_said(
                {
                    "http.request.method": scope["method"],
                    "url.path": scope["path"],
                    "url.scheme": scope["scheme"],
                    "network.protocol.version": scope["http_version"],
                    "server.address": server[0],
                    "server.port": server[1],
                    "client.address": client[0] if client else None,
                }
            ),
        )

    def finish(
        self, span: "Span", route: str, record: "Record | None", status: int, seconds: float
    ) -> None:
        """End the span of a request, with those of what happened inside."""
        if span.is_recording():
            end = time.time_ns()
            span.update_name(f"{span.attributes['http.request.method']} {route}")  # type: ignore[attr-defined]
            span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            error = record.error if record is not None else None
            if status >= 500 or error:
                span.set_attribute("error.type", error or str(status))
            if status >= 500:
                span.set_status(self._trace.StatusCode.ERROR)
            if record is not None:
                span.set_attribute("opengte.request_id", record.request_id)
                work = work_of(record.operation)
                if work in _KINDS:
                    begin = end - int(seconds * 1e9)
                    self._computed(span, record, _KINDS[work], status, begin, end)
        span.end()

    def _computed(
        self,
        parent: "Span",
        record: "Record",
        names: tuple[str, str],
        status: int,
        begin: int,
        end: int,
    ) -> None:
        name, kind = names
        timing = record.timing
        begin += int(record.decoding * 1e9)
        stages = [
            ("tokenize", timing.tokenizing),
            ("queue", timing.queued),
            ("compute", timing.computing),
        ]
        stop = min(end, begin + sum(int(seconds * 1e9) for _, seconds in stages))
        span = self._tracer.start_span(
            f"{name} {record.model or ''}".rstrip(),
            context=self._trace.set_span_in_context(parent),
            kind=self._trace.SpanKind.INTERNAL,  # the model runs in this process
            start_time=begin,
            attributes=_said(_attributes(record, name, kind)),
        )
        inside = self._trace.set_span_in_context(span)
        if status < 400:
            for stage, seconds in stages:
                after = begin + int(seconds * 1e9)
                self._tracer.start_span(stage, context=inside, start_time=begin).end(after)
                begin = after
        elif status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(stop if status < 400 else end)

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def _attributes(record: "Record", name: str, kind: str) -> dict[str, Any]:
    common: dict[str, Any] = {
        "gen_ai.operation.name": name,
        "gen_ai.provider.name": "opengte",
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.usage.input_tokens": record.tokens,
        "error.type": record.error,
        "openinference.span.kind": kind,
        "llm.token_count.prompt": record.tokens,
        "llm.token_count.total": record.tokens,
        "opengte.texts": record.texts,
        "opengte.truncated": record.truncated,
        "opengte.cached": record.cached,
        "opengte.failed": record.failed,
        "opengte.missing_instruction": bool(record.missing_instruction),
        "opengte.priority": record.priority,
        "opengte.protocol": record.protocol,
        "opengte.role": record.role,
    }
    if kind == "RERANKER":
        return common | {
            "reranker.model_name": record.model,
            "gen_ai.rerank.candidate.count": record.texts,
        }
    return common | {"embedding.model_name": record.model}


def _said(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def configured(settings: Settings, environment: Mapping[str, str] | None = None) -> bool:
    """Return whether traces are asked for: by a setting or by OpenTelemetry's own variables."""
    environment = os.environ if environment is None else environment
    return bool(settings.otlp_endpoint) or any(environment.get(name) for name in _VARIABLES)


def open_tracer(settings: Settings, exporters: Iterable[Any] | None = None) -> Tracer | None:
    """Return what makes spans, or None where no one asked for traces.

    exporters replace the one that sends spans to the collector. Raises MissingExtraError.
    """
    if exporters is None and not configured(settings):
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError:
        raise MissingExtraError("opentelemetry-sdk", "otel", "tracing") from None
    provider = TracerProvider(
        resource=Resource.create({"service.name": "opengte", "service.version": __version__}),
        sampler=ParentBased(TraceIdRatioBased(settings.trace_sample)),
        shutdown_on_exit=False,
    )
    if exporters is None:
        provider.add_span_processor(BatchSpanProcessor(_collector(settings)))
    for exporter in exporters or ():
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracer(provider)


def _collector(settings: Settings) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        package = "opentelemetry-exporter-otlp-proto-http"
        raise MissingExtraError(package, "otel", "tracing") from None
    endpoint = settings.otlp_endpoint
    if endpoint is None:
        return OTLPSpanExporter()  # reads the variables
    endpoint = endpoint.rstrip("/")
    return OTLPSpanExporter(
        endpoint=endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces"
    )
