import numpy as np
import pytest

from tests.support.serve_fakes import (
    ENCODER,
    RERANKER,
    FakeAuthorizer,
    FakeService,
    ask,
    check_golden,
    client,
    vector,
)

LONG = "one two three four five six seven"
CASES = {
    "embed": ("POST", "/embed", {"inputs": "a cat"}),
    "embed_batch": ("POST", "/embed", {"inputs": ["a cat", "a dog"], "dimensions": 4}),
    "embed_ids": ("POST", "/embed", {"inputs": [1, 2, 3]}),
    "embed_mixed": ("POST", "/embed", {"inputs": ["a", [1, 2]]}),
    "embed_raw": ("POST", "/embed", {"inputs": "a", "normalize": False}),
    "embed_truncated": ("POST", "/embed", {"inputs": ["a", LONG]}),
    "embed_left": (
        "POST",
        "/embed",
        {"inputs": LONG, "truncate": True, "truncation_direction": "Left"},
    ),
    "embed_query": ("POST", "/embed", {"inputs": "a", "input_type": "query"}),
    "embed_partial": ("POST", "/embed", {"inputs": ["a", "!bad"], "partial": True}),
    "embed_all": ("POST", "/embed_all", {"inputs": ["a", "b c"]}),
    "embed_sparse": ("POST", "/embed_sparse", {"inputs": ["a"]}),
    "predict": ("POST", "/predict", {"inputs": ["a cat", "a dog"]}),
    "predict_batch": ("POST", "/predict", {"inputs": [["a", "b"], ["c", "d"]]}),
    "predict_raw": ("POST", "/predict", {"inputs": ["a", "b"], "raw_scores": True}),
    "rerank": ("POST", "/rerank", {"query": "a", "texts": ["x", "y", "z"]}),
    "rerank_text": (
        "POST",
        "/rerank",
        {"query": "a", "texts": ["x", "y"], "return_text": True, "raw_scores": True},
    ),
    "similarity": (
        "POST",
        "/similarity",
        {"inputs": {"source_sentence": "a", "sentences": ["a", "b", "c"]}},
    ),
    "tokenize": ("POST", "/tokenize", {"inputs": "a cat"}),
    "tokenize_plain": ("POST", "/tokenize", {"inputs": ["a", "b"], "add_special_tokens": False}),
    "decode": ("POST", "/decode", {"ids": [101, 1, 2, 102]}),
    "decode_batch": ("POST", "/decode", {"ids": [[1], [101, 2]], "skip_special_tokens": False}),
    "root_embed": ("POST", "/", {"inputs": ["a cat"]}),
    "root_similarity": (
        "POST",
        "/",
        {"inputs": {"source_sentence": "a", "sentences": ["a", "b"]}},
    ),
    "root_rerank": ("POST", "/", {"query": "a", "texts": ["x", "y"]}),
    "invocations": ("POST", "/invocations", {"inputs": "a cat"}),
    "vertex": (
        "POST",
        "/vertex",
        {
            "instances": [
                {"type": "embed", "inputs": "a"},
                {"type": "embed_sparse", "inputs": ["a"]},
                {"type": "tokenize", "inputs": "a b"},
                {"type": "rerank", "query": "a", "texts": ["x", "y"]},
                {"type": "predict", "inputs": ["a", "b"]},
            ]
        },
    ),
    "info": ("GET", "/info", None),
    "error_empty": ("POST", "/embed", {"inputs": []}),
    "error_no_texts": ("POST", "/rerank", {"query": "a", "texts": []}),
    "error_type": ("POST", "/embed", {"inputs": 1}),
    "error_missing": ("POST", "/embed", {}),
    "error_not_json": ("POST", "/embed", "inputs=a"),
    "error_too_long": ("POST", "/embed", {"inputs": ["a", LONG], "truncate": False}),
    "error_direction": ("POST", "/embed", {"inputs": "a", "truncation_direction": "Up"}),
    "error_no_pair": ("POST", "/predict", {"inputs": "a"}),
    "error_no_pair_in_batch": ("POST", "/predict", {"inputs": [["a", "b"], ["c"]]}),
    "error_mixed_ids": ("POST", "/decode", {"ids": [1, [2]]}),
    "error_parameters": (
        "POST",
        "/similarity",
        {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"top": 1}},
    ),
    "error_wrong_kind": ("POST", "/embed", {"inputs": "a", "model": "fake-reranker"}),
    "error_unknown_model": ("POST", "/embed", {"inputs": "a", "model": "none"}),
    "error_overloaded": ("POST", "/embed", {"inputs": "!overloaded"}),
    "error_loading": ("POST", "/embed", {"inputs": "!loading"}),
    "error_engine": ("POST", "/embed", {"inputs": "!engine"}),
    "error_deadline": ("POST", "/embed", {"inputs": "!late"}),
    "error_bug": ("POST", "/rerank", {"query": "a", "texts": ["!bug"]}),
    "error_vertex_models": (
        "POST",
        "/vertex",
        {
            "instances": [
                {"type": "embed", "inputs": "a", "model": "fake"},
                {"type": "embed", "inputs": "a", "model": "other"},
            ]
        },
    ),
    "error_vertex_type": ("POST", "/vertex", {"instances": [{"type": "draw"}]}),
    "error_method": ("GET", "/embed", None),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    computed = name.endswith("similarity")
    check_golden("tei", name, CASES[name], ask(client(), CASES[name]), computed)


def test_golden_without_a_key() -> None:
    request = ("POST", "/embed", {"inputs": "a"})
    check_golden("tei", "error_no_key", request, ask(client(authorizer=FakeAuthorizer()), request))


def test_golden_status_of_older_versions() -> None:
    for name in ("error_too_long", "error_type"):
        response = ask(client(tei_validation_status=413), CASES[name])
        check_golden("tei", f"{name}_413", CASES[name], response)


def test_the_root_of_a_reranker_predicts() -> None:
    service = FakeService(RERANKER, ENCODER)
    response = ask(client(service), ("POST", "/", {"inputs": ["a cat", "a dog"]}))
    assert response.json() == [{"score": response.json()[0]["score"], "label": "LABEL_0"}]


def test_info_of_a_reranker_and_before_loading() -> None:
    service = FakeService(RERANKER)
    info = ask(client(service), CASES["info"]).json()
    assert info["model_type"] == {
        "reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    }
    service.states["fake-reranker"] = "loading"
    assert ask(client(service), CASES["info"]).status_code == 503


def test_headers_are_whole_milliseconds_and_server_timing_is_finer() -> None:
    headers = ask(client(), CASES["embed"]).headers
    assert headers["x-inference-time"] == "3" and headers["x-queue-time"] == "2"
    assert headers["x-compute-tokens"] == "4" and headers["x-compute-characters"] == "5"
    assert (
        "tok;dur=1.100, queue;dur=2.200, compute;dur=3.300, total;dur="
        in (headers["server-timing"])
    )
    assert headers["x-total-time"].isdigit() and headers["x-compute-time"].isdigit()


def test_similarity_is_the_inner_product() -> None:
    found = ask(client(), CASES["similarity"]).json()
    expected = [float(vector("None|a") @ vector(f"None|{text}")) for text in "abc"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
