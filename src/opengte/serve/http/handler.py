"""One request from its first byte to its last: the same steps for every operation."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from opengte.errors import DeadlineError, InputError
from opengte.serve.http import errors, request_body, response_headers
from opengte.serve.http.request_body import ClientGone, Headers
from opengte.serve.http.response_json import dumps, encode
from opengte.serve.http.routing import Endpoint
from opengte.serve.observability.request_record import Record
from opengte.serve.protocols.base import (
    Answer,
    Exchange,
    Operation,
    Policy,
    Request,
    TokenizeRequest,
    Work,
)
from opengte.serve.types import (
    Call,
    EmbedAnswer,
    EmbedRequest,
    Gate,
    Identity,
    Priority,
    ScoreAnswer,
    ScoreRequest,
    Service,
)

log = logging.getLogger("opengte.serve")

GRACE = 0.25  # seconds beyond its deadline that the service has for saying so itself
CLIENT_GONE = 499
NO_LIMIT = 1 << 30
PROMPT = 0.02  # seconds in which most answers are there, so that nobody looks after their clients
TOGETHER = 64  # parts of one request that are asked of the service at the same time


@dataclass(frozen=True)
class Context:
    """What all handlers share."""

    service: Service
    gate: Gate | None
    policy: Policy
    strict: bool
    timeout: float | None
    interactive_inputs: int


class Handler:
    """The ASGI application of one method of one path."""

    def __init__(self, endpoint: Endpoint, context: Context) -> None:
        self.endpoint = endpoint
        self.context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error becomes a body in the words of its protocol."""
        exchanged = _Request(self.endpoint, self.context, scope, receive)
        try:
            status, headers, body = await exchanged.answer()
        except ClientGone:
            exchanged.record.status, exchanged.record.error = CLIENT_GONE, "cancelled"
            return
        except Exception as error:
            status, headers, body = exchanged.failed(error)
        exchanged.record.status = status
        await send_response(send, status, headers, body)


async def send_response(
    send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> None:
    """Send a whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


class _Request:
    """One request on its way; `operation` is what it is taken for so far."""

    def __init__(
        self, endpoint: Endpoint, context: Context, scope: Scope, receive: Receive
    ) -> None:
        self.endpoint = endpoint
        self.context = context
        self.receive = receive
        self.headers: Headers = dict(scope["headers"])
        self.record: Record = scope["opengte"]
        self.operation = endpoint.operations[0]
        self.model: str | None = None
        self.exchange = Exchange(
            self.record.request_id,
            context.policy,
            context.service.models,
            self.record.age,
            scope.get("path_params", {}),
            self.headers.get(b"x-fern-sdk-name", b"").decode("latin-1"),
        )

    async def answer(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Return status, headers and body; raises what `failed` puts into words."""
        gate, public = self.context.gate, self.operation.public
        secret = key_of(self.headers)
        if gate is not None and secret is None and not public:
            gate.admit(None, None)  # a stranger's body is not even read
        body = await self._decoded()
        work = self.operation.requests(body, self.exchange)
        self._describe(work)
        identity = Identity()
        if gate is not None and not public:
            identity = gate.admit(secret, self.model or self._default(work))
        call = self._call(identity, work)
        answers = await self._asked(work, identity, call)
        return await self._encoded(body, work, answers)

    def failed(self, error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Return status, headers and body of an error."""
        failure = errors.classify(error, self.model, self.context.service.models())
        if failure.kind in ("internal", "engine"):
            log.error(
                "%s failed: %s",
                self.operation.id,
                type(error).__name__,
                exc_info=error,
                extra={"request_id": self.record.request_id},
            )
        self._take(self.operation)
        self.record.error = failure.kind
        status, content, more = errors.worded(failure, self.operation.dialect, self.context.policy)
        return (
            status,
            response_headers.encoded([("content-type", "application/json"), *more]),
            dumps(content),
        )

    def _take(self, operation: Operation) -> None:
        self.operation = operation
        self.record.operation = operation.id
        self.record.protocol = operation.dialect.name

    async def _decoded(self) -> Any:
        if self.endpoint.method == "GET":
            self._take(self.operation)
            return None
        raw = await request_body.read_body(
            self.headers, self.receive, self.context.policy.max_body_bytes
        )
        start = time.perf_counter()
        fields = request_body.top_fields(raw)
        self._take(self.endpoint.choose(fields, self.exchange))
        self.record.ignored_fields = request_body.unused(
            self.operation, fields, self.context.strict
        )
        body = request_body.decode(self.operation, raw)
        self.record.decoding = time.perf_counter() - start
        return body

    def _describe(self, work: Work) -> None:
        """Note what is asked; InputError on too many inputs, or on several models in one."""
        models = {request.model for request in work.requests}
        if len(models) > 1:
            raise InputError(
                f"The request asks for the models {sorted(map(str, models))}; expected one. Send "
                "one request a model."
            )
        self.model = self.record.model = next(iter(models), None)
        self.record.texts = sum(_size(request) for request in work.requests)
        most = self.context.policy.max_inputs
        if self.record.texts > most:
            raise InputError(
                f"The request has {self.record.texts} inputs; expected up to {most} "
                "(--max-inputs). Send fewer at a time."
            )

    def _default(self, work: Work) -> str | None:
        """Return the name of the model that a request without one means."""
        kind = "reranker" if isinstance(_first(work), ScoreRequest) else "encoder"
        statuses = self.exchange.models()
        fitting = [each for each in statuses if each.card is None or each.card.kind == kind]
        return (fitting or list(statuses))[0].name if work.requests and statuses else None

    def _call(self, identity: Identity, work: Work) -> Call:
        priority = self._priority(identity, work)
        self.record.key, self.record.priority = identity.key, priority
        seconds = _seconds(self.headers.get(b"x-request-timeout"), self.context.timeout)
        deadline = None if seconds is None else self.record.started + seconds
        return Call(self.record.request_id, identity.key, priority, deadline)

    def _priority(self, identity: Identity, work: Work) -> Priority:
        """Return what the request says, else the protocol's field, the key, the number of texts."""
        said = self.headers.get(b"x-priority", b"").decode("latin-1").lower()
        if said in ("interactive", "bulk"):
            return "bulk" if said == "bulk" else "interactive"
        if said:
            raise InputError(f"X-Priority={said!r} is not known; expected interactive or bulk.")
        if work.priority is not None:
            return work.priority
        embeds = isinstance(_first(work), EmbedRequest)
        many = embeds and self.record.texts > self.context.interactive_inputs
        return "bulk" if many else identity.priority

    async def _asked(self, work: Work, identity: Identity, call: Call) -> tuple[Answer, ...]:
        """Return the service's answers; what was used is recorded, also of a failed request."""
        gate = self.context.gate
        if not work.requests:
            return ()
        if gate is None:
            return await self._unless_gone(self._within(work, call))
        model = self.model or self._default(work) or ""
        if identity.key is not None:
            longest = errors.limit_of(model, self.exchange.models()) or NO_LIMIT
            gate.reserve(identity, model, sum(_estimate(each, longest) for each in work.requests))
        tokens = texts = 0
        try:
            answers = await self._unless_gone(self._within(work, call))
            tokens, texts = sum(_tokens(answer) for answer in answers), self.record.texts
            return answers
        finally:
            gate.record(identity, model, tokens, texts)

    async def _within(self, work: Work, call: Call) -> tuple[Answer, ...]:
        if call.deadline is None:
            return await self._all(work, call)
        left = call.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError("The request's time ran out before it was read.")
        try:
            async with asyncio.timeout(left + GRACE):
                return await self._all(work, call)
        except TimeoutError:
            raise DeadlineError(
                f"The request's {left:.3g} seconds ran out before it was computed."
            ) from None

    async def _all(self, work: Work, call: Call) -> tuple[Answer, ...]:
        """Return the answers to all parts, some at a time; the first that fails ends the rest."""
        if len(work.requests) == 1:
            return (await self._one(work.requests[0], call),)
        answers: list[Answer] = []
        for start in range(0, len(work.requests), TOGETHER):
            some = work.requests[start : start + TOGETHER]
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._one(each, call)) for each in some]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            answers += [task.result() for task in tasks]
        return tuple(answers)

    async def _one(self, request: Request, call: Call) -> Answer:
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

    async def _unless_gone(self, asked: Any) -> tuple[Answer, ...]:
        """Return an answer, or raise ClientGone and cancel the asking when the client goes."""
        mine = asyncio.current_task()
        assert mine is not None
        gone = False
        watcher: asyncio.Task[None] | None = None

        async def watch() -> None:
            nonlocal gone
            while (await self.receive())["type"] != "http.disconnect":
                pass
            gone = True
            mine.cancel()

        def begin() -> None:
            nonlocal watcher
            watcher = asyncio.create_task(watch())

        timer = asyncio.get_running_loop().call_later(PROMPT, begin)
        try:
            answers: tuple[Answer, ...] = await asked
            return answers
        except asyncio.CancelledError:
            if not gone:
                raise
            mine.uncancel()
            raise ClientGone from None
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()

    async def _encoded(
        self, body: Any, work: Work, answers: tuple[Answer, ...]
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        start = time.perf_counter()
        response_headers.fill(self.record, work, answers)
        content = self.operation.reply(body, answers, self.exchange)
        numbers = sum(_numbers(answer) for answer in answers)
        written = await encode(content, numbers)
        headers = [("content-type", "application/json")]
        headers += response_headers.headers(self.record, work, answers)
        if self.operation.headers is not None:
            headers += self.operation.headers(work, answers, self.record.age())
        self.record.encoding = time.perf_counter() - start
        return 200, response_headers.encoded(headers), written


def key_of(headers: Headers) -> str | None:
    """Return the API key that a request carries, in any of the places where clients put it."""
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    for name in (b"x-api-key", b"api-key"):
        if headers.get(name):
            return headers[name].decode("latin-1").strip()
    return None


def _seconds(header: bytes | None, default: float | None) -> float | None:
    """Return the shorter of what the request and the server allow."""
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


def _first(work: Work) -> Request | None:
    return work.requests[0] if work.requests else None


def _size(request: Request) -> int:
    if isinstance(request, EmbedRequest):
        return len(request.inputs)
    if isinstance(request, ScoreRequest):
        return len(request.pairs)
    return len(request.texts if isinstance(request, TokenizeRequest) else request.ids)


def _estimate(request: Request, longest: int) -> int:
    """Return about how many tokens a request has: four characters each, and the special ones."""
    if isinstance(request, EmbedRequest):
        sizes = [len(item) // 4 if isinstance(item, str) else len(item) for item in request.inputs]
    elif isinstance(request, ScoreRequest):
        sizes = [(len(query) + len(text)) // 4 + 1 for query, text in request.pairs]
    else:
        return 0
    return sum(min(size + 2, longest) for size in sizes)


def _tokens(answer: Answer) -> int:
    if isinstance(answer, EmbedAnswer | ScoreAnswer):
        return int(sum(answer.token_counts))
    return 0


def _numbers(answer: Answer) -> int:
    """Return about how many numbers an answer has."""
    if isinstance(answer, ScoreAnswer):
        return len(answer.scores)
    if not isinstance(answer, EmbedAnswer):
        return sum(map(len, answer))
    found = 0
    for rows in (answer.dense, answer.states, answer.tokens):
        found += sum(row.size for row in rows or () if row is not None)
    return found + sum(2 * len(row) for row in answer.sparse or () if row is not None)
