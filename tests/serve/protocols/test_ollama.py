import pytest

from tests.support.serve_fakes import FakeService, ask, check_golden, client

LONG = "one two three four five six seven"
CASES = {
    "embed": ("POST", "/api/embed", {"model": "fake", "input": "a cat"}),
    "embed_batch": (
        "POST",
        "/api/embed",
        {
            "model": "fake:latest",
            "input": ["a", "b"],
            "dimensions": 4,
            "keep_alive": "5m",
            "options": {"num_ctx": 8},
        },
    ),
    "embed_truncated": ("POST", "/api/embed", {"model": "fake", "input": LONG}),
    "embed_query": ("POST", "/api/embed", {"model": "fake", "input": "a", "input_type": "query"}),
    "embeddings": ("POST", "/api/embeddings", {"model": "fake", "prompt": "a cat"}),
    "tags": ("GET", "/api/tags", None),
    "ps": ("GET", "/api/ps", None),
    "show": ("POST", "/api/show", {"model": "fake:latest"}),
    "show_by_name": ("POST", "/api/show", {"name": "fake-reranker", "verbose": True}),
    "error_unknown_model": ("POST", "/api/embed", {"model": "nomic", "input": "a"}),
    "error_show": ("POST", "/api/show", {"model": "nomic"}),
    "error_show_nothing": ("POST", "/api/show", {}),
    "error_no_model": ("POST", "/api/embed", {"input": "a"}),
    "error_type": ("POST", "/api/embed", {"model": "fake", "input": 7}),
    "error_not_json": ("POST", "/api/embed", "{"),
    "error_too_long": ("POST", "/api/embed", {"model": "fake", "input": LONG, "truncate": False}),
    "error_overloaded": ("POST", "/api/embed", {"model": "fake", "input": "!overloaded"}),
    "error_loading": ("POST", "/api/embed", {"model": "fake", "input": "!loading"}),
    "error_deadline": ("POST", "/api/embed", {"model": "fake", "input": "!late"}),
    "error_engine": ("POST", "/api/embed", {"model": "fake", "input": "!engine"}),
    "error_bug": ("POST", "/api/embed", {"model": "fake", "input": "!bug"}),
    "error_no_route": ("POST", "/api/generate", {"model": "fake"}),
    "error_method": ("GET", "/api/embed", None),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden("ollama", name, CASES[name], ask(client(), CASES[name]))


def test_version() -> None:
    from opengte import __version__

    response = ask(client(), ("GET", "/api/version", None))
    assert response.json() == {"version": __version__}


def test_the_older_form_is_not_normalised() -> None:
    service = FakeService()
    ask(client(service), CASES["embeddings"])
    assert service.asked[0].normalize is False


def test_models_that_are_loading_are_not_listed() -> None:
    service = FakeService()
    service.states["fake"] = "loading"
    names = [tag["name"] for tag in ask(client(service), CASES["tags"]).json()["models"]]
    assert names == ["fake-reranker:latest"]
