"""Metrics: several processes, one page, bounded labels; prometheus_client's parser is the judge."""

import math
import subprocess
import sys
import threading
import time

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as open_parser

from opengte.serve.http.routing import OPERATIONS
from opengte.serve.observability import metric_store
from opengte.serve.observability.metric_definitions import EVENTS
from opengte.serve.observability.metric_store import MetricFamily, SharedMetricStore
from opengte.serve.observability.metrics import Metrics, task_of
from opengte.serve.observability.request_record import RequestRecord
from opengte.serve.types import ModelStatus, Timing

ROUTES = ["/v1/embeddings", "/rerank"]


@pytest.fixture
def shared():
    memory = metric_store.metric_memory(2)
    yield memory
    memory.close()


@pytest.fixture
def two(shared):
    made = [Metrics(["a", "b"], ROUTES, shared, row) for row in range(2)]
    yield made
    for one in made:
        one.close()


def page(metrics):
    text, kind = metrics.render()
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def record(operation="openai_embeddings", **more):
    timing = Timing(tokenizing=0.002, queued=0.03, computing=0.4)
    values = {"operation": operation, "model": "a", "texts": 1, "tokens": 9, "timing": timing}
    return RequestRecord("id", **(values | more))


def test_workers_are_summed(two):
    first, second = two
    for _ in range(3):
        first.request_started()
        first.request_finished("/v1/embeddings", 200, 0.01, None)
    second.request_started()
    second.request_finished("/v1/embeddings", 200, 0.01, None)
    second.request_started()
    second.request_finished("/v1/embeddings", 429, 0.01, "limited")
    second.request_started()
    for one in two:
        found = page(one)
        requests = "opengte_requests_total"
        route = ("route", "/v1/embeddings")
        assert found[requests, ("code", "200"), route] == 4
        assert found[requests, ("code", "429"), route] == 1
        assert found["opengte_errors_total", ("kind", "limited")] == 1
        assert found["opengte_requests_in_flight",] == 1
        assert found["opengte_request_seconds_count", route] == 5
        assert found["opengte_request_seconds_sum", route] == pytest.approx(0.05)
        assert found["opengte_request_seconds_bucket", ("le", "0.01"), route] == 5
        assert found["opengte_request_seconds_bucket", ("le", "0.005"), route] == 0


def test_a_replaced_worker_goes_on_counting_and_begins_its_gauges_again(shared):
    first = Metrics(["a"], ROUTES, shared, 1)
    first.request_started()
    first.count("tokens", "a", 5)
    first.close()
    second = Metrics(["a"], ROUTES, shared, 1)
    second.count("tokens", "a", 2)
    found = page(second)
    assert found["opengte_tokens_total", ("model", "a")] == 7
    assert found["opengte_requests_in_flight",] == 0
    second.close()


def test_what_clients_send_makes_no_series(two):
    one, _ = two
    sizes = []
    for i in range(100):
        one.request_finished(f"/path/{i}", 600 + i, 0.1, f"kind{i}")
        one.count("tokens", f"model{i}")
        one.count(f"event{i}", "a")
        one.batch(f"model{i}", 1, 1, 1, 0.1)
        sizes.append(len(page(one)) if i in (0, 99) else 0)
    assert sizes[0] == sizes[99]
    found = page(one)
    assert found["opengte_requests_total", ("code", "other"), ("route", "other")] == 100
    assert found["opengte_tokens_total", ("model", "other")] == 100


def test_every_event_of_the_service_has_a_counter(two):
    for event in EVENTS:
        two[0].count(event, "b", 3)
    found = page(two[1])
    for name, _ in EVENTS.values():
        assert found[f"opengte_{name}_total", ("model", "b")] == 3


def test_batches(two):
    two[0].batch("a", 8, 900, 1000, 0.02)
    two[1].batch("a", 4, 500, 1000, 0.04)
    found = page(two[0])
    model = ("model", "a")
    assert found["opengte_batch_tokens_sum", model] == 1400
    assert found["opengte_batch_texts_count", model] == 2
    assert found["opengte_batch_fill_sum", model] == pytest.approx(1.4)
    assert found["opengte_batch_fill_bucket", ("le", "0.5"), model] == 1
    assert found["opengte_batch_seconds_sum", model] == pytest.approx(0.06)
    assert found["te_batch_next_size_sum",] == 12
    assert found["te_batch_next_tokens_count",] == 2


def test_stages_and_the_names_of_tei(two):
    one, other = two
    one.request_computed(record(), "embed", 200, 0.5)
    other.request_computed(record(texts=3), "embed", 200, 0.5)
    other.request_computed(record("tei_rerank", texts=2), "score", 200, 0.5)
    other.request_computed(record(), "embed", 503, 0.1)
    other.request_finished("/v1/embeddings", 503, 0.1, "overloaded")
    found = page(one)
    assert found["opengte_stage_seconds_sum", ("operation", "embed"), ("stage", "queue")] == (
        pytest.approx(0.06)
    )
    assert found["opengte_request_tokens_sum",] == 27
    assert found["opengte_texts_total", ("model", "a")] == 6
    assert found["te_request_count", ("method", "single")] == 2
    assert found["te_request_success", ("method", "single")] == 1
    assert found["te_request_success", ("method", "batch")] == 2
    assert found["te_embed_count",] == 3
    assert found["te_embed_success",] == 2
    assert found["te_predict_success",] == 1
    assert found["te_request_failure", ("err", "overloaded")] == 1
    assert found["te_request_duration_count",] == 3
    assert found["te_embed_inference_duration_sum",] == pytest.approx(0.8)
    assert found["te_predict_queue_duration_count",] == 1


def test_all_of_teis_names_are_there(two):
    two[0].request_computed(record(), "embed", 200, 0.5)
    two[0].request_computed(record("tei_rerank"), "score", 200, 0.5)
    two[0].batch("a", 1, 1, 1, 1.0)
    names = {key[0] for key in page(two[0])}
    stages = ("", "_tokenization", "_queue", "_inference")
    for what in ("request", "embed", "predict"):
        assert {f"te_{what}_count", f"te_{what}_success"} <= names
        assert {f"te_{what}{stage}_duration_bucket" for stage in stages} <= names
    assert {"te_request_failure", "te_request_input_length_sum", "te_queue_size"} <= names


def test_models_and_stores(two):
    def status(**more):
        return ModelStatus("a", "ready", None, 0, None, 1000, 5000, **more)

    two[0].update_models([status(queued_tokens=70)])
    two[1].update_models([status(queued_tokens=7)])
    two[0].update_storage("usage", True, 0)
    two[1].update_storage("usage", False, 3)
    two[1].update_storage("usage", False, 4)
    two[1].update_process()
    found = page(two[0])
    assert found["opengte_queue_tokens", ("model", "a")] == found["te_queue_size",] == 77
    assert found["opengte_model_ready", ("model", "a")] == 2
    assert found["opengte_storage_ok", ("store", "usage")] == 0
    assert found["opengte_storage_failures_total", ("store", "usage")] == 4
    assert found["opengte_memory_bytes", ("worker", "1")] > 2**20
    assert found["opengte_open_files", ("worker", "1")] > 2


def test_the_page_for_readers_of_openmetrics(two):
    two[0].request_computed(record(), "embed", 200, 0.5)
    text, kind = two[0].render("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    metric_families = {f.name: f for f in open_parser.text_string_to_metric_families(text.decode())}
    assert metric_families["opengte_stage_seconds"].type == "histogram"
    assert metric_families["opengte_operations"].type == "counter"


def test_a_row_that_is_too_small_is_an_error(shared):
    wide = MetricFamily("x", "counter", "X.", (("a", tuple(map(str, range(200_000)))),))
    with pytest.raises(ValueError, match="the metrics need 200000 numbers; a row has 131072"):
        SharedMetricStore([wide], shared)


def test_threads_lose_no_count(two):
    def count():
        for _ in range(5000):
            two[0].count("tokens", "a")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert page(two[0])["opengte_tokens_total", ("model", "a")] == 20_000


def test_another_process_counts_into_the_same_page(shared, two):
    code = (
        "import sys; from opengte.serve.observability import metric_store as store\n"
        "from opengte.serve.observability.metrics import Metrics\n"
        "memory = store.metric_memory(2, int(sys.argv[1]))\n"
        "m = Metrics(['a', 'b'], ['/v1/embeddings', '/rerank'], memory, 1)\n"
        "m.count('tokens', 'b', 11)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(shared.descriptor)],
        pass_fds=[shared.descriptor],
        check=True,
        timeout=60,
    )
    assert page(two[0])["opengte_tokens_total", ("model", "b")] == 11


def test_every_operation_of_every_protocol_is_known_for_what_it_computes():
    told = {operation.id for operation in OPERATIONS if operation.method == "POST"}
    assert {id for id in told if task_of(id) is None} <= {"ollama_show"}
    assert task_of("tei_tokenize") == task_of("llamacpp_tokenize") == "tokenize"
    assert task_of("llamacpp_detokenize") == task_of("tei_decode") == "decode"
    assert task_of("tei_predict") == task_of("cohere_rerank_v2") == "score"
    assert task_of("tei_embed_all") == task_of("openai_embeddings") == "embed"
    assert task_of("openai_models") is task_of(None) is None


def test_an_observation_costs_microseconds(two):
    one = two[0]
    answered = record()

    def observe():
        one.request_started()
        one.batch("a", 8, 100, 1000, 0.01)
        for event in EVENTS:
            one.count(event, "a")
        one.request_finished("/v1/embeddings", 200, 0.01, None)
        one.request_computed(answered, "embed", 200, 0.01)

    times = []
    for _ in range(1000):
        start = time.thread_time()
        observe()
        times.append(time.thread_time() - start)
    assert sorted(times)[500] < 200e-6  # for 16 observations; 25 when nothing else runs


def test_bounds_are_increasing():
    from opengte.serve.observability.metric_definitions import metric_families

    for family in metric_families(["a"], ROUTES):
        assert list(family.bounds) == sorted(set(family.bounds))
        assert all(math.isfinite(bound) for bound in family.bounds)
        assert not family.bounds or family.kind == "histogram"
