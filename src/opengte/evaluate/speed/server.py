"""Load a running server as its clients do: idle, at its limit, and at half of that.

The load is open-loop where latency is measured: requests are sent at the moments of a Poisson
process, whether or not earlier ones were answered, so that a slow server shows its queue
(Schroeder et al. 2006, "Open versus closed: a cautionary tale").
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

import httpx

from opengte.errors import InputError, ServiceError
from opengte.evaluate.speed.texts import mixed_texts

CLIENTS = 16
LEAST = 3  # requests of a measurement, however slow the server is
TIMEOUT = 30.0  # seconds of one request
QUERY = "how do I sort a dictionary by its values?"


@dataclass
class ServerResult:
    """What a server does under load.

    Attributes:
        idle: Milliseconds of one short query when nothing else is asked, the median.
        texts: Texts a second that it answers at its limit, one in a request; `tokens` of them.
        half_p50, half_p99: Milliseconds of a request at half of that rate.
        statuses: How many requests ended with which status, or with which fault.
        client: Share of one processor that this client itself took at the limit.
    """

    url: str
    model: str
    idle: float
    texts: float
    tokens: float
    half_p50: float | None
    half_p99: float | None
    statuses: dict[str, int] = field(default_factory=dict)
    client: float = 0.0


def measure_server(
    url: str, model: str | None = None, *, key: str | None = None, seconds: float = 40.0
) -> ServerResult:
    """Load a server through `POST /v1/embeddings` and return what it does.

    Args:
        url: Where it listens, such as `http://127.0.0.1:8080`, with or without `/v1`.
        model: One that it serves; None: the first of `GET /v1/models`.
        key: An API key, if it asks for one.
        seconds: For all; a quarter idle, then three eighths at the limit and at half of it.

    Raises:
        InputError: The URL is no http URL, or `seconds` is not positive.
        ServiceError: The server cannot be reached, wants a key, or has no such model.
    """
    if not url.startswith(("http://", "https://")) or seconds <= 0:
        raise InputError(
            f"url is `{url}` and seconds {seconds}, expected http://HOST:PORT and a positive number"
        )
    return asyncio.run(_measure(url.rstrip("/").removesuffix("/v1"), model, key, seconds))


async def _measure(url: str, model: str | None, key: str | None, seconds: float) -> ServerResult:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=TIMEOUT, limits=limits, trust_env=False
    ) as client:
        load = _Load(client, model or await _first_model(client))
        idle = await load.idle(seconds / 4)
        at_limit = await load.closed(seconds * 3 / 8)
        rate = at_limit["texts"]
        latencies = await load.open(rate / 2, seconds * 3 / 8) if rate else []
    half = quantiles(latencies, n=100) if len(latencies) > 1 else [None] * 99
    return ServerResult(
        url,
        load.model,
        idle,
        rate,
        at_limit["tokens"],
        half[49],
        half[98],
        dict(load.statuses),
        at_limit["client"],
    )


async def _first_model(client: httpx.AsyncClient) -> str:
    try:
        answer = await client.get("/v1/models")
    except httpx.HTTPError as error:
        raise _unreachable(client, error) from None
    if answer.status_code != 200:
        raise ServiceError(_refused("GET /v1/models", answer))
    models = [one.get("id") for one in answer.json().get("data", [])]
    if not models:
        raise ServiceError(f"`{client.base_url}` serves no model that this key may use")
    return str(models[0])


def _unreachable(client: httpx.AsyncClient, error: Exception) -> ServiceError:
    return ServiceError(f"`{client.base_url}` cannot be reached: {error}")


def _refused(what: str, answer: httpx.Response) -> str:
    hint = "; give a key with --api-key" if answer.status_code == 401 else ""
    return f"{what} was answered with {answer.status_code}{hint}: {answer.text[:200]}"


class _Load:
    """The requests of a measurement, counted by how they ended."""

    def __init__(self, client: httpx.AsyncClient, model: str) -> None:
        self.model = model
        self.statuses: Counter[str] = Counter()
        self._client = client
        self._texts, self._chance = mixed_texts(), random.Random(0)
        self._tokens = 0

    async def idle(self, seconds: float) -> float:
        """Send a short query again and again, alone; ServiceError if the first is refused."""
        taken: list[float] = []
        sent, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end or sent < LEAST:
            start = time.perf_counter()
            if await self._send([QUERY], must=not sent):
                taken.append(1000 * (time.perf_counter() - start))
            sent += 1
        return median(taken)

    async def closed(self, seconds: float) -> dict[str, float]:
        """Keep sixteen requests of one text going."""
        self._tokens, done, began = 0, 0, time.perf_counter()
        processor = time.process_time()

        async def client() -> None:
            nonlocal done
            while time.perf_counter() - began < seconds:
                done += await self._send([self._chance.choice(self._texts)])

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        took = time.perf_counter() - began
        share = (time.process_time() - processor) / took
        return {"texts": done / took, "tokens": self._tokens / took, "client": share}

    async def open(self, rate: float, seconds: float) -> list[float]:
        """Send requests at random moments, `rate` a second; return milliseconds of the answered."""
        found: list[float] = []
        began, due = time.perf_counter(), 0.0

        async def one(moment: float) -> None:
            if await self._send([self._chance.choice(self._texts)]):
                found.append(1000 * (time.perf_counter() - began - moment))

        async with asyncio.TaskGroup() as group:
            sent = 0
            while (due := due + self._chance.expovariate(rate)) < seconds or sent < LEAST:
                sent += 1
                await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
                group.create_task(one(due))
        return found

    async def _send(self, texts: Sequence[str], *, must: bool = False) -> bool:
        """Send one request, count it, and return whether it was answered with vectors."""
        body = {"model": self.model, "input": texts, "encoding_format": "base64"}
        try:
            answer = await self._client.post("/v1/embeddings", json=body)
        except httpx.HTTPError as error:
            if must:
                raise ServiceError(
                    f"`{self._client.base_url}` cannot be reached: {error}"
                ) from None
            self.statuses[type(error).__name__] += 1
            return False
        if must and answer.status_code != 200:
            raise ServiceError(_refused("POST /v1/embeddings", answer))
        self.statuses[str(answer.status_code)] += 1
        if answer.status_code != 200:
            return False
        self._tokens += answer.json().get("usage", {}).get("total_tokens", 0)
        return True
