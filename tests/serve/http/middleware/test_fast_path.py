"""Past the router or through it: the same answers."""

import pytest
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

from opengte.serve.http.app import AppOptions, build_app
from opengte.serve.http.middleware.fast_path import FastPath
from tests.support.serve_fakes import CLOCKS, FakeAuthorizer, FakeService

ASKED = [
    ("POST", "/v1/embeddings", b'{"input": "a"}'),
    ("POST", "/v1/embeddings", b'{"input": 3}'),
    ("POST", "/v1/embeddings", b"{"),
    ("POST", "/embed", b'{"inputs": ["a", "b"]}'),
    ("POST", "/v1/embeddings/", b"{}"),
    ("GET", "/v1/embeddings", b""),
    ("GET", "/v1/models", b""),
    ("HEAD", "/v1/models", b""),
    ("GET", "/v1/models/nobody", b""),
    ("OPTIONS", "/v1/embeddings", b""),
    ("GET", "/healthz", b""),
    ("GET", "/nothing", b""),
]


def ask(app, method, path, body, **options):
    client = TestClient(app, raise_server_exceptions=False, **options)
    sent = {"x-request-id": "same", "authorization": "Bearer k"}
    answer = client.request(method, path, content=body, headers=sent)
    headers = {k: None if k in CLOCKS else v for k, v in answer.headers.items()}
    return answer.status_code, headers, answer.content


@pytest.mark.parametrize(("method", "path", "body"), ASKED)
@pytest.mark.parametrize("gate", [None, FakeAuthorizer()])
def test_it_answers_as_the_application_does(method, path, body, gate):
    app = build_app(FakeService(), gate, AppOptions())
    assert ask(FastPath(app), method, path, body) == ask(app, method, path, body)


def test_it_finds_the_route_itself_and_leaves_other_paths_alone():
    app = build_app(FakeService(), None, AppOptions())
    shortcut = FastPath(app)
    seen = []

    async def spy(scope, receive, send):
        await shortcut(scope, receive, send)
        seen.append((scope["route"].path, "app" in scope))

    for path in ("/v1/embeddings", "/healthz"):
        ask(spy, "POST" if path == "/v1/embeddings" else "GET", path, b'{"input": "a"}')
    assert seen == [("/v1/embeddings", False), ("/healthz", True)]


def test_behind_a_path_of_a_proxy_and_with_middleware_nothing_is_skipped():
    app = build_app(FakeService(), None, AppOptions())
    found = ask(FastPath(app), "POST", "/v1/embeddings", b'{"input": "a"}', root_path="/gte")
    assert found[0] == 200
    cors = Middleware(CORSMiddleware, allow_origins=["https://a.example"])
    app = build_app(FakeService(), None, AppOptions(middleware=[cors]))
    client = TestClient(FastPath(app))
    headers = {"origin": "https://a.example"}
    answer = client.post("/v1/embeddings", json={"input": "a"}, headers=headers)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
