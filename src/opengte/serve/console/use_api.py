"""The same as the pages, for programs: `/v1/me`, `/v1/usage`, `/v1/keys`, `POST /v1/estimate`."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from opengte.errors import AccessError, InputError, OpenGTEError
from opengte.serve.auth.authorizer import KeyAuthorizer
from opengte.serve.auth.keys import ApiKey
from opengte.serve.config.settings import ServerSettings
from opengte.serve.console.ledger import UNIT, Ledger, cost_of
from opengte.serve.http.admin import request_api_key
from opengte.serve.http.errors import retry_headers, to_failure
from opengte.serve.protocols.base import STATUSES
from opengte.serve.types import Service, find_named


class CostQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """What a bulk job would cost: its texts, or its tokens if they are known."""

    model: str
    input: list[str] | None = None
    tokens: int | None = None


Answer = Callable[[Request, ApiKey], Awaitable[dict[str, Any]]]


class UseApi:
    """The routes of the holder of a key."""

    def __init__(
        self, settings: ServerSettings, service: Service, authorizer: KeyAuthorizer, ledger: Ledger
    ) -> None:
        self._settings, self._service = settings, service
        self._authorizer, self._ledger = authorizer, ledger

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            self._route("/v1/me", self.me),
            self._route("/v1/usage", self.usage),
            self._route("/v1/keys", self.keys),
            self._route("/v1/estimate", self.estimate, "POST"),
        ]

    def _route(self, path: str, answer: Answer, method: str = "GET") -> Route:
        async def respond(request: Request) -> Response:
            try:
                key = self._authorizer.find_key(request_api_key(request))
                if key is None:
                    raise AccessError("this route needs an API key", authenticated=False)
                return JSONResponse(await answer(request, key))
            except (OpenGTEError, msgspec.MsgspecError) as error:
                failure = to_failure(error)
                content = {"error": {"message": failure.message, "type": failure.kind}}
                status = STATUSES[failure.kind]
                return JSONResponse(content, status, dict(retry_headers(failure)))

        return Route(path, respond, methods=[method])

    async def me(self, request: Request, key: ApiKey) -> dict[str, Any]:
        """Return the key and the credit of its team."""
        return {"key": _public(key), "credit": await self._credit(key)}

    async def _credit(self, key: ApiKey) -> dict[str, Any] | None:
        if key.team is None:
            return None
        balance = await asyncio.to_thread(self._ledger.balance, key.team)
        return {
            "team": key.team,
            "currency": self._settings.currency,
            "left": balance.left / UNIT,
            "granted": balance.granted / UNIT,
            "used": balance.used / UNIT,
            "budget": None if balance.budget is None else balance.budget / UNIT,
            "used_this_month": balance.month_used / UNIT,
        }

    async def usage(self, request: Request, key: ApiKey) -> dict[str, Any]:
        """Return what the key's team used, by day, key and model."""
        query = request.query_params
        since, until = _day(query.get("since", "")), _day(query.get("until", "9999"))
        if key.team is None:
            return {"data": []}
        uses = await asyncio.to_thread(self._ledger.uses, key.team, since, until)
        return {"data": [{**vars(use), "amount": use.amount / UNIT} for use in uses]}

    async def keys(self, request: Request, key: ApiKey) -> dict[str, Any]:
        """Return the keys of the key's team."""
        if key.team is None:
            return {"data": [_public(key)]}
        keys = [each for each in self._authorizer.keys.all() if each.team == key.team]
        return {"data": [_public(each) for each in keys]}

    async def estimate(self, request: Request, key: ApiKey) -> dict[str, Any]:
        """Return what a job would cost; nothing is computed or charged."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._settings.max_body_bytes:
                raise InputError("the body is too large; send the number of tokens instead")
        asked = msgspec.json.decode(body, type=CostQuestion)
        named = find_named(asked.model, self._service.models())
        model = asked.model if named is None else named.name
        tokens = asked.tokens
        if asked.input is not None:
            lists = await self._service.tokenize(model, tuple(asked.input), True, None)
            tokens = sum(map(len, lists))
        if tokens is None or not 0 <= tokens < 10**15:
            raise InputError("an estimate needs `input` (texts) or `tokens` (a number)")
        amount, credit = cost_of(tokens, self._settings.price_of(model)), await self._credit(key)
        return {
            "model": model,
            "tokens": tokens,
            "cost": amount / UNIT,
            "currency": self._settings.currency,
            "left_after": None if credit is None else credit["left"] - amount / UNIT,
        }


def _public(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(time.time()),
        "created": key.created,
        "expires": key.expires,
        "models": key.models,
        "limits": vars(key.limits),
    }


def _day(text: str) -> str:
    if not all(c.isdigit() or c == "-" for c in text) or len(text) > 10:
        raise InputError(f"since, until: got {text[:40]!r}; expected a day such as 2026-11-22")
    return text


def openapi_paths() -> dict[str, Any]:
    """Return the routes' part of the OpenAPI document."""
    schema = msgspec.json.schema(CostQuestion)
    body = json.loads(json.dumps(schema["$defs"]["CostQuestion"]))
    days = [
        {"name": name, "in": "query", "schema": {"type": "string", "pattern": "^[0-9-]{0,10}$"}}
        for name in ("since", "until")
    ]
    good = {
        "200": {
            "description": "The answer.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        "400": {"description": "The request is invalid."},
        "401": {"description": "The API key is missing or unknown."},
        "404": {"description": "There is no such model."},
        "503": {"description": "The model is not ready."},
    }

    def get(id: str, summary: str, **more: Any) -> dict[str, Any]:
        operation = {"operationId": id, "summary": summary, "tags": ["Credit"], "responses": good}
        return {**operation, **more}

    content = {"required": True, "content": {"application/json": {"schema": body}}}
    return {
        "/v1/me": {"get": get("me", "The key and the credit of its team.")},
        "/v1/usage": {
            "get": get("usage", "Use by day, key and model of the key's team.", parameters=days)
        },
        "/v1/keys": {"get": get("keys", "The keys of the key's team.")},
        "/v1/estimate": {
            "post": get("estimate", "What a job would cost, and what is left.", requestBody=content)
        },
    }
