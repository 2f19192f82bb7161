"""Answers one request: reads, parses, authenticates, computes and encodes, for every protocol."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from opengte.errors import DeadlineError, InputError
from opengte.serve.http import errors, request_body, response_headers
from opengte.serve.http.request_body import ClientDisconnected, Headers
from opengte.serve.http.response_json import dumps, encode_json
from opengte.serve.http.routing import Endpoint
from opengte.serve.observability.request_record import RequestRecord
from opengte.serve.protocols.base import (
    Answer,
    Operation,
    ParsedRequest,
    ProtocolPolicy,
    Request,
    RequestInfo,
    TokenizeRequest,
)
from opengte.serve.types import (
    Authorizer,
    Call,
    Caller,
    EmbedAnswer,
    EmbedRequest,
    ModelStatus,
    Priority,
    ScoreAnswer,
    ScoreRequest,
    Service,
    find_named,
)

log = logging.getLogger("opengte.serve")

T = TypeVar("T")

DEADLINE_GRACE = 0.25  # seconds beyond a deadline for the service to report it itself
UNLIMITED_TOKENS = 1 << 30
READ_WHOLE = 65_536  # characters; a longer text is read as far as its kept tokens depend on
TOKEN_BYTES = 3  # of a body, for each token in it, at least: tokens of a model not loaded yet
WATCH_CLIENT_AFTER = 0.02  # seconds; most answers are ready before, so that no watcher is needed
MAX_CONCURRENT_PARTS = 64  # parts of one request that the service computes at the same time


@dataclass(frozen=True)
class HandlerContext:
    """What all handlers share."""

    service: Service
    authorizer: Authorizer | None
    policy: ProtocolPolicy
    strict: bool
    timeout: float | None
    interactive_inputs: int


class Handler:
    """The ASGI application of one method of one path."""

    def __init__(self, endpoint: Endpoint, context: HandlerContext) -> None:
        self.endpoint = endpoint
        self.context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; an error becomes a body in the form of its protocol."""
        exchange = _Exchange(self.endpoint, self.context, scope, receive)
        try:
            status, headers, body = await exchange.answer()
        except ClientDisconnected:
            exchange.record.status = errors.CLIENT_CLOSED_REQUEST
            exchange.record.error = "cancelled"
            return
        except Exception as error:
            status, headers, body = exchange.error_answer(error)
        exchange.record.status = status
        await _send_response(send, status, headers, body)


async def _send_response(
    send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


class _Exchange:
    """One request and its answer; `operation` is what the request is taken for so far."""

    def __init__(
        self, endpoint: Endpoint, context: HandlerContext, scope: Scope, receive: Receive
    ) -> None:
        self.endpoint = endpoint
        self.context = context
        self.receive = receive
        self.headers: Headers = dict(scope["headers"])
        self.record: RequestRecord = scope["opengte"]
        self.operation = endpoint.operations[0]
        self.model: str | None = None
        self.info = RequestInfo(
            self.record.request_id,
            context.policy,
            context.service.models,
            self.record.age,
            scope.get("path_params", {}),
            self.headers.get(b"x-fern-sdk-name", b"").decode("latin-1"),
        )

    async def answer(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Return status, headers and body; raises what `error_answer` reports."""
        authorizer, public = self.context.authorizer, self.operation.public
        secret = api_key_of(self.headers)
        if authorizer is not None and secret is None and not public:
            authorizer.authenticate(None, None)  # before reading the body of a stranger
        raw = await self._read_body()
        body, parsed = self._parse(raw)
        caller = Caller()
        if authorizer is not None and not public:
            caller = authorizer.authenticate(secret, self.model or self._default_model(parsed))
            if not parsed.requests:
                self.info = replace(self.info, models=lambda: self._models_for(caller))
        call = self._call(caller, parsed)
        if parsed.requests and self.context.service.loading:
            await self._unless_disconnected(self._wait_loaded(raw, parsed, call))
            body, parsed = self._parse(raw)  # what a request means may depend on the model
        answers = await self._compute_and_charge(parsed, caller, call)
        return await self._encode(body, parsed, answers)

    def error_answer(self, error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Return status, headers and body of an error."""
        failure = errors.to_failure(error, self.model, self.context.service.models())
        if failure.kind in ("internal", "engine"):
            log.error(
                "%s failed: %s",
                self.operation.id,
                type(error).__name__,
                exc_info=error,
                extra={"request_id": self.record.request_id},
            )
        self._set_operation(self.operation)
        self.record.error = failure.kind
        status, content, headers = errors.to_response(
            failure, self.operation.protocol, self.context.policy
        )
        headers = [("content-type", "application/json"), *headers]
        return status, response_headers.encode_headers(headers), dumps(content)

    def _set_operation(self, operation: Operation) -> None:
        self.operation = operation
        self.record.operation = operation.id
        self.record.protocol = operation.protocol.name

    async def _read_body(self) -> bytes:
        if self.endpoint.method == "GET":
            return b""
        return await request_body.read_body(
            self.headers, self.receive, self.context.policy.max_body_bytes
        )

    def _parse(self, raw: bytes) -> tuple[Any, ParsedRequest]:
        """Return the decoded body and the requests in it."""
        body = self._decode(raw)
        parsed = self.operation.parse(body, self.info)
        self._check_inputs(parsed)
        return body, parsed

    def _decode(self, raw: bytes) -> Any:
        if self.endpoint.method == "GET":
            self._set_operation(self.operation)
            return None
        start = time.perf_counter()
        fields = request_body.split_fields(raw)
        self._set_operation(self.endpoint.choose(request_body.given(fields), self.info))
        self.record.ignored_fields = request_body.ignored_fields(
            self.operation, fields, self.context.strict
        )
        body = request_body.decode_body(self.operation, raw)
        self.record.decoding = time.perf_counter() - start
        return body

    def _check_inputs(self, parsed: ParsedRequest) -> None:
        """Record model and inputs; InputError for too many inputs, or for several models."""
        models = {request.model for request in parsed.requests}
        if len(models) > 1:
            raise InputError(
                f"The request asks for the models {sorted(map(str, models))}; expected one. Send "
                "one request a model."
            )
        self.model = self.record.model = self._own_name(next(iter(models), None))
        self.record.texts = sum(_size(request) for request in parsed.requests)
        maximum = self.context.policy.max_inputs
        if self.record.texts > maximum:
            raise InputError(
                f"The request has {self.record.texts} inputs; expected up to {maximum} "
                "(--max-inputs). Send fewer at a time."
            )

    def _own_name(self, asked: str | None) -> str | None:
        """Return the name of the model that a client means; an unknown one as it is."""
        named = None if asked is None else find_named(asked, self.context.service.models())
        return asked if named is None else named.name

    def _default_model(self, parsed: ParsedRequest) -> str | None:
        """Return the name of the model that answers a request without one."""
        kind = "reranker" if isinstance(_first(parsed), ScoreRequest) else "encoder"
        statuses = self.info.models()
        fitting = [each for each in statuses if each.card is None or each.card.kind == kind]
        return (fitting or list(statuses))[0].name if parsed.requests and statuses else None

    def _models_for(self, caller: Caller) -> tuple[ModelStatus, ...]:
        """Return the models that a caller may use."""
        authorizer, models = self.context.authorizer, self.context.service.models()
        assert authorizer is not None
        return tuple(model for model in models if authorizer.may_use(caller, model.name))

    def _call(self, caller: Caller, parsed: ParsedRequest) -> Call:
        priority = self._priority(caller, parsed)
        self.record.key, self.record.priority = caller.key, priority
        seconds = _seconds(self.headers.get(b"x-request-timeout"), self.context.timeout)
        deadline = None if seconds is None else self.record.started + seconds
        return Call(self.record.request_id, caller.key, priority, deadline)

    def _priority(self, caller: Caller, parsed: ParsedRequest) -> Priority:
        """Return the priority by header, protocol's field, number of texts and API key."""
        header = self.headers.get(b"x-priority", b"").decode("latin-1").lower()
        if header in ("interactive", "bulk"):
            return "bulk" if header == "bulk" else "interactive"
        if header:
            raise InputError(f"X-Priority={header!r} is not known; expected interactive or bulk.")
        if parsed.priority is not None:
            return parsed.priority
        embeds = isinstance(_first(parsed), EmbedRequest)
        many = embeds and self.record.texts > self.context.interactive_inputs
        return "bulk" if many else caller.priority

    async def _wait_loaded(self, raw: bytes, parsed: ParsedRequest, call: Call) -> None:
        """Wait for a model that is loading."""
        kinds = {EmbedRequest: "encoder", ScoreRequest: "reranker"}
        kind = kinds.get(type(_first(parsed)), "")
        await self.context.service.wait_loaded(self.model, kind, len(raw) // TOKEN_BYTES, call)

    async def _compute_and_charge(
        self, parsed: ParsedRequest, caller: Caller, call: Call
    ) -> tuple[Answer, ...]:
        """Return the service's answers, and record the usage, also that of a failed request."""
        authorizer = self.context.authorizer
        if not parsed.requests:
            return ()
        if authorizer is None:
            return await self._unless_disconnected(self._before_deadline(parsed, call))
        model = self.model or self._default_model(parsed) or ""
        if caller.key is not None:
            longest = errors.max_length_of(model, self.info.models()) or UNLIMITED_TOKENS
            estimate = sum(_estimate(request, longest) for request in parsed.requests)
            authorizer.reserve(caller, model, estimate)
        tokens = texts = 0
        try:
            answers = await self._unless_disconnected(self._before_deadline(parsed, call))
            tokens, texts = sum(_tokens(answer) for answer in answers), self.record.texts
            return answers
        finally:
            authorizer.record(caller, model, tokens, texts)

    async def _before_deadline(self, parsed: ParsedRequest, call: Call) -> tuple[Answer, ...]:
        if call.deadline is None:
            return await self._compute(parsed, call)
        left = call.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError("The request's time ran out before it was read.")
        try:
            async with asyncio.timeout(left + DEADLINE_GRACE):
                return await self._compute(parsed, call)
        except TimeoutError:
            raise DeadlineError(
                f"The request's {left:.3g} seconds ran out before it was computed."
            ) from None

    async def _compute(self, parsed: ParsedRequest, call: Call) -> tuple[Answer, ...]:
        """Return the answers to all parts; the first one that fails cancels the others."""
        if len(parsed.requests) == 1:
            return (await self._compute_part(parsed.requests[0], call),)
        answers: list[Answer] = []
        for start in range(0, len(parsed.requests), MAX_CONCURRENT_PARTS):
            parts = parsed.requests[start : start + MAX_CONCURRENT_PARTS]
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._compute_part(part, call)) for part in parts]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            answers += [task.result() for task in tasks]
        return tuple(answers)

    async def _compute_part(self, request: Request, call: Call) -> Answer:
        service = self.context.service
        if isinstance(request, EmbedRequest):
            return await service.embed(request, call)
        if isinstance(request, ScoreRequest):
            return await service.score(request, call)
        if isinstance(request, TokenizeRequest):
            return await service.tokenize(
                request.model, request.texts, request.add_special, request.prompt_name
            )
        return await service.decode(request.model, request.ids, request.skip_special)

    async def _unless_disconnected(self, awaited: Awaitable[T]) -> T:
        """Return a result, or cancel it and raise ClientDisconnected when the client leaves."""
        mine = asyncio.current_task()
        assert mine is not None
        disconnected = False
        watcher: asyncio.Task[None] | None = None

        async def watch() -> None:
            nonlocal disconnected
            while (await self.receive())["type"] != "http.disconnect":
                pass
            disconnected = True
            mine.cancel()

        def begin() -> None:
            nonlocal watcher
            watcher = asyncio.create_task(watch())

        timer = asyncio.get_running_loop().call_later(WATCH_CLIENT_AFTER, begin)
        try:
            return await awaited
        except asyncio.CancelledError:
            if not disconnected:
                raise
            mine.uncancel()
            raise ClientDisconnected from None
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()

    async def _encode(
        self, body: Any, parsed: ParsedRequest, answers: tuple[Answer, ...]
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        start = time.perf_counter()
        response_headers.update_record(self.record, parsed, answers)
        content = self.operation.reply(body, answers, self.info)
        encoded = await encode_json(content, sum(_numbers(answer) for answer in answers))
        headers = [("content-type", "application/json")]
        headers += response_headers.answer_headers(self.record, parsed, answers)
        if self.operation.headers is not None:
            headers += self.operation.headers(parsed, answers, self.record.age())
        self.record.encoding = time.perf_counter() - start
        return 200, response_headers.encode_headers(headers), encoded


def api_key_of(headers: Headers) -> str | None:
    """Return the API key that a request carries, in any of the headers that clients use."""
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    for name in (b"x-api-key", b"api-key"):
        if headers.get(name):
            return headers[name].decode("latin-1").strip()
    return None


def _seconds(header: bytes | None, default: float | None) -> float | None:
    """Return the shorter timeout of the request and the server."""
    if header is None:
        return default
    try:
        seconds = float(header)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise InputError(
            f"X-Request-Timeout={header.decode('latin-1')!r} is not a time; expected seconds, such "
            "as 2.5."
        )
    return seconds if default is None else min(seconds, default)


def _first(parsed: ParsedRequest) -> Request | None:
    return parsed.requests[0] if parsed.requests else None


def _size(request: Request) -> int:
    if isinstance(request, EmbedRequest):
        return len(request.inputs)
    if isinstance(request, ScoreRequest):
        return len(request.pairs)
    return len(request.texts if isinstance(request, TokenizeRequest) else request.ids)


def _estimate(request: Request, longest: int) -> int:
    """Return about how many tokens are read: one for four characters, and special tokens.

    longest is the most that the model computes of one input; of a long text, more is read.
    """
    longest = max(longest, READ_WHOLE // 4)
    if isinstance(request, EmbedRequest):
        sizes = [len(item) // 4 if isinstance(item, str) else len(item) for item in request.inputs]
    elif isinstance(request, ScoreRequest):
        sizes = [(len(query) + len(text)) // 4 + 1 for query, text in request.pairs]
    else:
        return 0
    return sum(min(size + 2, longest) for size in sizes)


def _tokens(answer: Answer) -> int:
    if isinstance(answer, EmbedAnswer | ScoreAnswer):
        return answer.tokens_read
    return 0


def _numbers(answer: Answer) -> int:
    """Return about how many numbers an answer has."""
    if isinstance(answer, ScoreAnswer):
        return len(answer.scores)
    if not isinstance(answer, EmbedAnswer):
        return sum(map(len, answer))
    count = 0
    for rows in (answer.dense, answer.states, answer.tokens):
        count += sum(row.size for row in rows or () if row is not None)
    return count + sum(2 * len(row) for row in answer.sparse or () if row is not None)
