"""Paths with a slash too many, and with the prefix of a proxy: answered, never redirected."""

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from opengte.serve.http.routing import endpoints
from tests.support.serve_fakes import ask, client

FILLED = {"{model:path}": "fake"}
BODIES = {"POST": {"input": "a"}, "GET": None}


def paths():
    for endpoint in endpoints():
        path = endpoint.path
        for parameter, value in FILLED.items():
            path = path.replace(parameter, value)
        yield endpoint.method, path
    for path in ("/health", "/livez", "/version", "/openapi.json"):
        yield "GET", path


def told(answer):
    return answer.status_code, answer.headers["content-type"], len(answer.content)


@pytest.mark.parametrize(("method", "path"), [each for each in paths() if each[1] != "/"])
def test_a_slash_too_many_changes_no_answer(method, path):
    http = client()
    for more in ("/", "//"):
        found = ask(http, (method, path + more, BODIES[method]))
        assert told(found) == told(ask(http, (method, path, BODIES[method])))
        assert not found.is_redirect


@pytest.mark.parametrize(("method", "path"), list(paths()))
@pytest.mark.parametrize("root_path", ["/gte", "gte/", "/a/b"])
def test_a_prefix_may_be_there_or_stripped(method, path, root_path):
    http = client(root_path=root_path)
    expected = told(ask(client(), (method, path, BODIES[method])))
    prefix = f"/{root_path.strip('/')}"
    for written in (path, prefix + path, prefix + path.rstrip("/") + "/"):
        assert told(ask(http, (method, written, BODIES[method]))) == expected


def test_what_has_no_route_has_none_with_a_slash_or_prefix():
    http = client(root_path="/gte")
    for path in (
        "/nothing/",
        "/gte/nothing",
        "/other/v1/models",
        "/gtev1/models",
        "/v1/gte/models",
    ):
        answer = ask(http, ("GET", path, None))
        assert answer.status_code == 404
        assert path in answer.json()["error"]["message"]
    for path in ("/v1/embeddings/", "/gte/v1/embeddings", "/v1/models/"):
        method = "PUT" if "models" in path else "GET"
        answer = ask(http, (method, path, None))
        assert answer.status_code == 405
        assert answer.headers["allow"]


def test_a_route_with_a_slash_of_its_own_and_a_prefix_that_is_a_routes_are_kept():
    more = [
        Route("/page", lambda request: PlainTextResponse("moved")),
        Route("/page/", lambda request: PlainTextResponse("page")),
        Route("/v1/page", lambda request: PlainTextResponse("v1")),
    ]
    http = client(extra_routes=more, root_path="/v1")
    for path, body in {
        "/page": "moved",
        "/page/": "page",
        "/v1/page": "v1",
        "/v1/page/": "v1",
        "/v1/v1/page": "v1",
    }.items():
        assert http.get(path).text == body


def test_a_client_of_a_proxy_is_sent_nowhere_else():
    headers = {"host": "api.example.com", "x-forwarded-proto": "https"}
    answer = ask(client(), ("POST", "/v1/embeddings/", {"input": "a"}, headers))
    assert answer.status_code == 200
    assert "location" not in answer.headers
