"""The outermost middleware of the routes: request ids, records, and a 500 for any exception."""

import logging
import random
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opengte.serve.http.errors import to_failure, to_response
from opengte.serve.http.response_headers import encode_headers
from opengte.serve.http.response_json import dumps
from opengte.serve.http.routing import protocol_of
from opengte.serve.observability.request_record import RequestRecord
from opengte.serve.protocols.base import ProtocolPolicy

log = logging.getLogger("opengte.serve")

_random = random.Random()  # seeded for each process; an id must be unique, not secret
_VALID_ID = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")


class RequestContextMiddleware:
    """Gives each request a `RequestRecord` and an id: its `X-Request-ID`, if that is valid."""

    def __init__(self, app: ASGIApp, policy: ProtocolPolicy) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; an exception becomes a 500 with the request's id."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = scope["opengte"] = RequestRecord(_request_id(scope))
        header = (b"x-request-id", record.request_id.encode())
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                record.status = record.status or message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            log.error(
                "request failed: %s",
                type(error).__name__,
                exc_info=error,
                extra={"request_id": record.request_id},
            )
            record.status, record.error = 500, "internal"
            if started:
                raise
            await self._send_error(error, scope["path"], send_with_id)

    async def _send_error(self, error: Exception, path: str, send: Send) -> None:
        status, content, more = to_response(to_failure(error), protocol_of(path), self.policy)
        body = dumps(content)
        headers = encode_headers(
            [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                *more,
            ]
        )
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _VALID_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return f"{_random.getrandbits(128):032x}"
