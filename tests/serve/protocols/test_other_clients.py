"""Requests as clients of other servers send them, and what those clients read in the answers.

Bodies and fields are those of Dify's plugins (OpenAI-API-compatible, Ollama), `xinference-client`
4.1, `litellm` 1.110, `ollama` 0.6 and the request and response classes of vLLM 0.32.
"""

import base64
from typing import Any

import numpy as np
import pytest

from tests.support.serve_fakes import ask, client, vector

QUERY, DOCUMENTS = "a cat", ["the cat", "a dog", "rain"]
RERANK = {"model": "fake-reranker", "query": QUERY, "documents": DOCUMENTS}
EMBED = {"model": "fake", "input": ["a cat", "a dog"]}
VECTORS = [vector("None|a cat"), vector("None|a dog")]


def post(path: str, body: Any, status: int = 200) -> Any:
    response = ask(client(), ("POST", path, body))
    assert response.status_code == status, response.text
    return response.json()


def same_vectors(found: Any) -> None:
    np.testing.assert_array_equal(np.asarray(found, dtype=np.float32), VECTORS)


def ranked(results: Any, documents: bool = True) -> None:
    """Check the fields that every client of a rerank route reads."""
    assert sorted(each["index"] for each in results) == [0, 1, 2]
    scores = [each["relevance_score"] for each in results]
    assert all(type(score) is float for score in scores) and scores == sorted(scores)[::-1]
    for each in results:
        assert ("document" in each) == documents
        assert not documents or each["document"]["text"] == DOCUMENTS[each["index"]]


# --- Dify -----------------------------------------------------------------------------------------


def test_dify_embeds() -> None:
    answer = post("/v1/embeddings", EMBED | {"user": "u", "encoding_format": "float"})
    same_vectors([row["embedding"] for row in answer["data"]])
    assert type(answer["usage"]["total_tokens"]) is int
    assert "model" in post("/v1/embeddings", {"input": "ping", "model": "fake"})  # its check
    answer = post("/api/embed", EMBED | {"options": {"use_mmap": True}})
    same_vectors(answer["embeddings"])


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_dify_reranks(path: str) -> None:
    ranked(post(path, RERANK | {"top_n": None, "return_documents": True})["results"])


def test_dify_is_told_of_an_error_by_the_status() -> None:
    post("/v1/embeddings", {"input": "ping", "model": "none"}, 404)
    post("/v1/rerank", RERANK | {"model": "none", "top_n": None, "return_documents": True}, 404)
    post("/api/embed", {"input": ["ping"], "model": "none", "options": {"use_mmap": True}}, 404)


# --- Xinference -----------------------------------------------------------------------------------

# what its client sends for arguments that were not given
NULLS = {"top_n": None, "max_chunks_per_doc": None, "return_len": None, "kwargs": "{}"}


def test_xinference_embeds() -> None:
    http = client()
    assert ask(http, ("GET", "/v1/cluster/auth", None)).status_code == 404  # "has no log-in"
    listed = ask(http, ("GET", "/v1/models", None)).json()["data"]
    assert {"fake", "fake-reranker"} <= {each["id"] for each in listed}
    assert ask(http, ("GET", "/v1/models/fake", None)).json()["model_type"] == "embedding"
    same_vectors([row["embedding"] for row in post("/v1/embeddings", EMBED)["data"]])


@pytest.mark.parametrize("documents", [True, None])
def test_xinference_reranks(documents: bool | None) -> None:
    model = ask(client(), ("GET", "/v1/models/fake-reranker", None)).json()
    assert model["model_type"] == "rerank"
    answer = post("/v1/rerank", RERANK | NULLS | {"return_documents": documents})
    ranked(answer["results"], documents=bool(documents))


def test_xinference_reads_the_detail_of_an_error() -> None:
    body = RERANK | NULLS | {"model": "none", "return_documents": None}
    assert "'none'" in post("/v1/rerank", body, 404)["detail"]
    post("/v1/embeddings", EMBED | {"model": "none"}, 404)  # here its client takes the status


# --- LiteLLM --------------------------------------------------------------------------------------


def test_litellm_embeds() -> None:
    for more in ({}, {"encoding_format": "float"}, {"user": "u"}):  # openai, hosted_vllm
        answer = post("/v1/embeddings", EMBED | more)
        same_vectors([row["embedding"] for row in answer["data"]])
        assert answer["object"] == "list" and answer["model"] == "fake"
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    answer = post("/api/embed", EMBED | {"dimensions": 4, "truncate": True})  # ollama
    assert np.shape(answer["embeddings"]) == (2, 4)
    assert type(answer["prompt_eval_count"]) is int


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/rerank", {"return_documents": True}),  # hosted_vllm
        ("/rerank", {"return_documents": True, "max_tokens_per_doc": 9, "instruction": "Find"}),
        ("/v1/rerank", {"return_documents": True, "max_tokens_per_doc": 9}),
        ("/v1/rerank", {"return_documents": True, "top_n": 3}),  # jina_ai
        ("/v1/rerank", {"return_documents": True, "max_chunks_per_doc": 2}),  # cohere
    ],
)
def test_litellm_reranks(path: str, more: dict[str, Any]) -> None:
    answer = post(path, RERANK | more)
    ranked(answer["results"])
    assert type(answer["id"]) is str
    assert "usage" not in answer or type(answer["usage"]["total_tokens"]) is int


def test_litellm_raises_by_the_status() -> None:
    assert post("/v1/embeddings", EMBED | {"model": "none"}, 404)["error"]["message"]
    assert post("/rerank", RERANK | {"model": "none", "return_documents": True}, 404)["detail"]
    assert post("/api/embed", EMBED | {"model": "none"}, 404)["error"]


# --- Ollama ---------------------------------------------------------------------------------------


def test_ollama_embeds_a_text() -> None:
    answer = post("/api/embed", {"model": "fake", "input": "a cat"})
    np.testing.assert_array_equal(np.float32(answer["embeddings"]), VECTORS[:1])
    numbers = ("total_duration", "load_duration", "prompt_eval_count")
    assert answer["model"] == "fake" and all(type(answer[name]) is int for name in numbers)


def test_ollama_embeds_a_batch() -> None:
    more = {"truncate": True, "options": {"num_ctx": 8}, "keep_alive": "5m", "dimensions": 4}
    assert np.shape(post("/api/embed", EMBED | more)["embeddings"]) == (2, 4)
    nulls = {"truncate": None, "options": None, "keep_alive": None, "dimensions": None}
    same_vectors(post("/api/embed", EMBED | nulls)["embeddings"])


def test_ollama_reads_the_error() -> None:
    message = post("/api/embed", EMBED | {"model": "none"}, 404)["error"]
    assert type(message) is str and "not found" in message


# --- vLLM -----------------------------------------------------------------------------------------


def test_clients_of_vllm_embed() -> None:
    body = EMBED | {"encoding_format": "base64", "truncate_prompt_tokens": None, "user": None}
    answer = post("/v1/embeddings", body)
    same_vectors([np.frombuffer(base64.b64decode(r["embedding"]), "<f4") for r in answer["data"]])
    assert [(row["index"], row["object"]) for row in answer["data"]] == [
        (0, "embedding"),
        (1, "embedding"),
    ]
    texts = {"model": "fake", "texts": EMBED["input"], "input_type": "search_document"}
    answer = post("/v2/embed", texts | {"embedding_types": ["float"], "truncate": "END"})
    assert np.shape(answer["embeddings"]["float"]) == (2, 8)
    assert answer["texts"] == EMBED["input"] and answer["meta"]["billed_units"]["input_tokens"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_clients_of_vllm_rerank(path: str) -> None:
    body = RERANK | {"return_documents": True, "truncate_prompt_tokens": None}
    answer = post(path, body)
    ranked(answer["results"])
    assert type(answer["id"]) is str and answer["model"] == "fake-reranker"
    assert set(answer["usage"]) == {"prompt_tokens", "total_tokens"}


def test_clients_of_vllm_read_the_error() -> None:
    error = post("/v1/embeddings", EMBED | {"truncate_prompt_tokens": 3}, 400)["error"]
    assert "truncate_prompt_tokens" in error["message"] and error["type"]
