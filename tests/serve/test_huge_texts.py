"""A text of megabytes, in every protocol: read as far as needed, charged as read, and said so."""

import httpx
import numpy as np
import pytest

from opengte.serve.config.inference import ModelSettings
from opengte.serve.http.handler import READ_WHOLE
from opengte.serve.types import Caller
from opengte.tokenization.long_texts import LONG
from tests.support import checkpoints
from tests.support.serve_running import running

pytestmark = pytest.mark.slow

HUGE = "word " * 600_000
SAME = "word " * 300  # the same first 256 tokens


class Ledger:
    """An authorizer that lets everyone in and notes what it is told."""

    def __init__(self):
        self.reserved, self.charged = [], []

    def authenticate(self, secret, model):
        return Caller("team")

    def may_use(self, caller, model):
        return True

    def reserve(self, caller, model, tokens):
        self.reserved.append(tokens)

    def record(self, caller, model, tokens, texts):
        self.charged.append(tokens)


@pytest.fixture(scope="module")
def ledger():
    return Ledger()


@pytest.fixture(scope="module")
def http(tmp_path_factory, ledger):
    folder = tmp_path_factory.mktemp("reranker")
    checkpoints.new_model(folder, architectures=["NewForSequenceClassification"], num_labels=1)
    models = [
        ModelSettings("minilm", precision="fp32", offline=True),
        ModelSettings(str(folder), name="reranker", engine="torch", precision="fp32"),
    ]
    with running(models, ledger) as url, httpx.Client(base_url=url, timeout=100) as client:
        yield client


EMBED = {
    "openai": ("/v1/embeddings", "input", lambda body: body["data"][0]["embedding"]),
    "tei": ("/embed", "inputs", lambda body: body[0]),
    "cohere": ("/v2/embed", "texts", lambda body: body["embeddings"]["float"][0]),
    "jina": ("/v1/embeddings", "input", lambda body: body["data"][0]["embedding"]),
    "voyage": ("/v1/embeddings", "input", lambda body: body["data"][0]["embedding"]),
    "ollama": ("/api/embed", "input", lambda body: body["embeddings"][0]),
    "llamacpp": ("/embedding", "content", lambda body: body[0]["embedding"][0]),
}
EXTRA = {  # by which the protocols on one path are told apart, among others
    "cohere": {"input_type": "classification"},
    "jina": {"task": "classification"},
    "voyage": {"truncation": True},
    "tei": {"truncate": True},
}
USAGE = {
    "openai": lambda body: body["usage"]["prompt_tokens"],
    "jina": lambda body: body["usage"]["total_tokens"],
    "voyage": lambda body: body["usage"]["total_tokens"],
    "cohere": lambda body: body["meta"]["billed_units"]["input_tokens"],
}


@pytest.mark.parametrize("protocol", EMBED)
def test_the_vector_is_that_of_the_beginning_and_what_was_read_is_charged(protocol, http, ledger):
    path, name, vector = EMBED[protocol]
    found = []
    for text in (SAME, HUGE):
        value = text if protocol in ("openai", "tei", "ollama", "llamacpp") else [text]
        request = {"model": "minilm", name: value, **EXTRA.get(protocol, {})}
        answer = http.post(path, json=request)
        assert answer.status_code == 200, answer.text
        found.append(answer)
    bodies = [answer.json() for answer in found]
    np.testing.assert_allclose(vector(bodies[1]), vector(bodies[0]), atol=1e-6)
    assert [a.headers["x-opengte-truncated"] for a in found] == ["1; indices=0"] * 2
    assert ledger.charged[-2] == 302 and 302 < ledger.charged[-1] <= LONG / 4 + 2
    assert ledger.reserved[-2:] == [377, LONG // 4]
    if protocol in USAGE:
        assert [USAGE[protocol](body) for body in bodies] == ledger.charged[-2:]
    if protocol in ("openai", "jina", "voyage"):
        exact, bound = (body["inputs"][0] for body in bodies)
        assert exact == {"index": 0, "tokens": 302, "embedded_tokens": 256, "truncated": True}
        expected = {"tokens": ledger.charged[-1], "at_least": True}
        assert bound == exact | expected
    if protocol == "cohere":
        assert bodies[0]["meta"]["warnings"][0].endswith("256 of 302 tokens were read.")
        assert "256 of at least " in bodies[1]["meta"]["warnings"][0]


@pytest.mark.parametrize("protocol", ["openai", "jina"])
def test_the_bound_is_kept_in_the_cache(protocol, http):
    path, name, _ = EMBED[protocol]
    request = {"model": "minilm", name: [HUGE + protocol], **EXTRA.get(protocol, {})}
    first, again = (http.post(path, json=request).json() for _ in range(2))
    assert again["inputs"] == first["inputs"] and again["inputs"][0]["at_least"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": HUGE, "truncate": False}),
        ("/embed", {"inputs": HUGE, "truncate": False}),
        ("/v2/embed", {"texts": [HUGE], "input_type": "classification", "truncate": "NONE"}),
        ("/v1/embeddings", {"input": [HUGE], "truncation": False}),
        ("/api/embed", {"input": HUGE, "truncate": False}),
    ],
)
def test_the_error_says_that_the_count_is_a_bound(http, path, body):
    answer = http.post(path, json={"model": "minilm", **body})
    assert 400 <= answer.status_code < 500
    if path != "/api/embed":  # Ollama has words of its own
        assert "has at least " in answer.text


def test_documents_of_a_reranker(http, ledger):
    request = {"model": "reranker", "query": "word", "documents": ["a cat", HUGE]}
    short = request | {"documents": ["a cat", SAME]}
    for path in ("/v2/rerank", "/v1/rerank"):
        scores = []
        for body in (request, short):
            answer = http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            results = {row["index"]: row["relevance_score"] for row in answer.json()["results"]}
            scores.append(results[0])
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert max(ledger.charged[-4:]) <= LONG


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {"inputs": HUGE}), ("/tokenize", {"content": HUGE})],
    ids=["tei", "llamacpp"],
)
def test_a_list_of_all_tokens_is_refused(http, path, body):
    answer = http.post(path, json={"model": "minilm", **body})
    assert answer.status_code in (400, 422)
    assert "3000000 characters together; expected up to 262144" in answer.text


def test_the_estimate_knows_how_much_is_read():
    assert READ_WHOLE == LONG
