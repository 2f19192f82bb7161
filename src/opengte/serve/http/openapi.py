"""The OpenAPI 3.1 document, from the types that requests are decoded with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from opengte.serve.http.routing import Endpoint, endpoints
from opengte.serve.protocols.base import Dialect, Operation, Policy

Json = dict[str, Any]

TITLES = {
    "openai": "OpenAI",
    "tei": "text-embeddings-inference",
    "cohere": "Cohere",
    "jina": "Jina",
    "voyage": "Voyage",
    "ollama": "Ollama",
    "llamacpp": "llama.cpp",
    "state": "State of the server",
}

REQUEST_HEADERS: tuple[tuple[str, str, Json], ...] = (
    ("X-Request-ID", "Comes back with the answer; made up where it is missing.", {}),
    ("X-Priority", "Whether queries overtake it.", {"enum": ["interactive", "bulk"]}),
    (
        "X-Request-Timeout",
        "Seconds after which the answer is of no use.",
        {"pattern": r"^[0-9]{1,5}(\.[0-9]{1,3})?$"},
    ),
)

RESPONSE_HEADERS = {
    "X-Request-ID": "The request's id.",
    "X-OpenGTE-Model": "The model that answered.",
    "X-OpenGTE-Fingerprint": "Its fingerprint: the same vectors, the same fingerprint.",
    "X-OpenGTE-Role": "query, document or none; `assumed` where the request did not say.",
    "X-OpenGTE-Missing-Instruction": "1 where the model expects an instruction and got none.",
    "X-OpenGTE-Dimensions": "Where vectors were cut to a size that the model was not trained for.",
    "X-OpenGTE-Truncated": "How many inputs lost tokens, and which.",
    "X-OpenGTE-Failed": "How many inputs have no result, and which.",
    "X-OpenGTE-Ignored-Fields": "Fields of the request that changed nothing.",
    "X-OpenGTE-Cached": "How many inputs were not computed anew.",
    "X-OpenGTE-Priority": "The class that the request was queued in.",
    "Server-Timing": "Milliseconds of tok, queue, compute and total.",
}


def document(keys: bool, policy: Policy, more: Mapping[str, Any] | None = None) -> Json:
    """Return the document; keys says whether the server asks for API keys, more are other paths."""
    components: Json = {}
    paths: Json = {}
    for endpoint in endpoints():
        path = endpoint.path.replace(":path}", "}")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(
            endpoint, components, keys, policy
        )
    _state(paths)
    tags = _add(more or {}, paths, keys)
    found: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenGTE",
            "version": policy.version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Embeddings and reranking, in the words of seven protocols.",
        },
        "tags": [{"name": title} for title in dict.fromkeys([*TITLES.values(), *tags])],
        "paths": paths,
        "components": {"schemas": components},
    }
    if keys:
        found["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
        }
    return found


def _add(more: Mapping[str, Any], paths: Json, keys: bool) -> list[str]:
    """Add other paths, all of which need a key where any does; return their tags."""
    tags = []
    for path, methods in more.items():
        security = {"security": SECURITY} if keys else {}
        paths[path] = {method: {**said, **security} for method, said in methods.items()}
        tags += [tag for said in methods.values() for tag in said["tags"]]
    return tags


def _operation(endpoint: Endpoint, components: Json, keys: bool, policy: Policy) -> Json:
    operations = endpoint.operations
    first = operations[0]
    found: Json = {
        "operationId": _id(endpoint),
        "summary": " | ".join(operation.summary for operation in operations),
        "tags": list(dict.fromkeys(TITLES[each.dialect.name] for each in operations)),
        "parameters": _parameters(endpoint),
        "responses": _responses(operations, components, keys, policy),
    }
    bodies = [(each.dialect, each.body) for each in operations if each.body is not None]
    if bodies:
        found["requestBody"] = {
            "required": True,
            "content": _content([_schema(*body, components) for body in bodies]),
        }
    if keys:
        found["security"] = [] if first.public else SECURITY
    return found


def _id(endpoint: Endpoint) -> str:
    first = endpoint.operations[0]
    if endpoint.path == first.paths[0] and len(endpoint.operations) == 1:
        return first.id
    return first.id + endpoint.path.replace("/", "_").replace(":path", "").strip("{}")


def _parameters(endpoint: Endpoint) -> list[Json]:
    found: list[Json] = []
    if "{" in endpoint.path:
        name = endpoint.path.split("{")[1].split(":")[0].rstrip("}")
        schema = {"type": "string", "minLength": 1}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    headers = REQUEST_HEADERS if endpoint.method == "POST" else REQUEST_HEADERS[:1]
    for name, description, extra in headers:
        schema = {"type": "string", **extra}
        found.append({"name": name, "in": "header", "description": description, "schema": schema})
    return found


def _responses(
    operations: Sequence[Operation], components: Json, keys: bool, policy: Policy
) -> Json:
    answers = [
        _schema(each.dialect, kind, components)
        for each in operations
        for kind in (each.answer if isinstance(each.answer, tuple) else (each.answer,))
    ]
    headers = {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in RESPONSE_HEADERS.items()
    }
    found: Json = {
        "200": {"description": "The answer.", "headers": headers, "content": _content(answers)}
    }
    for status, dialects in sorted(_errors(operations, keys, policy).items()):
        schemas = [_schema(each, each.body, components) for each in dialects]
        found[str(status)] = {
            "description": STATUSES.get(status, "The request failed."),
            "content": _content(schemas),
        }
    return found


SECURITY: list[Json] = [{"bearer": []}, {"x-api-key": []}, {"api-key": []}]

STATUSES = {
    400: "The request cannot be used as it is.",
    401: "The API key is missing or unknown.",
    403: "The API key does not allow this.",
    404: "There is no such model.",
    413: "The request is too large.",
    415: "The body is compressed.",
    422: "The request cannot be used as it is.",
    424: "The model cannot do this, or the engine failed.",
    429: "Too many requests, or the queue is full; Retry-After says when to return.",
    500: "The server or the engine failed.",
    503: "The model is not ready, or the queue is full; Retry-After says when to return.",
    504: "The request's time ran out.",
}


def _errors(
    operations: Sequence[Operation], keys: bool, policy: Policy
) -> dict[int, list[Dialect]]:
    """Return the statuses of errors, with who words them."""
    found: dict[int, list[Dialect]] = {}
    for operation in operations:
        dialect = operation.dialect
        statuses = {
            status
            for kind, status in dialect.statuses.items()
            if kind not in ("not_found", "method")
            and (keys or kind not in ("unauthenticated", "forbidden", "limited"))
        }
        if dialect.name == "tei":
            statuses |= {400, policy.tei_validation_status}
        for status in statuses:
            if dialect not in found.setdefault(status, []):
                found[status].append(dialect)
    return found


def _content(schemas: Sequence[Json]) -> Json:
    distinct = [each for index, each in enumerate(schemas) if each not in schemas[:index]]
    schema = distinct[0] if len(distinct) == 1 else {"anyOf": distinct}
    return {"application/json": {"schema": schema}}


def _schema(dialect: Dialect, kind: Any, components: Json) -> Json:
    """Return the schema of a type; what it refers to goes among the components."""
    template = f"#/components/schemas/{dialect.name}.{{name}}"
    (schema,), found = msgspec.json.schema_components([kind], ref_template=template)
    for name, component in found.items():
        components[f"{dialect.name}.{name}"] = _exact(component)
    exact: Json = _exact(schema)
    return exact


def _exact(node: Any) -> Any:
    """Put the schemas of `fields.exactly` in the place of what the types say."""
    if isinstance(node, list):
        return [_exact(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "x-schema" in node:
        kept = {name: node[name] for name in ("description", "default") if name in node}
        return {**kept, **node["x-schema"]}
    return {name: _exact(value) for name, value in node.items()}


def _state(paths: Json) -> None:
    """Add the routes that say how the server is."""
    routes: Iterable[tuple[str, str, bool]] = (
        ("/health", "Runs every model that is ready", True),
        ("/ping", "The same as /health", True),
        ("/healthz", "Says that the process answers", False),
        ("/livez", "The same as /healthz", False),
        ("/ready", "Says whether requests should be sent here", True),
        ("/readyz", "The same as /ready", True),
        ("/version", "The version", False),
        ("/openapi.json", "This document", False),
    )
    body = {"application/json": {"schema": {"type": "object"}}}
    for path, summary, may_fail in routes:
        responses: Json = {"200": {"description": "Yes.", "content": body}}
        if may_fail:
            responses["503"] = {"description": "No, and why.", "content": body}
        paths[path] = {
            "get": {
                "operationId": "state" + path.replace("/", "_").replace(".", "_"),
                "summary": summary,
                "tags": [TITLES["state"]],
                "responses": responses,
                "security": [],
            }
        }
