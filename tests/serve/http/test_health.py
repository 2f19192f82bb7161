"""A server that is starting: what its probes say, and what happens to those that ask already."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from opengte.serve.inference import loading_queue
from tests.support.inference import Blocked
from tests.support.serve_fakes import ENCODER, RERANKER, FakeAuthorizer, FakeService, ask, client
from tests.support.serve_running import starting
from tests.support.serve_sockets import until

E = "/v1/embeddings"
READINESS = ("/health", "/ping", "/ready", "/readyz")
LIVENESS = ("/healthz", "/livez")


@pytest.fixture
def load():
    loader = Blocked()
    yield loader
    loader.go.set()


@pytest.fixture
def url(load, tmp_path):
    with starting(load, state_dir=str(tmp_path), usage=False) as address:
        yield address
        load.go.set()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as threads:
        yield threads


def embed(url, **options):
    return httpx.post(url + E, json={"input": "a"}, timeout=60, **options)


def test_a_request_that_comes_as_soon_as_the_socket_listens_is_answered(load, url, pool):
    asked = pool.submit(embed, url)
    for path in LIVENESS:
        assert httpx.get(url + path).status_code == 200
    for path in READINESS:
        answer = httpx.get(url + path)
        assert answer.status_code == 503
        assert answer.json()["models"] == {"minilm": "loading"}
        assert answer.headers["retry-after"]
    assert not asked.done()
    load.go.set()
    assert asked.result().status_code == 200
    for path in (*READINESS, *LIVENESS):
        until(lambda path=path: httpx.get(url + path).status_code == 200)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": "a"}),
        ("/", {"inputs": "a"}),
        ("/tokenize", {"inputs": "a"}),
        ("/decode", {"ids": [101]}),
        ("/api/embed", {"model": "minilm", "input": "a"}),
        ("/v2/embed", {"model": "minilm", "texts": ["a"], "input_type": "search_query"}),
        ("/embedding", {"content": "a"}),
    ],
)
def test_every_protocol_waits(load, url, pool, path, body):
    asked = pool.submit(httpx.post, url + path, json=body, timeout=60)
    time.sleep(0.05)
    assert not asked.done()
    load.go.set()
    assert asked.result().status_code == 200


def test_over_the_bound_it_is_refused_and_told_when_to_come_back(load, url, pool, monkeypatch):
    monkeypatch.setattr(loading_queue, "MAX_WAITING", 3)
    asked = [pool.submit(embed, url) for _ in range(4)]
    until(lambda: any(each.done() for each in asked))
    load.go.set()
    answers = sorted((each.result() for each in asked), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 503]
    assert answers[3].headers["retry-after"] == "2"
    assert answers[3].json()["error"]["code"] == "model_not_ready"


def test_a_request_waits_within_its_own_timeout(url):
    answer = embed(url, headers={"x-request-timeout": "0.05"})
    assert answer.status_code == 504
    assert "loading" in answer.json()["error"]["message"]


def test_a_model_that_fails_to_load_fails_those_that_wait_with_its_reason(load, url, pool):
    load.fail = OSError("no such weights")
    asked = [pool.submit(embed, url) for _ in range(2)]
    in_flight = "opengte_requests_in_flight 3.0"  # this one too
    until(lambda: in_flight in httpx.get(url + "/metrics", timeout=60).text)
    load.go.set()
    for each in asked:
        answer = each.result()
        assert answer.status_code == 503
        assert "no such weights" in answer.json()["error"]["message"]
        assert "retry-after" not in answer.headers


def test_a_client_that_leaves_makes_room(url, monkeypatch):
    monkeypatch.setattr(loading_queue, "MAX_WAITING", 1)
    with pytest.raises(httpx.TimeoutException):
        httpx.post(url + E, json={"input": "a"}, timeout=0.2)
    until(lambda: embed(url, headers={"x-request-timeout": "0.05"}).status_code == 504)


@pytest.mark.parametrize(
    ("card", "inputs"),
    [
        (RERANKER, [["a", "b"]]),
        (RERANKER, ["a", "b"]),
        (ENCODER, ["a", "b"]),
    ],
)
def test_what_the_model_decides_is_decided_once_it_is_loaded(card, inputs):
    service = FakeService(card)
    service.states[card.name] = "loading"
    waited = []

    async def wait_loaded(model, kind, tokens, call):
        waited.append((model, tokens))
        service.states[card.name] = "ready"

    service.wait_loaded = wait_loaded
    response = ask(client(service), ("POST", "/", {"inputs": inputs}))
    expected = ask(client(FakeService(card)), ("POST", "/", {"inputs": inputs}))
    assert waited and response.json() == expected.json()
    assert response.status_code == expected.status_code == 200
    assert len(service.asked) == 1


@pytest.mark.parametrize("path", READINESS)
@pytest.mark.parametrize(
    ("key", "seen"),
    [(None, set()), ("wrong", set()), ("bulk", {"fake"}), ("good", {"fake", "fake-reranker"})],
)
@pytest.mark.parametrize("state", ["ready", "loading", "failed"])
def test_probes_name_the_models_that_the_key_is_for(path, key, seen, state):
    service = FakeService()
    service.states = dict.fromkeys(("fake", "fake-reranker"), state)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with client(service, FakeAuthorizer()) as http:
        answer = http.get(path, headers=headers)
    assert set(answer.json()["models"]) == seen
    for hidden in {"fake-reranker"} - seen:
        assert hidden not in answer.text
    if not seen:
        assert "fake" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "/info", None), ("POST", "/api/show", {"model": "minilm"})],
)
def test_facts_of_a_model_that_is_loading(load, url, method, path, body):
    answer = httpx.request(method, url + path, json=body)
    assert answer.status_code == 503
    assert "loading" in answer.text and answer.headers["retry-after"]
    load.go.set()
    until(lambda: httpx.request(method, url + path, json=body).status_code == 200)
