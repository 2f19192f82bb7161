import pytest

from tests.support.serve_fakes import ask, check_golden, client

LONG = "one two three four five six seven"
CASES = {
    "embedding": ("POST", "/embedding", {"content": "a cat"}),
    "embeddings": ("POST", "/embeddings", {"content": ["a", [1, 2]]}),
    "embedding_ids": ("POST", "/embedding", {"content": [1, 2]}),
    "embedding_raw": ("POST", "/embedding", {"content": "a", "embd_normalize": -1}),
    "tokenize": ("POST", "/tokenize", {"content": "a cat"}),
    "tokenize_pieces": (
        "POST",
        "/tokenize",
        {"content": "a cat", "add_special": True, "with_pieces": True, "parse_special": False},
    ),
    "detokenize": ("POST", "/detokenize", {"tokens": [1, 2]}),
    "reranking": ("POST", "/reranking", {"query": "a", "documents": ["x", "y"]}),
    "error_empty": ("POST", "/embedding", {"content": []}),
    "error_norm": ("POST", "/embedding", {"content": "a", "embd_normalize": 7}),
    "error_not_json": ("POST", "/detokenize", "tokens"),
    "error_type": ("POST", "/detokenize", {"tokens": ["a"]}),
    "error_unknown_model": ("POST", "/embedding", {"content": "a", "model": "none"}),
    "error_wrong_kind": ("POST", "/embedding", {"content": "a", "model": "fake-reranker"}),
    "error_overloaded": ("POST", "/embedding", {"content": "!overloaded"}),
    "error_loading": ("POST", "/embedding", {"content": "!loading"}),
    "error_engine": ("POST", "/embedding", {"content": "!engine"}),
    "error_bug": ("POST", "/embedding", {"content": "!bug"}),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden("llamacpp", name, CASES[name], ask(client(), CASES[name]))


def test_golden_too_long() -> None:
    request = ("POST", "/embedding", {"content": LONG})
    response = ask(client(auto_truncate=False), request)
    check_golden("llamacpp", "error_too_long", request, response)
