"""The numbers of a `SharedMetricStore` as a page for Prometheus, with TEI's names."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from opengte import __version__
from opengte.serve.observability.metric_store import MetricFamily, MetricSeries, SharedMetricStore

if TYPE_CHECKING:
    Values = tuple[float, ...]

# TEI's name -> our histogram, and the labels of its series
_HISTOGRAMS: dict[str, tuple[str, dict[str, str]]] = {
    "te_request_duration": ("opengte_operation_seconds", {}),
    "te_request_tokenization_duration": ("opengte_stage_seconds", {"stage": "tokenize"}),
    "te_request_queue_duration": ("opengte_stage_seconds", {"stage": "queue"}),
    "te_request_inference_duration": ("opengte_stage_seconds", {"stage": "compute"}),
    "te_request_input_length": ("opengte_request_tokens", {}),
    "te_batch_next_size": ("opengte_batch_texts", {}),
    "te_batch_next_tokens": ("opengte_batch_tokens", {}),
}
_OPERATIONS = {"embed": "embed", "predict": "score"}
_STAGES = {"tokenization": "tokenize", "queue": "queue", "inference": "compute"}
for _name, _operation in _OPERATIONS.items():
    _HISTOGRAMS[f"te_{_name}_duration"] = ("opengte_operation_seconds", {"operation": _operation})
    for _theirs, _stage in _STAGES.items():
        _HISTOGRAMS[f"te_{_name}_{_theirs}_duration"] = (
            "opengte_stage_seconds",
            {"operation": _operation, "stage": _stage},
        )

# TEI's kinds of errors -> ours
_FAILURES = {
    "validation": ("malformed", "invalid", "too_long", "too_large", "unsupported"),
    "overloaded": ("overloaded", "limited"),
    "unhealthy": ("not_ready",),
    "inference": ("engine", "internal", "deadline"),
}


def render(store: SharedMetricStore, accept: str, labels: Mapping[str, str]) -> tuple[bytes, str]:
    """Return the page in the format that the Accept header asks for, and its content type.

    Every sample has these further labels.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(store, labels))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector(Collector):
    def __init__(self, store: SharedMetricStore, labels: Mapping[str, str]) -> None:
        self._store = store
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics():
            if self._labels:
                metric.samples = [
                    sample._replace(labels={**sample.labels, **self._labels})
                    for sample in metric.samples
                ]
            yield metric

    def _metrics(self) -> Iterator[Metric]:
        series = list(self._store.collect())
        yield _build_info()
        yield from _ours(self._store.families, series)
        yield from _histograms(series)
        yield from _counts(series)


def _build_info() -> Metric:
    metric = Metric("opengte_build", "The version of this server.", "info")
    metric.add_sample("opengte_build_info", {"version": __version__}, 1.0)
    return metric


def _ours(families: Iterable[MetricFamily], series: list[MetricSeries]) -> Iterator[Metric]:
    by_name: dict[str, list[MetricSeries]] = {}
    for each in series:
        by_name.setdefault(each.family.name, []).append(each)
    for family in families:
        metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
        for each in by_name.get(family.name, []):
            if family.kind == "histogram":
                _add_histogram(metric, family, each.labels, each.values)
            else:
                metric.add_sample(family.name, each.labels, each.values[0])
        if metric.samples:
            yield metric


def _add_histogram(
    metric: Metric, family: MetricFamily, labels: dict[str, str], values: "Values"
) -> None:
    total = 0.0
    for bound, count in zip((*family.bounds, float("inf")), values[:-1], strict=True):
        total += count
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": _bound(bound)}, total)
    metric.add_sample(f"{metric.name}_count", labels, total)
    metric.add_sample(f"{metric.name}_sum", labels, values[-1])


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(bound)


def _histograms(series: list[MetricSeries]) -> Iterator[Metric]:
    for name, (ours, labels) in _HISTOGRAMS.items():
        parts = [each for each in series if each.family.name == ours and _has(each, labels)]
        if parts:
            values = tuple(map(sum, zip(*(part.values for part in parts), strict=True)))
            metric = Metric(name, f"As in text-embeddings-inference; of {ours}.", "histogram")
            _add_histogram(metric, parts[0].family, {}, values)
            yield metric


def _counts(series: list[MetricSeries]) -> Iterator[Metric]:
    """Yield TEI's counters and its gauge; its counters lack `_total`, so they are untyped."""
    counted = [each for each in series if each.family.name == "opengte_operations_total"]
    failed = [each for each in series if each.family.name == "opengte_errors_total"]
    for suffix, results in (("count", ("success", "failure")), ("success", ("success",))):
        metric = Metric(f"te_request_{suffix}", "As in text-embeddings-inference.", "unknown")
        for method, texts in (("single", "one"), ("batch", "many")):
            total = _total(counted, texts=(texts,), result=results)
            metric.add_sample(metric.name, {"method": method}, total)
        yield metric
        for name, operation in _OPERATIONS.items():
            metric = Metric(f"te_{name}_{suffix}", "As in text-embeddings-inference.", "unknown")
            total = _total(counted, operation=(operation,), result=results)
            metric.add_sample(metric.name, {}, total)
            yield metric
    metric = Metric("te_request_failure", "As in text-embeddings-inference.", "unknown")
    for theirs, ours in _FAILURES.items():
        total = _total(failed, kind=ours)
        metric.add_sample(metric.name, {"err": theirs}, total)
    yield metric
    metric = Metric("te_queue_size", "Queued tokens (in TEI: inputs).", "gauge")
    queued = [each for each in series if each.family.name == "opengte_queue_tokens"]
    metric.add_sample(metric.name, {}, _total(queued))
    yield metric


def _has(series: MetricSeries, labels: dict[str, str]) -> bool:
    return all(series.labels.get(name) == value for name, value in labels.items())


def _total(series: list[MetricSeries], **wanted: tuple[str, ...]) -> float:
    """Sum the series whose labels have one of the wanted values."""
    return sum(
        each.values[0]
        for each in series
        if all(each.labels[name] in allowed for name, allowed in wanted.items())
    )
