"""OpenTelemetry traces: a span for each request, and a child for the model's work in it.

Attributes have the names of OpenTelemetry's conventions for generative AI, which still change (so
the strings are only here), and those of OpenInference. No text and no vector is recorded. The spans
inside a request are created when it ends, from times that are measured anyway.
"""

import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from opengte import __version__
from opengte.errors import MissingExtraError
from opengte.serve.config.settings import ServerSettings
from opengte.serve.observability.metrics import task_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from opengte.serve.observability.request_record import RequestRecord

# task -> OpenTelemetry's name of it, and OpenInference's kind of span
_SPAN_NAMES = {"embed": ("embeddings", "EMBEDDING"), "score": ("rerank", "RERANKER")}
_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracer:
    """Creates the spans of requests."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation import tracecontext

        self._provider = provider
        self._tracer = provider.get_tracer("opengte", __version__)
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._trace = trace

    def start(self, scope: Mapping[str, Any]) -> "Span":
        """Begin the span of a request, in the caller's trace if its headers name one."""
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
            attributes=_without_none(
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
        self, span: "Span", route: str, record: "RequestRecord | None", status: int, seconds: float
    ) -> None:
        """End the span of a request, and create those of its stages."""
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
                task = task_of(record.operation)
                if task in _SPAN_NAMES:
                    begin = end - int(seconds * 1e9)
                    self._add_children(span, record, _SPAN_NAMES[task], status, begin, end)
        span.end()

    def _add_children(
        self,
        parent: "Span",
        record: "RequestRecord",
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
            attributes=_without_none(_attributes(record, name, kind)),
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
        """Send the spans that have not been sent yet."""
        self._provider.shutdown()


def _attributes(record: "RequestRecord", name: str, kind: str) -> dict[str, Any]:
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


def _without_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def tracing_enabled(settings: ServerSettings, environment: Mapping[str, str] | None = None) -> bool:
    """Return whether a setting, or a variable of OpenTelemetry, names a collector."""
    environment = os.environ if environment is None else environment
    return bool(settings.otlp_endpoint) or any(environment.get(name) for name in _VARIABLES)


def open_tracer(settings: ServerSettings, exporters: Iterable[Any] | None = None) -> Tracer | None:
    """Return a tracer, or None if tracing is not enabled.

    exporters replace the one that sends spans to the collector. Raises MissingExtraError if
    OpenTelemetry is not installed.
    """
    if exporters is None and not tracing_enabled(settings):
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


def _collector(settings: ServerSettings) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        package = "opentelemetry-exporter-otlp-proto-http"
        raise MissingExtraError(package, "otel", "tracing") from None
    endpoint = settings.otlp_endpoint
    if endpoint is None:
        return OTLPSpanExporter()  # which reads OpenTelemetry's variables
    endpoint = endpoint.rstrip("/")
    return OTLPSpanExporter(
        endpoint=endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces"
    )
