import base64

import numpy as np
import pytest

from tests.support.serve_fakes import FakeService, ask, check_golden, client, vector

LONG = "one two three four five six seven"
ALL = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
SDK = {"x-fern-sdk-name": "cohere"}
CASES = {
    "v2_embed": (
        "POST",
        "/v2/embed",
        {
            "model": "fake",
            "texts": ["a cat", "a dog"],
            "input_type": "search_document",
            "embedding_types": ["float"],
        },
    ),
    "v2_embed_all_types": (
        "POST",
        "/v2/embed",
        {"model": "fake", "texts": ["a cat"], "embedding_types": ALL},
    ),
    "v2_embed_inputs": (
        "POST",
        "/v2/embed",
        {
            "model": "fake",
            "inputs": [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "input_type": "search_query",
            "output_dimension": 4,
        },
    ),
    "v2_embed_truncated": ("POST", "/v2/embed", {"model": "fake", "texts": ["a", LONG]}),
    "v2_embed_bulk": ("POST", "/v2/embed", {"model": "fake", "texts": ["a"], "priority": 5}),
    "v1_embed": ("POST", "/v1/embed", {"texts": ["a cat"], "input_type": "clustering"}),
    "v1_embed_types": ("POST", "/v1/embed", {"texts": ["a cat"], "embedding_types": ["int8"]}),
    "v2_rerank": (
        "POST",
        "/v2/rerank",
        {"model": "fake-reranker", "query": "a", "documents": ["x", "y", "z"], "top_n": 2},
    ),
    "v1_rerank": (
        "POST",
        "/v1/rerank",
        {
            "query": "a",
            "documents": [{"title": "x", "text": "y"}, "z"],
            "rank_fields": ["title", "text"],
            "return_documents": True,
            "max_chunks_per_doc": 3,
        },
    ),
    "v1_rerank_sdk": ("POST", "/v1/rerank", {"query": "a", "documents": ["x", "y"]}, SDK),
    "error_images": ("POST", "/v2/embed", {"model": "fake", "images": ["data:"]}),
    "error_no_texts": ("POST", "/v2/embed", {"model": "fake"}),
    "error_both": ("POST", "/v2/embed", {"texts": ["a"], "inputs": []}),
    "error_empty": ("POST", "/v2/embed", {"texts": []}),
    "error_type": ("POST", "/v2/embed", {"texts": ["a"], "embedding_types": ["int4"]}),
    "error_input_type": ("POST", "/v2/embed", {"texts": ["a"], "input_type": "image"}),
    "error_too_long": ("POST", "/v2/embed", {"texts": [LONG], "truncate": "NONE"}),
    "error_max_tokens": ("POST", "/v2/embed", {"texts": ["a"], "max_tokens": 4}),
    "error_document": ("POST", "/v2/rerank", {"query": "a", "documents": [{"title": "x"}]}),
    "error_no_documents": ("POST", "/v2/rerank", {"query": "a", "documents": []}),
    "error_not_json": ("POST", "/v2/rerank", "nothing"),
    "error_unknown_model": ("POST", "/v2/embed", {"model": "embed-v4.0", "texts": ["a"]}),
    "error_wrong_kind": (
        "POST",
        "/v2/rerank",
        {"model": "fake", "query": "a", "documents": ["x"]},
    ),
    "error_overloaded": ("POST", "/v2/embed", {"texts": ["!overloaded"]}),
    "error_loading": ("POST", "/v2/embed", {"texts": ["!loading"]}),
    "error_deadline": ("POST", "/v2/embed", {"texts": ["!late"]}),
    "error_engine": ("POST", "/v2/embed", {"texts": ["!engine"]}),
    "error_bug": ("POST", "/v2/embed", {"texts": ["!bug"]}),
    "error_no_route": ("POST", "/v2/chat", {}),
    "error_method": ("GET", "/v2/embed", None),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden("cohere", name, CASES[name], ask(client(), CASES[name]))


def test_types_say_the_same_vector() -> None:
    by_type = ask(client(), CASES["v2_embed_all_types"]).json()["embeddings"]
    expected = vector("None|a cat")
    found = np.frombuffer(base64.b64decode(by_type["base64"][0]), "<f4")
    np.testing.assert_array_equal(found, expected)
    step = 6 / np.sqrt(8) / 127
    np.testing.assert_allclose(np.array(by_type["int8"][0]) * step, expected, atol=step / 2 + 1e-6)
    assert [value + 128 for value in by_type["int8"][0]] == by_type["uint8"][0]
    assert [value - 128 for value in by_type["ubinary"][0]] == by_type["binary"][0]
    bits = f"{by_type['ubinary'][0][0]:08b}"
    assert bits == "".join("1" if value > 0 else "0" for value in expected)


def test_documents_are_cut_to_4096_tokens_unless_it_says() -> None:
    service = FakeService()
    http = client(service)
    ask(http, ("POST", "/v2/rerank", {"query": "a", "documents": ["x"]}))
    ask(http, ("POST", "/v2/rerank", {"query": "a", "documents": ["x"], "max_tokens_per_doc": 9}))
    assert [asked.max_document_tokens for asked in service.asked] == [4096, 9]


def test_a_search_unit_is_a_hundred_documents() -> None:
    body = {"query": "a", "documents": ["x"] * 101}
    meta = ask(client(), ("POST", "/v2/rerank", body)).json()["meta"]
    assert meta["billed_units"] == {"search_units": 2}
