import json
import random
import re
import threading
from importlib import resources

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from opengte.errors import AccessError
from opengte.serve.http.pages import page_routes
from opengte.serve.observability.load_history import (
    HISTORY_SECONDS,
    LATENCY_EDGES,
    LoadHistory,
    quantile,
)
from opengte.serve.shared_memory import SharedMemory
from tests.support.serve_fakes import FakeService

FOLDERS = (
    resources.files("opengte.serve").joinpath("pages"),
    resources.files("opengte").joinpath("static"),  # shared with other pages
)
FILES = sorted(
    (file for folder in FOLDERS for file in folder.iterdir()), key=lambda file: file.name
)


def client(ring=None, authorize=None, service=None):
    routes = page_routes(service or FakeService(), ring or LoadHistory(), authorize)
    return TestClient(Starlette(routes=routes))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/docs", "text/html"),
        ("/assets/start.js", "text/javascript"),
        ("/assets/style.css", "text/css"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/assets/theme.js", "text/javascript"),
    ],
)
def test_files_with_their_headers(path, kind):
    with client() as one:
        answer = one.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again = one.get(path, headers={"if-none-match": f'"x", {answer.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == answer.headers["etag"]
        assert one.get(path, headers={"if-none-match": '"other"'}).status_code == 200
        assert one.head(path).status_code == 200
        assert one.post(path).status_code == 405


@pytest.mark.parametrize("path", ["/assets/", "/assets/index.html", "/assets/../http/pages.py"])
def test_nothing_else_is_served(path):
    with client() as one:
        assert one.get(path).status_code == 404


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_pages_load_nothing_from_elsewhere_and_need_no_inline_code(file):
    text = file.read_text()
    found = set(re.findall(r"https?://[^\s\"'`<)]+", text))
    assert found <= {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text
    assert "eval(" not in text
    if file.name.endswith(".html"):
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", text)
        assert 'lang="en"' in text


def test_every_file_that_a_page_names_is_there():
    with client() as one:
        for file in FILES:
            text = file.read_text()
            for path in re.findall(r'"(assets/[^"]+)"', text):
                assert one.get(f"/{path}").status_code == 200, path
            for module in re.findall(r'from "\./([^"]+)"', text):
                assert one.get(f"/assets/{module}").status_code == 200, module


def test_the_state():
    ring = LoadHistory(clock=lambda: 1000.5)
    ring.batch("fake", 3, 40, 100, 0.25)
    ring.record_request(200, 0.01)
    with client(ring) as one:
        answer = one.get("/page/state")
        assert answer.headers["cache-control"] == "no-store"
        state = answer.json()
        assert [model["name"] for model in state["models"]] == ["fake", "fake-reranker"]
        card = state["models"][0]["card"]
        assert card["max_length"] == 8
        assert "source" not in card  # may be a path of this machine
        assert state["models"][0]["max_batch_tokens"] == 4096
        assert state["seconds"][-1]["second"] == 999  # whole seconds only
        assert state["workers"] == 1
        json.dumps(state, allow_nan=False)


def test_a_model_that_is_not_loaded():
    service = FakeService()
    service.states["fake"] = "loading"
    with client(service=service) as one:
        model = one.get("/page/state").json()["models"][0]
        assert (model["state"], model["card"]) == ("loading", None)


@pytest.mark.parametrize("since", ["", "x", "-5", "9" * 5000, "1e3", "²", "٣", "%00"])
def test_since_may_be_nonsense(since):
    with client() as one:
        assert one.get(f"/page/state?since={since}").status_code == 200


@pytest.mark.parametrize(("known", "status"), [(False, 401), (True, 403)])
def test_the_state_needs_a_key_where_the_server_does(known, status):
    def authorize(request):
        raise AccessError("No such key.", known)

    with client(authorize=authorize) as one:
        answer = one.get("/page/state")
        assert answer.status_code == status
        assert answer.json() == {"error": "No such key."}
        assert one.get("/").status_code == 200  # no data is in it


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
