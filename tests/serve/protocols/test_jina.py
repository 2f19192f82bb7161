import pytest

from tests.support.serve_fakes import FakeService, ask, check_golden, client

E, R = "/v1/embeddings", "/v1/rerank"
LONG = "one two three four five six seven"
CASES = {
    "embed": ("POST", E, {"input": ["a cat", {"text": "a dog"}], "task": "retrieval.passage"}),
    "embed_late": ("POST", E, {"input": ["a", "b c"], "late_chunking": True}),
    "embed_base64": ("POST", E, {"input": "a", "embedding_type": "base64"}),
    "embed_binary": ("POST", E, {"input": "a", "embedding_type": "binary"}),
    "embed_ubinary": ("POST", E, {"input": "a", "embedding_type": "ubinary"}),
    "embed_not_normalised": ("POST", E, {"input": "a", "normalized": False, "dimensions": 4}),
    "embed_partial": ("POST", E, {"input": ["a", "!bad"], "task": "separation", "partial": True}),
    "embed_truncated": ("POST", E, {"input": LONG, "task": "text-matching", "details": True}),
    "rerank": ("POST", R, {"query": "a", "documents": ["x", "y", "z"], "top_n": 2}),
    "rerank_documents": (
        "POST",
        R,
        {"query": "a", "documents": ["x", {"text": "y", "id": 7}], "return_documents": True},
    ),
    "rerank_at_its_other_path": ("POST", "/rerank", {"query": "a", "documents": ["x", "y"]}),
    "rerank_raw": ("POST", R, {"query": "a", "documents": ["x"], "raw_scores": True}),
    "rerank_details": ("POST", R, {"query": "a", "documents": [LONG], "details": True}),
    "error_task": ("POST", E, {"input": "a", "task": "painting"}),
    "error_input": ("POST", E, {"input": [{"image": "x"}], "task": "classification"}),
    "error_empty": ("POST", E, {"input": [], "task": "classification"}),
    "embed_multivector": ("POST", E, {"input": "a", "return_multivector": True}),
    "error_too_long": ("POST", E, {"input": LONG, "task": "classification", "truncate": False}),
    "error_no_documents": ("POST", R, {"query": "a", "documents": []}),
    "error_no_query": ("POST", R, {"documents": ["a"]}),
    "error_top_n": ("POST", R, {"query": "a", "documents": ["a"], "top_n": 0}),
    "error_document": ("POST", R, {"query": "a", "documents": ["a", {"title": "b"}]}),
    "error_not_json": ("POST", R, "documents"),
    "error_unknown_model": ("POST", R, {"query": "a", "documents": ["x"], "model": "none"}),
    "error_wrong_kind": ("POST", R, {"query": "a", "documents": ["x"], "model": "fake"}),
    "error_overloaded": ("POST", R, {"query": "a", "documents": ["!overloaded"]}),
    "error_loading": ("POST", R, {"query": "a", "documents": ["!loading"]}),
    "error_deadline": ("POST", R, {"query": "a", "documents": ["!late"]}),
    "error_engine": ("POST", R, {"query": "a", "documents": ["!engine"]}),
    "error_bug": ("POST", R, {"query": "a", "documents": ["!bug"]}),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden("jina", name, CASES[name], ask(client(), CASES[name]))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"task": "retrieval.query"}, {"role": "query", "late_chunking": False}),
        ({"task": "retrieval.passage"}, {"role": "document"}),
        ({"late_chunking": True}, {"late_chunking": True, "normalize": True}),
        ({"normalized": False}, {"normalize": False}),
    ],
)
def test_what_is_asked_of_the_service(body: dict, expected: dict) -> None:
    service = FakeService()
    assert ask(client(service), ("POST", E, {"input": ["a"], **body})).status_code == 200
    for name, value in expected.items():
        assert getattr(service.asked[0], name) == value


def test_best_documents_come_first() -> None:
    body = {"query": "a", "documents": [str(n) for n in range(20)]}
    results = ask(client(), ("POST", R, body)).json()["results"]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True) and len(scores) == 20


@pytest.mark.parametrize("path", [R, "/v2/rerank"])
def test_a_document_comes_back_to_the_last_digit(path: str) -> None:
    deep: dict = {}
    for _ in range(300):
        deep = {"in": deep}
    document = {"text": "ü", "id": 2**64, "more": [-(2**70), 1e300, 0.1, True, None], "deep": deep}
    body = {
        "query": "a",
        "documents": [document, "y"],
        "return_documents": True,
    }
    response = ask(client(), ("POST", path, body))
    assert response.status_code == 200, response.text
    returned = [result["document"] for result in response.json()["results"]]
    assert document in returned and {"text": "y"} in returned
