import asyncio
import dataclasses
import functools
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from opengte.errors import InputError
from opengte.serve.http.app import AppOptions, build_app
from opengte.serve.http.response_json import STEP_BYTES, dumps, encode_json
from opengte.serve.http.routing import OPERATIONS, endpoints
from opengte.serve.protocols.encodings import LazyArray
from opengte.serve.protocols.token_ids import ADVICE, read_vocabularies
from tests.support.serve_fakes import ENCODER, GOLDEN, FakeAuthorizer, FakeService, ask, client

E = "/v1/embeddings"


class Asgi:
    """One request to an application, message by message."""

    def __init__(self, app: Any, path: str, headers: dict[str, str] | None = None) -> None:
        self.app = app
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    def put(self, body: bytes, more: bool = False) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def run(self) -> int:
        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        await self.app(self.scope, self.incoming.get, send)
        return self.sent[0]["status"] if self.sent else 0


def test_a_client_that_leaves_costs_nothing_more() -> None:
    service = FakeService()

    async def scenario() -> Any:
        request = Asgi(build_app(service, None, AppOptions()), E)
        request.put(b'{"input": "!wait"}')
        asyncio.get_running_loop().call_later(0.02, request.leave)
        status = await asyncio.wait_for(request.run(), 5)
        return status, request.sent, request.scope["opengte"]

    status, sent, record = asyncio.run(scenario())
    assert (status, sent) == (0, [])
    assert service.cancelled == 1
    assert (record.status, record.error) == (499, "cancelled")


def test_a_client_that_leaves_before_its_body_ends() -> None:
    service = FakeService()

    async def scenario() -> int:
        request = Asgi(build_app(service, None, AppOptions()), E)
        request.put(b'{"input": ', more=True)
        request.leave()
        return await asyncio.wait_for(request.run(), 5)

    assert asyncio.run(scenario()) == 0
    assert service.asked == []


def test_being_cancelled_from_outside_is_passed_on() -> None:
    service = FakeService()

    async def scenario() -> None:
        request = Asgi(build_app(service, None, AppOptions()), E)
        request.put(b'{"input": "!wait"}')
        task = asyncio.create_task(request.run())
        while not service.calls:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert service.cancelled == 1


def test_a_body_in_pieces_is_refused_when_it_grows_too_large() -> None:
    async def scenario() -> tuple[int, int]:
        request = Asgi(build_app(FakeService(), None, AppOptions(max_body_bytes=1000)), E)
        for _ in range(10):
            request.put(b"x" * 300, more=True)
        return await asyncio.wait_for(request.run(), 5), request.incoming.qsize()

    assert asyncio.run(scenario()) == (413, 6)


def test_an_announced_length_is_refused_before_anything_is_read() -> None:
    async def scenario() -> int:
        app = build_app(FakeService(), None, AppOptions(max_body_bytes=1000))
        return await asyncio.wait_for(Asgi(app, E, {"content-length": "1001"}).run(), 5)

    assert asyncio.run(scenario()) == 413


def test_a_stranger_is_refused_before_anything_is_read() -> None:
    async def scenario() -> int:
        app = build_app(FakeService(), FakeAuthorizer(), AppOptions())
        return await asyncio.wait_for(Asgi(app, E).run(), 5)

    assert asyncio.run(scenario()) == 401


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer good"}, {"x-api-key": "good"}, {"api-key": "good"}],
)
def test_keys_are_taken_from_where_clients_put_them(headers: dict[str, str]) -> None:
    gate = FakeAuthorizer()
    response = ask(client(authorizer=gate), ("POST", E, {"input": ["a b", "c"]}, headers))
    assert response.status_code == 200
    assert gate.admitted == [("good", "fake")]
    ((identity, model, estimate),) = gate.reserved
    assert model == "fake" and estimate > 0
    ((recorded, *used),) = gate.recorded
    assert recorded is identity and used == ["fake", 7, 2]


def test_a_failed_request_is_recorded_as_nothing() -> None:
    gate = FakeAuthorizer()
    request = ("POST", E, {"input": "!engine"}, {"x-api-key": "good"})
    assert ask(client(authorizer=gate), request).status_code == 500
    assert [entry[1:] for entry in gate.recorded] == [("fake", 0, 0)]


def test_what_costs_nothing_is_not_reserved_but_admitted() -> None:
    gate = FakeAuthorizer()
    http = client(authorizer=gate)
    headers = {"x-api-key": "good"}
    assert ask(http, ("GET", "/v1/models", None, headers)).status_code == 200
    assert gate.admitted == [("good", None)] and gate.reserved == []
    assert ask(http, ("GET", "/v1/models", None)).status_code == 401


def test_a_key_is_shown_the_models_that_it_may_use() -> None:
    http = client(authorizer=FakeAuthorizer())
    for secret, expected in (("good", ["fake", "fake-reranker"]), ("bulk", ["fake"])):
        listed = ask(http, ("GET", "/v1/models", None, {"x-api-key": secret})).json()["data"]
        assert [model["id"] for model in listed] == expected
        tags = ask(http, ("GET", "/api/tags", None, {"x-api-key": secret})).json()["models"]
        assert [model["model"] for model in tags] == [f"{name}:latest" for name in expected]
        one = ("GET", "/v1/models/fake-reranker", None, {"x-api-key": secret})
        assert ask(http, one).status_code == (200 if secret == "good" else 404)


@pytest.mark.parametrize("name", ["fake", "FAKE", "fake:latest", "Fake:Latest"])
def test_what_is_logged_and_charged_is_the_models_own_name(name: str) -> None:
    gate = FakeAuthorizer()
    request = ("POST", E, {"input": "a", "model": name}, {"x-api-key": "bulk"})
    assert ask(client(authorizer=gate), request).status_code == 200
    assert gate.admitted == [("bulk", "fake")]
    assert [used[1] for used in gate.recorded] == ["fake"]
    shown = ask(client(), ("GET", f"/v1/models/{name}", None))
    assert shown.json()["id"] == "fake"
    assert ask(client(), ("POST", "/api/show", {"model": name})).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({"input": "a"}, {}, "interactive"),
        ({"input": ["a"] * 3}, {}, "bulk"),
        ({"input": ["a"] * 3}, {"x-priority": "Interactive"}, "interactive"),
        ({"input": "a"}, {"x-priority": "bulk"}, "bulk"),
        ({"input": "a", "model": "fake"}, {"x-api-key": "bulk"}, "bulk"),
        (
            {"input": "a", "model": "fake"},
            {"x-api-key": "bulk", "x-priority": "interactive"},
            "interactive",
        ),
    ],
)
def test_priority(body: dict, headers: dict, expected: str) -> None:
    service = FakeService()
    http = client(service, FakeAuthorizer(), interactive_inputs=2)
    response = ask(http, ("POST", E, body, {"x-api-key": "good", **headers}))
    assert service.calls[0].priority == expected == response.headers["x-opengte-priority"]


@pytest.mark.parametrize(("size", "header"), [(4, None), (8, None), (5, "5; untrained")])
def test_sizes_that_the_model_was_not_trained_for_are_told(size: int, header: str | None) -> None:
    response = ask(client(), ("POST", E, {"input": "a", "dimensions": size}))
    assert response.headers.get("x-opengte-dimensions") == header


def test_priority_of_cohere_and_of_rerank() -> None:
    service = FakeService()
    http = client(service, interactive_inputs=2)
    ask(http, ("POST", "/v2/embed", {"texts": ["a"], "priority": 1}))
    ask(http, ("POST", "/v2/embed", {"texts": ["a"] * 3, "priority": 0}))
    ask(http, ("POST", "/v2/rerank", {"query": "a", "documents": ["x"] * 3}))
    assert [call.priority for call in service.calls] == ["bulk", "interactive", "interactive"]


def test_deadlines() -> None:
    service = FakeService()
    http = client(service, timeout=60.0)
    before = time.monotonic()
    ask(http, ("POST", E, {"input": "a"}, {"x-request-timeout": "2.5"}))
    ask(http, ("POST", E, {"input": "a"}))
    after = time.monotonic()
    first, second = (call.deadline for call in service.calls)
    assert first is not None and before + 2.5 <= first <= after + 2.5
    assert second is not None and before + 60 <= second <= after + 60
    ask(client(service), ("POST", E, {"input": "a"}))
    assert service.calls[2].deadline is None


def test_a_service_that_forgets_the_deadline_is_cut_off() -> None:
    service = FakeService()
    request = ("POST", E, {"input": "!wait"}, {"x-request-timeout": "0.01"})
    response = ask(client(service), request)
    assert response.status_code == 504 and service.cancelled == 1
    assert response.json()["error"]["code"] == "deadline_exceeded"


def test_request_ids() -> None:
    http = client()
    assert ask(http, ("GET", "/healthz", None)).headers["x-request-id"] == "test"
    made = http.get("/healthz").headers["x-request-id"]
    assert len(made) == 32
    bad = http.get("/healthz", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert bad != "a b\tc" and len(bad) == 32


def test_an_unforeseen_error_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    response = ask(client(), ("POST", E, {"input": "!bug"}))
    assert response.status_code == 500 and "secret" not in response.text
    assert "Traceback" not in response.text and response.headers["x-request-id"] == "test"
    assert caplog.records[0].request_id == "test"


def test_an_error_in_the_middle_of_others_routes_is_answered_too() -> None:
    def broken(request: Any) -> None:
        raise ValueError("secret")

    response = client(extra_routes=[Route("/broken", broken)]).get("/broken")
    assert response.status_code == 500 and "secret" not in response.text


def test_routes_and_middleware_of_others() -> None:
    seen = []

    class Looker:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return await self.app(scope, receive, send)
            assert scope["opengte"].request_id == "test"
            await self.app(scope, receive, send)
            seen.append(scope["opengte"])

    page = Route("/", lambda request: PlainTextResponse("start"), methods=["GET"])
    http = client(extra_routes=[page], middleware=[Middleware(Looker)])
    assert ask(http, ("GET", "/", None)).text == "start"
    assert ask(http, ("POST", "/", {"inputs": "a"})).status_code == 200
    assert ask(http, ("POST", E, {"input": "", "model": "x"})).status_code == 400
    assert [(r.operation, r.status, r.error, r.tokens) for r in seen] == [
        (None, 200, None, 0),
        ("tei_embed", 200, None, 3),
        ("openai_embeddings", 400, "invalid", 0),
    ]
    assert seen[1].timing.computing == 0.0033 and seen[1].decoding > 0 and seen[1].encoding > 0


def test_head_options_and_allow() -> None:
    http = client(extra_routes=[Route("/", lambda request: PlainTextResponse("x"))])
    assert http.head("/healthz").status_code == 200
    options = http.options(E)
    assert options.status_code == 204 and options.headers["allow"] == "OPTIONS, POST"
    assert http.options("/").headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert http.options("/nothing").status_code == 404
    assert http.put("/").headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_probes() -> None:
    service = FakeService()
    http = client(service)
    for path in ("/health", "/ping", "/healthz", "/livez", "/ready", "/readyz"):
        response = http.get(path)
        assert response.status_code == 200 and response.headers["cache-control"] == "no-store"
    service.states["fake"] = "loading"
    assert http.get("/health").status_code == 200
    response = http.get("/ready")
    assert response.status_code == 503 and "fake" in response.json()["error"]
    assert response.headers["retry-after"] == "1"
    service.states["fake"] = "failed"
    assert http.get("/ready").status_code == 200  # the other model serves
    service.healthy = False
    response = http.get("/health")
    assert response.status_code == 503 and response.json()["error_type"] == "Unhealthy"
    assert response.headers["retry-after"] == "2"
    assert http.get("/healthz").status_code == 200


def test_draining_is_not_ready() -> None:
    http = client(draining=lambda: True)
    assert http.get("/ready").status_code == 503
    assert http.get("/health").status_code == 200


def test_lone_surrogates_reach_the_service() -> None:
    service = FakeService()
    body = '{"input": ["a \\ud800", "\\udfff"], "user": "u"}'
    assert ask(client(service), ("POST", E, body)).status_code == 200
    assert service.asked[0].inputs == ("a \ud800", "\udfff")


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"input": ' + "[" * 100_000,
        '{"x": ' + '{"a":' * 100_000,
        '{"input": "a", "x": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"input": "\\ud800", "x": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"input": "a", "dimensions": NaN}',
        '{"input": "a", "dimensions": 1e999}',
        '{"input": "a", "dimensions": 1.5}',
        '{"input": "a", "dimensions": 123456789012345678901234567890}',
        '{"input": "\\ud800", "dimensions": NaN}',
        '{"input": "a',
        '{"input": "a"} trailing',
        "",
        "null",
        "\x00",
    ],
)
def test_hostile_bodies_are_refused(body: str) -> None:
    response = ask(client(), ("POST", E, body))
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_bytes_that_are_not_utf8_are_refused() -> None:
    http = client()
    assert http.post(E, content=b'{"input": "\xff\xfe"}').status_code == 400


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
_FIELDS = sorted(
    {
        field.encode_name
        for operation in OPERATIONS
        if operation.body is not None
        for field in msgspec.structs.fields(operation.body)
    }
)
_PATHS = [each.path for each in endpoints() if each.method == "POST"]


@functools.cache
def _shared_client() -> Any:
    return client()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    path=st.sampled_from(_PATHS),
    body=st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=6) | _JSON,
)
def test_nothing_sent_makes_the_server_fail(path: str, body: Any) -> None:
    response = ask(_shared_client(), ("POST", path, json.dumps(body)))
    assert response.status_code in (200, 400, 404, 413, 422, 424), response.text


def test_every_golden_body_is_of_the_type_that_the_document_shows() -> None:
    by_id = {operation.id: operation for operation in OPERATIONS}
    checked = set()
    for path in sorted(GOLDEN.glob("*/*.json")):
        golden = json.loads(path.read_text(encoding="utf-8"))
        method, route, *_ = golden["request"]
        fitting = [each for each in by_id.values() if _fits(each, method, route)]
        body = golden["response"]["body"]
        kinds = [
            kind
            for each in fitting
            for kind in (
                (each.protocol.error_body,)
                if golden["response"]["status"] != 200
                else each.answer
                if isinstance(each.answer, tuple)
                else (each.answer,)
            )
        ]
        if fitting:
            assert any(_same(body, kind) for kind in kinds), path
            checked |= {each.id for each in fitting if golden["response"]["status"] == 200}
    assert checked | {"ollama_version"} == set(by_id)


def _fits(operation: Any, method: str, path: str) -> bool:
    shared = {
        each.id
        for endpoint in endpoints()
        if (endpoint.method, endpoint.path) == (method, path)
        for each in endpoint.operations
    }
    inside = any("{" in own and path.startswith(own.split("{")[0]) for own in operation.paths)
    return operation.id in shared or (inside and operation.method == method)


def _same(body: Any, kind: Any) -> bool:
    try:
        return bool(msgspec.to_builtins(msgspec.convert(body, kind)) == body)
    except msgspec.ValidationError:
        return False


def test_the_document_is_valid_and_the_golden_files_conform() -> None:
    schemas = pytest.importorskip("jsonschema_rs", reason="jsonschema-rs is not installed")
    document = client(authorizer=FakeAuthorizer()).get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    for path in sorted(GOLDEN.glob("*/*.json")):
        golden = json.loads(path.read_text(encoding="utf-8"))
        method, route, body, *_ = golden["request"]
        route = "/v1/models/{model}" if route.startswith("/v1/models/") else route
        operation = document["paths"].get(route, {}).get(method.lower())
        status = golden["response"]["status"]
        if operation is None or "strict" in path.name or status == 405 or "413" in path.name:
            continue
        answer = operation["responses"][str(status)]["content"]["application/json"]["schema"]
        with_components = {**answer, "components": document["components"]}
        schemas.validate(with_components, golden["response"]["body"])
        if status == 200 and body is not None:
            asked = operation["requestBody"]["content"]["application/json"]["schema"]
            schemas.validate({**asked, "components": document["components"]}, body)


def test_the_document_has_every_route_once_and_unique_ids() -> None:
    document = client().get("/openapi.json").json()
    ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids))
    for endpoint in endpoints():
        assert endpoint.method.lower() in document["paths"][endpoint.path.replace(":path", "")]
    assert "securitySchemes" not in document["components"]
    assert "x-schema" not in json.dumps(document)


def test_long_answers_are_written_in_pieces_with_turns_for_others() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 128)).astype(np.float32)

    def content() -> Any:
        rows = ({"index": i, "embedding": row} for i, row in enumerate(vectors))
        return {"data": LazyArray(rows), "model": "fake", "nested": [1, {"a": None}]}

    async def scenario() -> tuple[bytes, int]:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await asyncio.sleep(0)
        written = await encode_json(content(), vectors.size)
        task.cancel()
        return written, turns

    written, turns = asyncio.run(scenario())
    assert written == dumps(content())
    assert turns >= len(written) // (2 * STEP_BYTES)


def test_a_large_answer_over_http_equals_its_parts() -> None:
    texts = [f"text {i}" for i in range(2000)]
    http = client()
    whole = ask(http, ("POST", E, {"input": texts})).json()["data"]
    some = ask(http, ("POST", E, {"input": texts[1990:]})).json()["data"]
    assert [row["embedding"] for row in whole[1990:]] == [row["embedding"] for row in some]
    assert [row["index"] for row in whole] == list(range(2000))


@pytest.fixture(scope="module")
def cl100k() -> Path:
    spec = importlib.util.find_spec("llama_index")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llama-index-core, which has OpenAI's vocabularies with it, is not installed")
    return Path(list(spec.submodule_search_locations)[0]) / "core" / "_static" / "tiktoken_cache"


def test_openai_ids_are_read_as_text(cl100k: Path) -> None:
    text = "Grüße, 世界! 🐈\u200d⬛ and a cat"
    ids = _ids(text, cl100k)
    service = FakeService()
    for options, body in [
        ({"token_ids": "tiktoken"}, {"model": "fake"}),
        ({}, {"token_ids": "cl100k_base"}),
    ]:
        http = client(service, tiktoken_files=cl100k, **options)
        assert ask(http, ("POST", E, {"input": [ids, ids[:3]], **body})).status_code == 200
        assert service.asked[-1].inputs[0] == text
        assert len(service.asked[-1].inputs) == 2


def _ids(text: str, folder: Path) -> list[int]:
    """Return ids as the longest tokens that fit: not OpenAI's choice, but the same text."""
    vocabulary = read_vocabularies(folder).tokens["cl100k_base"]
    by_bytes = {token: number for number, token in vocabulary.items()}
    data, found = text.encode(), []
    while data:
        size = next(n for n in range(min(len(data), 32), 0, -1) if data[:n] in by_bytes)
        found.append(by_bytes[data[:size]])
        data = data[size:]
    return found


def test_ids_that_openai_does_not_have_are_refused(cl100k: Path) -> None:
    http = client(token_ids="tiktoken", tiktoken_files=cl100k)
    response = ask(http, ("POST", E, {"input": [100_500]}))
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "100500" in message and "check_embedding_ctx_length=False" in message


@pytest.mark.parametrize(
    ("rule", "model", "status"),
    [
        ("auto", "fake", 400),
        ("auto", None, 400),
        ("refuse", "fake", 400),
        ("refuse", "text-embedding-3-small", 400),
        ("model", "fake", 200),
        ("tiktoken", "fake", 400),  # without the vocabulary
    ],
)
def test_ids_without_a_vocabulary(rule: str, model: str | None, status: int) -> None:
    response = ask(client(token_ids=rule), ("POST", E, {"input": [[1, 2]], "model": model}))
    assert response.status_code == status
    assert status == 200 or ADVICE in response.json()["error"]["message"]


def test_openai_ids_under_an_openai_name(cl100k: Path) -> None:
    service = FakeService(dataclasses.replace(ENCODER, name="text-embedding-3-small"))
    http = client(service, tiktoken_files=cl100k)
    body = {"input": _ids("a cat", cl100k), "model": "text-embedding-3-small"}
    assert ask(http, ("POST", E, body)).status_code == 200
    assert service.asked[0].inputs == ("a cat",)


def test_vocabularies_that_are_not_the_published_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no vocabulary"):
        build_app(FakeService(), None, AppOptions(tiktoken_files=tmp_path))
    (tmp_path / "cl100k_base.tiktoken").write_bytes(b"IQ== 0\n")
    with pytest.raises(InputError, match="sha256"):
        build_app(FakeService(), None, AppOptions(tiktoken_files=tmp_path))


@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        (E, {"input": "a"}, "openai_embeddings"),
        (E, {"input": "a", "input_type": "query"}, "openai_embeddings"),
        (E, {"input": "a", "truncation": True, "input_type": "query"}, "voyage_embeddings"),
        (E, {"input": "a", "output_dtype": "int8"}, "voyage_embeddings"),
        (E, {"input": "a", "task": "separation"}, "jina_embeddings"),
        (E, {"input": "a", "late_chunking": False}, "jina_embeddings"),
        ("/embeddings", {"input": "a"}, "openai_embeddings"),
        ("/embeddings", {"content": "a"}, "llamacpp_embedding"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_k": 1}, "voyage_rerank"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 1}, "jina_rerank"),
        (
            "/v1/rerank",
            {"query": "a", "documents": ["b"], "rank_fields": ["text"]},
            "cohere_rerank_v1",
        ),
        ("/rerank", {"query": "a", "texts": ["b"]}, "tei_rerank"),
        ("/rerank", {"query": "a", "documents": ["b"]}, "jina_rerank"),
        ("/tokenize", {"inputs": "a"}, "tei_tokenize"),
        ("/tokenize", {"content": "a"}, "llamacpp_tokenize"),
        ("/", {"inputs": "a"}, "tei_embed"),
        ("/", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}, "tei_similarity"),
        ("/invocations", {"query": "a", "texts": ["b"]}, "tei_rerank"),
    ],
)
def test_who_is_meant_on_shared_routes(path: str, body: dict, operation: str) -> None:
    class Looker:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)
            if scope["type"] == "http":
                found.append(scope["opengte"].operation)

    found: list[str] = []
    response = ask(client(middleware=[Middleware(Looker)]), ("POST", path, body))
    assert (response.status_code, found) == (200, [operation])
