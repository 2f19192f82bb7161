"""A service without models, a gate without a database, and how tests ask them over HTTP."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from opengte.errors import (
    AccessError,
    CapabilityError,
    DeadlineError,
    EngineError,
    InputError,
    LimitError,
    NotReadyError,
    OverloadedError,
    TruncationError,
    UnknownModelError,
)
from opengte.serve.http.app import AppOptions, build_app
from opengte.serve.types import (
    Call,
    Caller,
    EmbedAnswer,
    EmbedRequest,
    InputFailure,
    ModelStatus,
    ScoreAnswer,
    ScoreRequest,
    Timing,
    Token,
    find_named,
)
from opengte.types import ModelCard, Truncated

WIDTH = 8
LONGEST = 8  # tokens: words, and two special ones
GOLDEN = Path(__file__).parents[1] / "golden" / "serve"

ENCODER = ModelCard(
    name="fake",
    source="nowhere/fake 1",
    kind="encoder",
    architecture="words",
    layers=1,
    dimension=WIDTH,
    max_length=LONGEST,
    pooling="mean",
    outputs=("dense", "sparse", "tokens", "states"),
    prompts={"query": "ask: ", "document": "say: "},
    instruction_template="{instruction}: ",
    default_instruction=None,
    dimensions=(4,),
    parameters=1000,
    stored_dtype="fp32",
    licence="MIT",
    fingerprint="f" * 32,
    engine="fake",
    precision="fp32",
    device="cpu",
    threads=1,
)
RERANKER = dataclasses.replace(
    ENCODER,
    name="fake-reranker",
    kind="reranker",
    dimension=1,
    outputs=(),
    prompts={},
    instruction_template=None,
    fingerprint="e" * 32,
)

FAULTS: dict[str, Exception] = {
    "!engine": EngineError("The engine failed on input 0. Send it again, or leave it out."),
    "!overloaded": OverloadedError("The queue is full (4096 tokens). Try again later.", 1.25),
    "!loading": NotReadyError("The model `fake` is loading. Try again later.", 5.0),
    "!late": DeadlineError("The request's time ran out in the queue."),
    "!incapable": CapabilityError("The model gives no such vectors. Ask for dense ones."),
    "!bug": ValueError("secret"),
}
BAD = "!bad"  # an input that fails by itself


def vector(text: str, width: int = WIDTH) -> np.ndarray:
    """Return the unit vector of a text."""
    found = np.frombuffer(hashlib.sha256(text.encode("utf-8", "replace")).digest(), np.int8)
    values = found[:width].astype(np.float32) + 0.5
    return (values / np.float32(np.sqrt(np.sum(values.astype(np.float64) ** 2)))).astype(np.float32)


def score(query: str, text: str) -> float:
    return round(float(np.clip(vector(query) @ vector(text), -1, 1)) / 2 + 0.5, 4)


class FakeService:
    """Answers from hashes; texts in FAULTS make it fail."""

    def __init__(self, *cards: ModelCard) -> None:
        self.cards = cards or (ENCODER, RERANKER)
        self.asked: list[Any] = []
        self.calls: list[Call] = []
        self.cancelled = 0
        self.healthy = True
        self.states = {card.name: "ready" for card in self.cards}

    def models(self) -> tuple[ModelStatus, ...]:
        return tuple(
            ModelStatus(
                card.name,
                self.states[card.name],
                card if self.states[card.name] == "ready" else None,
                1_700_000_000,
                max_batch_tokens=4096,
            )
            for card in self.cards
        )

    @property
    def loading(self) -> bool:
        return "loading" in self.states.values()

    async def wait_loaded(self, model: str | None, kind: str, tokens: int, call: Call) -> None:
        pass

    async def check(self) -> None:
        if not self.healthy:
            raise NotReadyError("The model `fake` does not answer.", 2.0)

    def _card(self, name: str | None, kind: str) -> ModelCard:
        named = None if name is None else find_named(name, self.models())
        for card in self.cards:
            if (named and named.name) == card.name or (name is None and card.kind == kind):
                if card.kind != kind:
                    raise CapabilityError(f"The model `{card.name}` is no {kind}.")
                return card
        raise UnknownModelError(f"The model {name!r} does not exist. GET /v1/models lists them.")

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedAnswer:
        self.asked.append(request)
        self.calls.append(call)
        card = self._card(request.model, "encoder")
        for item in request.inputs:
            if item in FAULTS:
                raise FAULTS[item]
            if item == "!wait":
                await self._wait()
        texts = [
            item if isinstance(item, str) else " ".join(map(str, item)) for item in request.inputs
        ]
        counts, cut = self._counts([len(text.split()) + 2 for text in texts], request.truncation)
        bad = {i for i, text in enumerate(texts) if text == BAD}
        if bad and not request.partial:
            raise InputError(f"input {min(bad)} was refused before: it poisons its batch.")
        prompt = f"{request.instruction}|{request.prompt_name}|" if request.instruction else ""
        width = request.dimensions or card.dimension
        if width > card.dimension:
            raise InputError(f"dimensions is {width}, expected 1 to {card.dimension}.")
        rows = [
            None if i in bad else vector(f"{request.role}|{prompt}{text}", width)
            for i, text in enumerate(texts)
        ]
        if not request.normalize:
            rows = [None if row is None else row * 2 for row in rows]
        sparse = [{7: 0.5, 3: 0.25} if row is not None else None for row in rows]
        states = [
            None if row is None else np.stack([row] * count)
            for row, count in zip(rows, counts, strict=True)
        ]
        return EmbedAnswer(
            model=card,
            dense=rows if "dense" in request.outputs else None,
            sparse=sparse if "sparse" in request.outputs else None,
            tokens=states if "tokens" in request.outputs else None,
            states=states if "states" in request.outputs else None,
            token_counts=[0 if i in bad else count for i, count in enumerate(counts)],
            truncated=cut,
            failures=tuple(InputFailure(i, InputError("It poisons its batch.")) for i in bad),
            timing=Timing(0.0011, 0.0022, 0.0033),
        )

    async def score(self, request: ScoreRequest, call: Call) -> ScoreAnswer:
        self.asked.append(request)
        self.calls.append(call)
        card = self._card(request.model, "reranker")
        for _, text in request.pairs:
            if text in FAULTS:
                raise FAULTS[text]
        lengths = [len(f"{query} {text}".split()) + 3 for query, text in request.pairs]
        counts, cut = self._counts(lengths, request.truncation)
        scores = [score(*pair) for pair in request.pairs]
        if not request.sigmoid:
            scores = [round(each * 10 - 5, 4) for each in scores]
        return ScoreAnswer(card, scores, counts, cut, timing=Timing(0.0011, 0.0022, 0.0033))

    def _counts(self, found: list[int], truncation: str) -> tuple[list[int], Any]:
        long = tuple(Truncated(i, n, LONGEST) for i, n in enumerate(found) if n > LONGEST)
        if long and truncation == "error":
            raise TruncationError(
                f"{len(long)} of {len(found)} inputs have more than max_length={LONGEST} tokens: "
                f"{long[0].index} ({long[0].found} tokens). Shorten or split them."
            )
        return [min(n, LONGEST) for n in found], long

    async def _wait(self) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def tokenize(
        self, model: str | None, texts: tuple[str, ...], add_special: bool, prompt_name: str | None
    ) -> list[list[Token]]:
        self._card(model, "encoder")
        return [self._tokens(text, add_special) for text in texts]

    def _tokens(self, text: str, add_special: bool) -> list[Token]:
        found, place = [], 0
        for word in text.split():
            place = text.index(word, place)
            found.append(Token(len(word), word, False, place, place + len(word)))
        ends = [Token(101, "[CLS]", True, None, None), Token(102, "[SEP]", True, None, None)]
        return [ends[0], *found, ends[1]] if add_special else found

    async def decode(
        self, model: str | None, ids: tuple[tuple[int, ...], ...], skip_special: bool
    ) -> list[str]:
        self._card(model, "encoder")
        return [" ".join("x" * i for i in row if not (skip_special and i > 100)) for row in ids]


class FakeAuthorizer:
    """Knows two keys; one may only use the model `fake`."""

    def __init__(self) -> None:
        self.admitted: list[tuple[str | None, str | None]] = []
        self.reserved: list[tuple[Caller, str, int]] = []
        self.recorded: list[tuple[Caller, str, int, int]] = []

    def authenticate(self, secret: str | None, model: str | None) -> Caller:
        self.admitted.append((secret, model))
        if secret == "slow":
            raise LimitError("The key `slow` may send 1 request a minute.", 30.0)
        if secret not in ("good", "bulk"):
            raise AccessError("The API key is missing or unknown. Send a valid one.", False)
        if secret == "bulk" and model not in (None, "fake"):
            raise AccessError(f"The key `k2` may not use the model {model!r}.", True)
        return Caller("k1") if secret == "good" else Caller("k2", "bulk")

    def sees(self, secret: str | None) -> Callable[[str], bool]:
        caller = self.authenticate(secret, None)
        return lambda model: self.may_use(caller, model)

    def may_use(self, caller: Caller, model: str) -> bool:
        return caller.key != "k2" or model == "fake"

    def reserve(self, caller: Caller, model: str, tokens: int) -> None:
        self.reserved.append((caller, model, tokens))

    def record(self, caller: Caller, model: str, tokens: int, texts: int) -> None:
        self.recorded.append((caller, model, tokens, texts))


def client(service: Any = None, authorizer: Any = None, **options: Any) -> TestClient:
    """Return an in-process client of the application."""
    app = build_app(service or FakeService(), authorizer, AppOptions(**options))
    return TestClient(app, raise_server_exceptions=True)


CLOCKS = ("server-timing", "x-compute-time", "x-total-time")  # headers that hold milliseconds


def _settled(value: Any) -> Any:
    """Replace what differs from run to run."""
    if isinstance(value, dict):
        return {
            name: 0 if name == "total_duration" else _settled(each) for name, each in value.items()
        }
    return [_settled(each) for each in value] if isinstance(value, list) else value


def seen(response: Any) -> dict[str, Any]:
    """Return what a golden file holds of a response."""
    body = None
    if response.content:
        with contextlib.suppress(ValueError):
            body = _settled(response.json())
    headers = {
        k: v for k, v in sorted(response.headers.items()) if k not in (*CLOCKS, "content-length")
    }
    return {"status": response.status_code, "headers": headers, "body": body}


def close(expected: Any, found: Any) -> Any:
    """Return what is expected, with the numbers found in place of those nearly equal to them."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return {name: close(each, found.get(name)) for name, each in expected.items()}
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [close(*each) for each in zip(expected, found, strict=True)]
    if isinstance(expected, float) and isinstance(found, float):
        return found if math.isclose(expected, found, rel_tol=1e-6, abs_tol=1e-6) else expected
    return expected


def check_golden(
    protocol: str, name: str, request: Any, response: Any, computed: bool = False
) -> None:
    """Compare a response with its file; `OPENGTE_WRITE_GOLDEN=1` writes the files anew.

    The last digits of numbers that NumPy `computed` differ from processor to processor.
    """
    path = GOLDEN / protocol / f"{name}.json"
    found = {"request": request, "response": seen(response)}
    if os.environ.get("OPENGTE_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    found = json.loads(json.dumps(found))
    expected = json.loads(path.read_text(encoding="utf-8"))
    assert found == (close(expected, found) if computed else expected)


def ask(http: TestClient, request: Any) -> Any:
    """Send one request, written as (method, path, body) or with headers as well."""
    method, path, body, *rest = request
    headers = {"x-request-id": "test", **(rest[0] if rest else {})}
    content = body.encode() if isinstance(body, str) else None
    return http.request(
        method,
        path,
        json=None if content is not None or body is None else body,
        content=content,
        headers=headers,
    )
