"""A late-interaction model behind the wire protocols, against the model itself."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="writes a checkpoint with transformers")

from opengte import LateInteraction
from opengte.serve.config.inference import ModelSettings
from tests.support import late
from tests.support.serve_running import running

QUERY = "the cat"
DOCUMENTS = ["the dog, the cat.", "a dog! barks", "the cat sat on the mat"]
pytestmark = pytest.mark.filterwarnings("ignore::opengte.errors.TruncationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LateInteraction:
    folder = late.pylate(tmp_path_factory.mktemp("late") / "model")
    return LateInteraction.load(folder, precision="fp32")


@pytest.fixture(scope="module")
def address(model) -> Iterator[str]:
    settings = ModelSettings(model.card.name, name="late", precision="fp32")
    with running([settings]) as address:
        yield address


def ask(address: str, path: str, body: dict[str, Any], **headers: str) -> Any:
    request = urllib.request.Request(
        address + path,
        json.dumps(body).encode(),
        {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def by_index(results: list[dict[str, Any]], key: str = "relevance_score") -> list[float]:
    return [row[key] for row in sorted(results, key=lambda row: row["index"])]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/reranking"])
def test_rerank_is_the_mean_of_maxsim(model, address, path):
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "late"}
    found = by_index(ask(address, path, body)["results"])
    (query,) = model.encode_query([QUERY])
    np.testing.assert_allclose(found, model.score(QUERY, DOCUMENTS) / len(query), rtol=1e-5)


def test_rerank_of_tei_and_raw_scores(model, address):
    body = {"query": QUERY, "texts": [*DOCUMENTS, DOCUMENTS[0]], "raw_scores": True}
    found = by_index(ask(address, "/rerank", body), "score")
    expected = model.score(QUERY, [*DOCUMENTS, DOCUMENTS[0]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("role", ["query", "document"])
def test_token_vectors_of_openai(model, address, role):
    body = {"input": DOCUMENTS, "outputs": ["tokens"], "input_type": role}
    rows = ask(address, "/v1/embeddings", body)["data"]
    expected = getattr(model, f"encode_{role}")(DOCUMENTS)
    for row, vectors in zip(rows, expected, strict=True):
        assert row["embedding"] is None
        np.testing.assert_allclose(row["tokens"], vectors, atol=1e-6)


def test_token_vectors_of_jina(model, address):
    body = {"input": DOCUMENTS, "return_multivector": True, "task": "retrieval.query"}
    rows = ask(address, "/v1/embeddings", body)["data"]
    for row, vectors in zip(rows, model.encode_query(DOCUMENTS), strict=True):
        assert "embedding" not in row
        np.testing.assert_allclose(row["embeddings"], vectors, atol=1e-6)


def test_a_long_query_is_reported(address):
    body = {"query": "the cat " * 20, "documents": DOCUMENTS, "details": True, "top_n": 3}
    answer = ask(address, "/v1/rerank", body | {"raw_scores": True})
    assert [row["truncated"] for row in answer["inputs"]] == [True] * 3
    refused = ask(address, "/v1/rerank", body | {"raw_scores": True, "truncate": False})
    assert "more than max_length = 12" in refused["detail"]


def test_what_it_cannot_do_is_said(address):
    answer = ask(address, "/v1/embeddings", {"input": "a cat"})
    assert "LateInteraction scores with it" in answer["error"]["message"]
    body = {"query": QUERY, "documents": DOCUMENTS, "instruction": "find", "raw_scores": True}
    assert "takes none" in ask(address, "/v1/rerank", body)["detail"]
