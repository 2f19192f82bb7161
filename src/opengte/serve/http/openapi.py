"""The OpenAPI 3.1 document, from the types that requests are decoded with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from opengte.serve.http.routing import Endpoint, endpoints
from opengte.serve.protocols.base import STATUSES, Operation, ProtocolPolicy, WireProtocol

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
    ("X-Request-ID", "Returned with the answer; generated if it is missing.", {}),
    (
        "X-Priority",
        "Interactive requests overtake bulk ones.",
        {"enum": ["interactive", "bulk"]},
    ),
    (
        "X-Request-Timeout",
        "Seconds until the deadline of the request.",
        {"pattern": r"^[0-9]{1,5}(\.[0-9]{1,3})?$"},
    ),
)

RESPONSE_HEADERS = {
    "X-Request-ID": "The request's id.",
    "X-OpenGTE-Model": "The model that answered.",
    "X-OpenGTE-Fingerprint": "The fingerprint of the model; equal fingerprints, equal vectors.",
    "X-OpenGTE-Role": "query, document or none; `assumed` if the request did not name it.",
    "X-OpenGTE-Missing-Instruction": "1 if the model expects an instruction and got none.",
    "X-OpenGTE-Dimensions": "The size of the vectors, if the model was not trained for it.",
    "X-OpenGTE-Truncated": "How many inputs were truncated, and which.",
    "X-OpenGTE-Failed": "How many inputs failed, and which.",
    "X-OpenGTE-Ignored-Fields": "Fields of the request that changed nothing.",
    "X-OpenGTE-Cached": "How many inputs came from the cache.",
    "X-OpenGTE-Priority": "The priority that the request was queued with.",
    "Server-Timing": "Milliseconds of the stages tok, queue and compute, and in total.",
}


def openapi_document(
    keys: bool, policy: ProtocolPolicy, extra_paths: Mapping[str, Any] | None = None
) -> Json:
    """Return the document of a server that asks for API keys or not, with further paths."""
    components: Json = {}
    paths: Json = {}
    for endpoint in endpoints():
        path = endpoint.path.replace(":path}", "}")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(
            endpoint, components, keys, policy
        )
    _add_health_paths(paths)
    tags = _add_paths(extra_paths or {}, paths, keys)
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenGTE",
            "version": policy.version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Embeddings and reranking in seven wire protocols.",
        },
        "tags": [{"name": title} for title in dict.fromkeys([*TITLES.values(), *tags])],
        "paths": paths,
        "components": {"schemas": components},
    }
    if keys:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
        }
    return document


def _add_paths(extra_paths: Mapping[str, Any], paths: Json, keys: bool) -> list[str]:
    """Add further paths, all of which need a key if the server does; return their tags."""
    tags = []
    security = {"security": SECURITY} if keys else {}
    for path, methods in extra_paths.items():
        paths[path] = {method: {**operation, **security} for method, operation in methods.items()}
        tags += [tag for operation in methods.values() for tag in operation["tags"]]
    return tags


def _operation(endpoint: Endpoint, components: Json, keys: bool, policy: ProtocolPolicy) -> Json:
    operations = endpoint.operations
    described: Json = {
        "operationId": _id(endpoint),
        "summary": " | ".join(operation.summary for operation in operations),
        "tags": list(dict.fromkeys(TITLES[each.protocol.name] for each in operations)),
        "parameters": _parameters(endpoint),
        "responses": _responses(operations, components, keys, policy),
    }
    bodies = [(each.protocol, each.body) for each in operations if each.body is not None]
    if bodies:
        described["requestBody"] = {
            "required": True,
            "content": _content([_schema(*body, components) for body in bodies]),
        }
    if keys:
        described["security"] = [] if operations[0].public else SECURITY
    return described


def _id(endpoint: Endpoint) -> str:
    first = endpoint.operations[0]
    if endpoint.path == first.paths[0] and len(endpoint.operations) == 1:
        return first.id
    return first.id + endpoint.path.replace("/", "_").replace(":path", "").strip("{}")


def _parameters(endpoint: Endpoint) -> list[Json]:
    parameters: list[Json] = []
    if "{" in endpoint.path:
        name = endpoint.path.split("{")[1].split(":")[0].rstrip("}")
        schema = {"type": "string", "minLength": 1}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    headers = REQUEST_HEADERS if endpoint.method == "POST" else REQUEST_HEADERS[:1]
    for name, description, extra in headers:
        schema = {"type": "string", **extra}
        header = {"name": name, "in": "header", "description": description, "schema": schema}
        parameters.append(header)
    return parameters


def _responses(
    operations: Sequence[Operation], components: Json, keys: bool, policy: ProtocolPolicy
) -> Json:
    answers = [
        _schema(each.protocol, kind, components)
        for each in operations
        for kind in (each.answer if isinstance(each.answer, tuple) else (each.answer,))
    ]
    headers = {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in RESPONSE_HEADERS.items()
    }
    responses: Json = {
        "200": {"description": "The answer.", "headers": headers, "content": _content(answers)}
    }
    for status, protocols in sorted(_errors(operations, keys, policy).items()):
        schemas = [_schema(each, each.error_body, components) for each in protocols]
        responses[str(status)] = {
            "description": STATUS_DESCRIPTIONS.get(status, "The request failed."),
            "content": _content(schemas),
        }
    return responses


SECURITY: list[Json] = [{"bearer": []}, {"x-api-key": []}, {"api-key": []}]

STATUS_DESCRIPTIONS = {
    400: "The request is invalid.",
    401: "The API key is missing or unknown.",
    403: "The API key does not allow this.",
    404: "There is no such model.",
    413: "The request is too large.",
    415: "The body is compressed.",
    422: "The request is invalid.",
    424: "The model cannot do this, or the engine failed.",
    429: "Too many requests, or the queue is full; Retry-After says when to retry.",
    500: "The server or the engine failed.",
    503: "The model is not ready, or the queue is full; Retry-After says when to retry.",
    504: "The deadline of the request passed.",
}


def _errors(
    operations: Sequence[Operation], keys: bool, policy: ProtocolPolicy
) -> dict[int, list[WireProtocol]]:
    """Return the statuses of errors, with the protocols that use them."""
    errors: dict[int, list[WireProtocol]] = {}
    for operation in operations:
        protocol = operation.protocol
        statuses = {
            protocol.status(kind)
            for kind in STATUSES
            if kind not in ("not_found", "method")
            and (keys or kind not in ("unauthenticated", "forbidden", "limited"))
        }
        if protocol.name == "tei":
            statuses |= {400, policy.tei_validation_status}
        for status in statuses:
            if protocol not in errors.setdefault(status, []):
                errors[status].append(protocol)
    return errors


def _content(schemas: Sequence[Json]) -> Json:
    distinct = [each for index, each in enumerate(schemas) if each not in schemas[:index]]
    schema = distinct[0] if len(distinct) == 1 else {"anyOf": distinct}
    return {"application/json": {"schema": schema}}


def _schema(protocol: WireProtocol, kind: Any, components: Json) -> Json:
    """Return the schema of a type; the types that it refers to are added to the components."""
    template = f"#/components/schemas/{protocol.name}.{{name}}"
    (schema,), referenced = msgspec.json.schema_components([kind], ref_template=template)
    for name, component in referenced.items():
        components[f"{protocol.name}.{name}"] = _exact(component)
    exact: Json = _exact(schema)
    return exact


def _exact(node: Any) -> Any:
    """Replace what the types say by the schemas of `exact_schema`."""
    if isinstance(node, list):
        return [_exact(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "x-schema" in node:
        kept = {name: node[name] for name in ("description", "default") if name in node}
        return {**kept, **node["x-schema"]}
    return {name: _exact(value) for name, value in node.items()}


def _add_health_paths(paths: Json) -> None:
    """Add the routes of `health`."""
    routes: Iterable[tuple[str, str, bool]] = (
        ("/health", "Runs every model that is ready", True),
        ("/ping", "The same as /health", True),
        ("/healthz", "Whether the process answers", False),
        ("/livez", "The same as /healthz", False),
        ("/ready", "Whether the server can take requests", True),
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
