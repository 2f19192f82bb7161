import base64

import numpy as np
import pytest

from opengte.serve.types import EmbedRequest
from tests.support.serve_fakes import FakeService, ask, check_golden, client, vector

E = "/v1/embeddings"
CASES = {
    "one_text": ("POST", E, {"input": "a cat", "model": "fake"}),
    "texts": ("POST", E, {"input": ["a cat", "a dog"], "model": "fake"}),
    "without_model": ("POST", E, {"input": "a cat"}),
    "base64": ("POST", E, {"input": "a cat", "model": "fake", "encoding_format": "base64"}),
    "dimensions": ("POST", E, {"input": "a cat", "model": "fake", "dimensions": 4}),
    "query": ("POST", E, {"input": "a cat", "model": "fake", "input_type": "query"}),
    "instruction": (
        "POST",
        E,
        {"input": "a cat", "model": "fake", "input_type": "query", "instruction": "Find"},
    ),
    "truncated": ("POST", E, {"input": ["a", "one two three four five six seven"]}),
    "details": ("POST", E, {"input": ["a", "b c"], "details": True}),
    "partial": ("POST", E, {"input": ["a", "!bad"], "partial": True}),
    "sparse_and_tokens": (
        "POST",
        E,
        {"input": "a", "outputs": ["dense", "sparse", "tokens"]},
    ),
    "ignored_fields": ("POST", E, {"input": "a", "user": "u", "colour": 1, "größe": 2}),
    "own_ids": ("POST", E, {"input": [[1, 2], [3]], "token_ids": "model"}),
    "azure": ("POST", "/openai/deployments/fake/embeddings?api-version=2024-02-01", {"input": "a"}),
    "azure_unknown": ("POST", "/openai/deployments/none/such/embeddings", {"input": "a"}),
    "models": ("GET", "/v1/models", None),
    "model": ("GET", "/v1/models/fake", None),
    "error_model": ("GET", "/v1/models/none/such", None),
    "error_unknown_model": ("POST", E, {"input": "a", "model": "gpt-4"}),
    "error_not_json": ("POST", E, "{'input': 'a'}"),
    "error_not_an_object": ("POST", E, ["a"]),
    "error_no_input": ("POST", E, {"model": "fake"}),
    "error_empty_input": ("POST", E, {"input": []}),
    "error_empty_text": ("POST", E, {"input": ["a", ""]}),
    "error_mixed_input": ("POST", E, {"input": [1, "a"]}),
    "error_type": ("POST", E, {"input": "a", "dimensions": "many"}),
    "error_dimensions": ("POST", E, {"input": "a", "dimensions": 0}),
    "error_too_many_dimensions": ("POST", E, {"input": "a", "dimensions": 9}),
    "error_format": ("POST", E, {"input": "a", "encoding_format": "int4"}),
    "error_too_long": ("POST", E, {"input": "1 2 3 4 5 6 7", "truncate": False}),
    "error_foreign_ids": ("POST", E, {"input": [[1, 2], [3]], "model": "fake"}),
    "error_foreign_ids_openai": (
        "POST",
        E,
        {"input": [1, 2], "model": "text-embedding-3-small"},
    ),
    "error_bad_input": ("POST", E, {"input": ["a", "!bad"]}),
    "error_refused_field": ("POST", E, {"input": "a", "prompt": "ask: "}),
    "error_engine": ("POST", E, {"input": "!engine"}),
    "error_overloaded": ("POST", E, {"input": "!overloaded"}),
    "error_loading": ("POST", E, {"input": "!loading"}),
    "error_deadline": ("POST", E, {"input": "!late"}),
    "error_capability": ("POST", E, {"input": "!incapable"}),
    "error_bug": ("POST", E, {"input": "!bug"}),
    "error_priority": ("POST", E, {"input": "a"}, {"x-priority": "urgent"}),
    "error_timeout_header": ("POST", E, {"input": "a"}, {"x-request-timeout": "soon"}),
    "error_compressed": ("POST", E, {"input": "a"}, {"content-encoding": "gzip"}),
    "error_no_route": ("GET", "/v1/chat", None),
    "error_method": ("GET", E, None),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden("openai", name, CASES[name], ask(client(), CASES[name]))


@pytest.mark.parametrize(
    ("name", "headers"),
    {
        "error_no_key": {},
        "error_wrong_key": {"authorization": "Bearer wrong"},
        "error_forbidden": {"api-key": "bulk"},
        "error_limited": {"x-api-key": "slow"},
    }.items(),
)
def test_golden_with_keys(name: str, headers: dict[str, str]) -> None:
    from tests.support.serve_fakes import FakeAuthorizer

    request = ("POST", E, {"input": "a", "model": "other"}, headers)
    check_golden("openai", name, request, ask(client(authorizer=FakeAuthorizer()), request))


def test_golden_in_strict_mode() -> None:
    request = ("POST", E, {"input": "a", "user": "u", "colour": 1})
    check_golden("openai", "error_strict", request, ask(client(strict=True), request))
    allowed = ("POST", E, {"input": "a", "user": "u"})
    assert ask(client(strict=True), allowed).status_code == 200


def test_golden_over_the_payload_limit() -> None:
    request = ("POST", E, {"input": "a" * 100})
    response = ask(client(max_body_bytes=64), request)
    check_golden("openai", "error_too_large", request, response)


def test_golden_over_the_number_of_inputs() -> None:
    request = ("POST", E, {"input": ["a", "b", "c"]})
    check_golden("openai", "error_inputs", request, ask(client(max_inputs=2), request))


def test_base64_is_little_endian_float32() -> None:
    response = ask(client(), CASES["base64"]).json()
    found = np.frombuffer(base64.b64decode(response["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(found, vector("None|a cat"))


def test_json_numbers_are_the_float32_values() -> None:
    response = ask(client(), CASES["one_text"]).json()
    found = np.array(response["data"][0]["embedding"], np.float32)
    np.testing.assert_array_equal(found, vector("None|a cat"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": "a", "input_type": "query"}, {"role": "query"}),
        ({"input": "a", "input_type": "search_query"}, {"role": "query"}),
        ({"input": "a", "input_type": "passage"}, {"role": "document"}),
        ({"input": "a", "input_type": "retrieval.passage", "task": None}, {"role": "document"}),
        ({"input": "a", "input_type": "clustering"}, {"role": None}),
        ({"input": "a"}, {"truncation": "right"}),
        ({"input": "a", "truncate": False}, {"truncation": "error"}),
        ({"input": "a", "truncate": "START"}, {"truncation": "left"}),
        ({"input": "a", "truncate": "none"}, {"truncation": "error"}),
        ({"input": "a", "normalize": False}, {"normalize": False}),
        ({"input": "a", "prompt_name": "s2p"}, {"prompt_name": "s2p"}),
        ({"input": "a", "outputs": ["sparse"]}, {"outputs": ("sparse",)}),
        ({"input": [1, 2], "token_ids": "model"}, {"inputs": ((1, 2),)}),
    ],
)
def test_what_is_asked_of_the_service(body: dict, expected: dict) -> None:
    service = FakeService()
    body.pop("task", None)
    assert ask(client(service), ("POST", E, body)).status_code == 200
    (asked,) = service.asked
    assert isinstance(asked, EmbedRequest)
    for name, value in expected.items():
        assert getattr(asked, name) == value


def test_auto_truncate_off_is_an_error() -> None:
    response = ask(client(auto_truncate=False), ("POST", E, {"input": "1 2 3 4 5 6 7"}))
    assert response.status_code == 400
    assert "maximum context length is 8 tokens" in response.json()["error"]["message"]


def test_a_dozen_indices_are_listed_and_hundreds_counted() -> None:
    long = "1 2 3 4 5 6 7"
    response = ask(client(), ("POST", E, {"input": [long] * 60}))
    header = response.headers["x-opengte-truncated"]
    assert header.startswith("60; indices=0,1,2,") and header.endswith(",49; more=10")
    assert len(response.json()["inputs"]) == 60
