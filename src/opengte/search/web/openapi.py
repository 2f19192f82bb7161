"""The routes of knowledge bases as OpenAPI 3.1, generated from the types of their requests."""

from typing import Any

import msgspec

from opengte.search.web import schemas

Json = dict[str, Any]
Types = tuple[str, str, str, type[msgspec.Struct] | None, type[msgspec.Struct]]
TAG = "Knowledge bases"

# route, operation, summary, request, response
ROUTES: tuple[Types, ...] = (
    ("status", "get", "What there is to search", None, schemas.StatusResponse),
    ("search", "post", "Find passages", schemas.SearchRequest, schemas.SearchResponse),
    (
        "document",
        "post",
        "A document, with the passage that answers a question",
        schemas.DocumentRequest,
        schemas.DocumentResponse,
    ),
    ("near", "post", "Documents near one", schemas.NearRequest, schemas.NearResponse),
    (
        "facets",
        "post",
        "Values of metadata, counted",
        schemas.FilterRequest,
        schemas.FacetsResponse,
    ),
    (
        "problems",
        "post",
        "Files that are not indexed, and why",
        schemas.ProblemsRequest,
        schemas.ProblemsResponse,
    ),
    ("map", "post", "Where documents lie", schemas.FilterRequest, schemas.MapResponse),
)
ERRORS = {
    "400": "The request cannot be used as it is.",
    "401": "The API key is missing or unknown.",
    "403": "The API key does not allow this.",
    "404": "There is no such document or knowledge base, or not for this key.",
    "429": "Too many requests; Retry-After says when to return.",
    "503": "Too many questions wait; Retry-After says when to return.",
}


def paths(prefix: str) -> Json:
    """Return the paths of the routes below a prefix."""
    return {f"{prefix}/{route[0]}": {route[1]: _operation(*route)} for route in ROUTES}


def _operation(
    name: str,
    method: str,
    summary: str,
    request: type[msgspec.Struct] | None,
    response: type[msgspec.Struct],
) -> Json:
    error = _content(_response_schema(schemas.ErrorResponse))
    responses = {status: {"description": text, "content": error} for status, text in ERRORS.items()}
    operation: Json = {
        "operationId": f"kb_{name}",
        "summary": summary,
        "tags": [TAG],
        "responses": {
            "200": {"description": "The answer.", "content": _content(_response_schema(response))},
            **responses,
        },
    }
    if request is not None:
        body = _content(_request_schema(request))
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _request_schema(kind: type[msgspec.Struct]) -> Json:
    """Return the schema of a request; null means absent, so every optional field may be null."""
    schema = _schema(kind, ("default",))
    for name, field in schema["properties"].items():
        if name not in schema["required"] and "anyOf" not in field:
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}]}
    if not schema["required"]:
        del schema["required"]
    return schema


def _response_schema(kind: type[msgspec.Struct]) -> Json:
    return _schema(kind, ("default", "required"))


def _schema(kind: type[msgspec.Struct], dropped: tuple[str, ...]) -> Json:
    """Return the JSON schema of a type without some keys, with the types that it uses inlined."""
    _, components = msgspec.json.schema_components([kind], ref_template="{name}")

    def inlined(value: Any) -> Any:
        if isinstance(value, list):
            return [inlined(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return of(value["$ref"])
        return {name: inlined(one) for name, one in value.items() if name not in dropped}

    def of(name: str) -> Json:
        plain = {k: v for k, v in components[name].items() if k not in ("title", "description")}
        schema: Json = inlined(plain)
        return schema

    return of(kind.__name__)
