"""Load of the last minutes, and quantiles of latencies."""

import random
import threading

import numpy as np
import pytest

from opengte.serve.observability.load_history import (
    HISTORY_SECONDS,
    LATENCY_EDGES,
    LoadHistory,
    quantile,
)
from opengte.serve.shared_memory import SharedMemory


class Clock:
    def __init__(self, now=10_000.0):
        self.now = now

    def __call__(self):
        return self.now


def test_seconds_add_up():
    clock = Clock()
    ring = LoadHistory(clock=clock)
    waiting = [7]
    ring.watch_queue(lambda: waiting[0])
    ring.batch("a", 2, 30, 64, 0.5)
    ring.batch("b", 3, 34, 64, 0.25)
    for status in (200, 200, 400, 500, 503, 429):
        ring.record_request(status, 0.02)
    clock.now += 1
    waiting[0] = 9
    (first,) = ring.seconds(since=9_999)
    assert (first["second"], first["queue"]) == (10_000, 7)
    assert (first["texts"], first["tokens"], first["fill"], first["busy"]) == (5, 64, 0.5, 0.75)
    assert (first["requests"], first["failed"], first["refused"]) == (6, 1, 2)
    assert 0.016 < first["p50"] < 0.024
    clock.now += 1
    assert ring.seconds(since=10_000)[0]["queue"] == 9
    assert ring.seconds(since=10_000)[0]["p50"] is None


def test_old_seconds_are_forgotten():
    clock = Clock()
    ring = LoadHistory(clock=clock)
    for _ in range(3 * HISTORY_SECONDS):
        ring.record_request(200, 0.01)
        clock.now += 1
    found = ring.seconds()
    assert len(found) == HISTORY_SECONDS - 2
    assert {one["requests"] for one in found} == {1}
    clock.now += 10 * HISTORY_SECONDS
    assert {one["requests"] for one in ring.seconds()} == {0}


def test_workers_see_the_sum():
    clock = Clock()
    memory = SharedMemory(LoadHistory.size_for(3))
    rings = [LoadHistory(memory, worker, 3, clock) for worker in range(3)]
    for worker, ring in enumerate(rings):
        ring.watch_queue(lambda worker=worker: 10 * worker)
        for _ in range(worker + 1):
            ring.record_request(200, 0.01)
    clock.now += 1
    for ring in rings:
        (second,) = ring.seconds(since=9_999)
        assert (second["requests"], second["queue"]) == (6, 30)
    for ring in rings:
        ring.close()
    memory.close()


def test_threads_lose_nothing():
    clock = Clock()
    ring = LoadHistory(clock=clock)

    def write():
        for _ in range(2000):
            ring.batch("a", 1, 3, 4, 0.0)
            ring.record_request(200, 0.001)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += 1
    (second,) = ring.seconds(since=9_999)
    assert (second["texts"], second["tokens"], second["requests"]) == (8000, 24_000, 8000)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_quantiles_are_near_the_exact_ones(seed, share):
    rng = random.Random(seed)
    values = [rng.lognormvariate(-4, 1) for _ in range(rng.randint(1, 3000))]
    histogram = np.bincount(
        np.searchsorted(LATENCY_EDGES, values), minlength=len(LATENCY_EDGES) + 1
    )
    exact = np.quantile(values, share, method="inverted_cdf")
    found = quantile(histogram.tolist(), share)
    assert exact / 1.2 <= found <= exact * 1.2


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 1e-4, 125.0, 1e6])
def test_latencies_off_the_scale(seconds):
    clock = Clock()
    ring = LoadHistory(clock=clock)
    ring.record_request(200, seconds)
    clock.now += 1
    found = ring.seconds(since=9_999)[0]["p99"]
    assert 0 <= found <= LATENCY_EDGES[-1]


def test_no_latencies():
    assert quantile([0] * (len(LATENCY_EDGES) + 1), 0.5) is None
