"""Engines that fail, hang or compute nonsense: only the requests in it fail, and it shows."""

import threading
import time

import httpx
import numpy as np
import pytest

from opengte import Encoder
from opengte.engine.base import EngineResult
from opengte.serve.config.settings import ServerSettings
from opengte.serve.runtime.background import background

pytestmark = pytest.mark.slow

FAULTY = "zebra"  # one token


class Faulty:
    """An engine that does something wrong with batches that have a word in them."""

    def __init__(self, engine, token):
        self.engine = engine
        self._token = token
        self.fault = "raise"
        self.batches = 0
        self.faults = 0
        self.release = threading.Event()
        for name in ("name", "precision", "device", "threads", "max_batch_tokens"):
            setattr(self, name, getattr(engine, name))

    def run(self, batch, outputs):
        self.batches += 1
        if self._token not in batch.ids:
            return self.engine.run(batch, outputs)
        self.faults += 1
        if self.fault == "raise":
            raise RuntimeError("an illegal instruction")
        if self.fault == "hang":
            self.release.wait(60)
        result = self.engine.run(batch, outputs)
        if self.fault == "nan":
            return EngineResult(dense=np.full_like(result.dense, np.nan))
        if self.fault == "short":
            return EngineResult(dense=result.dense[:-1])
        return result

    def score(self, batch):
        return self.engine.score(batch)


class Served:
    def __init__(self, running, engines, forbidden):
        self.running, self.engines = running, engines
        self.forbidden = forbidden  # set: loading fails
        self.client = httpx.Client(base_url=running.url, timeout=60)

    def embed(self, *texts, **more):
        return self.client.post("/v1/embeddings", json={"input": list(texts), **more})

    def metric(self, name):
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture
def served(tmp_path):
    engines = []
    forbidden = threading.Event()

    def load(settings):
        if forbidden.is_set():
            raise OSError("the disk with the model is gone")
        encoder = Encoder.load("minilm", threads=1)
        token = int(encoder.tokenizer.encode([FAULTY], max_length=16).batch.ids[1])
        engines.append(Faulty(encoder.engine, token))
        return Encoder(encoder.checkpoint, engines[-1])

    settings = ServerSettings(
        model=("minilm",), port=0, state_dir=str(tmp_path), cache_memory=0, batch_seconds=1.0
    )
    with background(settings, load) as running:
        one = Served(running, engines, forbidden)
        with one.client:
            yield one
            for engine in engines:
                engine.release.set()


@pytest.mark.parametrize("fault", ["raise", "nan", "short"])
def test_a_fault_fails_only_the_requests_in_it(served, fault):
    served.engines[0].fault = fault
    good = served.embed("a good text").json()["data"]
    results = {}

    def ask(name, text):
        results[name] = served.embed(text)

    threads = [
        threading.Thread(target=ask, args=(i, FAULTY if i == 7 else f"good {i}")) for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[7].status_code == 500
    assert results[7].json()["error"]["type"]
    assert "illegal instruction" not in results[7].text
    assert {results[i].status_code for i in range(16) if i != 7} == {200}
    assert served.embed("a good text").json()["data"] == good
    assert served.engines[0].faults >= 1


@pytest.mark.parametrize("fault", ["raise", "nan"])
def test_a_fault_is_counted_and_refused_the_next_time(served, fault):
    served.engines[0].fault = fault
    assert served.embed("good", FAULTY, "good too").status_code >= 400
    seen = served.engines[0].faults
    again = served.embed(FAULTY)
    assert again.status_code >= 400
    assert served.engines[0].faults == seen  # the engine does not see it a second time
    assert served.embed("good", "good too").status_code == 200
    assert served.metric("opengte_") > 0
    assert "fault" in served.client.get("/metrics").text


def test_where_the_protocol_allows_the_others_succeed(served):
    answer = served.embed("good", FAULTY, "good too", partial=True)
    assert answer.status_code == 200
    data = answer.json()["data"]
    assert [item["embedding"] is None for item in data] == [False, True, False]
    (report,) = [one for one in answer.json()["inputs"] if one.get("error")]
    assert report["index"] == 1


def test_a_hang_fails_only_its_request_and_health_tells(served):
    served.engines[0].fault = "hang"
    start = time.monotonic()
    results = []
    hanging = threading.Thread(target=lambda: results.append(served.embed(FAULTY)))
    hanging.start()
    statuses = set()
    while hanging.is_alive() and time.monotonic() < start + 40:
        statuses.add(served.client.get("/health").status_code)
        time.sleep(0.1)
    hanging.join(60)
    assert time.monotonic() - start < 40
    assert results[0].status_code in (500, 503, 504)
    # afterwards: either at work again with a new engine, or it says that it is not
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and served.client.get("/health").status_code != 200:
        statuses.add(served.client.get("/health").status_code)
        time.sleep(0.2)
    assert served.client.get("/health").status_code == 200
    assert served.embed("good").status_code == 200
    assert 503 in statuses


def test_an_engine_that_always_fails_is_told_by_health(served):
    served.forbidden.set()  # no new engine can be had
    served.engines[0].engine = Broken()
    for i in range(3):
        assert served.embed(f"anything at all {i}").status_code >= 500
    deadline = time.monotonic() + 10
    while served.client.get("/health").status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert served.client.get("/health").status_code == 503


class Broken:
    def run(self, batch, outputs):
        raise RuntimeError("broken for good")
