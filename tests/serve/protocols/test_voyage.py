import base64

import numpy as np
import pytest

from tests.support.serve_fakes import FakeService, ask, check_golden, client, vector

E, R, C = "/v1/embeddings", "/v1/rerank", "/v1/contextualizedembeddings"
LONG = "one two three four five six seven"
CASES = {
    "embed": ("POST", E, {"input": ["a cat", "a dog"], "model": "fake", "truncation": True}),
    "embed_query": ("POST", E, {"input": "a", "truncation": True, "input_type": "query"}),
    "embed_base64": (
        "POST",
        E,
        {"input": "a cat", "truncation": True, "encoding_format": "base64"},
    ),
    "embed_int8": ("POST", E, {"input": "a cat", "output_dtype": "int8", "output_dimension": 4}),
    "embed_binary": ("POST", E, {"input": "a cat", "output_dtype": "binary"}),
    "embed_truncated": ("POST", E, {"input": ["a", LONG], "truncation": True}),
    "contextualized": ("POST", C, {"inputs": [["a", "b"], ["c"]], "input_type": "document"}),
    "contextualized_query": ("POST", C, {"inputs": [["a"], ["b"]], "input_type": "query"}),
    "rerank": ("POST", R, {"query": "a", "documents": ["x", "y", "z"], "top_k": 2}),
    "rerank_documents": (
        "POST",
        R,
        {"query": "a", "documents": ["x"], "truncation": True, "return_documents": True},
    ),
    "error_input_type": ("POST", E, {"input": "a", "truncation": True, "input_type": "passage"}),
    "error_dtype": ("POST", E, {"input": "a", "output_dtype": "int4"}),
    "error_empty": ("POST", E, {"input": [], "truncation": True}),
    "error_too_long": ("POST", E, {"input": LONG, "truncation": False}),
    "error_query_of_chunks": ("POST", C, {"inputs": [["a", "b"]], "input_type": "query"}),
    "error_no_chunks": ("POST", C, {"inputs": [["a"], []]}),
    "error_no_documents": ("POST", R, {"query": "a", "documents": [], "top_k": 1}),
    "error_not_json": ("POST", C, "inputs"),
    "error_unknown_model": ("POST", E, {"input": "a", "model": "voyage-3", "truncation": True}),
    "error_wrong_kind": (
        "POST",
        R,
        {"query": "a", "documents": ["x"], "model": "fake", "top_k": 1},
    ),
    "error_overloaded": ("POST", E, {"input": "!overloaded", "truncation": True}),
    "error_loading": ("POST", E, {"input": "!loading", "truncation": True}),
    "error_deadline": ("POST", E, {"input": "!late", "truncation": True}),
    "error_engine": ("POST", C, {"inputs": [["a"], ["!engine"]]}),
    "error_bug": ("POST", C, {"inputs": [["!bug"], ["a"]]}),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden("voyage", name, CASES[name], ask(client(), CASES[name]))


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float", "<f4"), ("int8", "i1"), ("uint8", "u1"), ("binary", "i1"), ("ubinary", "u1")],
)
def test_base64_holds_the_bytes_of_the_type(dtype: str, stored: str) -> None:
    plain = {"input": "a cat", "output_dtype": dtype}
    numbers = ask(client(), ("POST", E, plain)).json()["data"][0]["embedding"]
    body = ask(client(), ("POST", E, plain | {"encoding_format": "base64"})).json()
    found = np.frombuffer(base64.b64decode(body["data"][0]["embedding"]), stored)
    np.testing.assert_array_equal(found, np.array(numbers, found.dtype))
    if dtype == "float":
        np.testing.assert_array_equal(found, vector("None|a cat"))


def test_a_document_is_one_late_chunking_request() -> None:
    service = FakeService()
    ask(client(service), CASES["contextualized"])
    asked = {request.inputs: request for request in service.asked}
    assert asked["a", "b"].late_chunking and not asked["c",].late_chunking
    assert all(request.role == "document" for request in service.asked)


def test_hundreds_of_documents_keep_their_order() -> None:
    inputs = [[f"text {i}"] for i in range(200)]
    data = ask(client(), ("POST", C, {"inputs": inputs})).json()["data"]
    assert [row["index"] for row in data] == list(range(200))
    found = np.array([row["data"][0]["embedding"] for row in data], np.float32)
    np.testing.assert_array_equal(found, [vector(f"None|text {i}") for i in range(200)])
