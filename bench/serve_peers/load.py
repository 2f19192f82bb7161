"""The load generator: a process of its own that sends requests when they are due.

    python -m serve_peers.load < job.json > result.json

An open stream sends at the times of a Poisson process, whatever the server does; latency counts
from the intended time. A closed stream has clients that each wait for their answer.
"""

import asyncio
import gc
import json
import os
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from serve_peers.connection import Answer, Connection, Pool
from serve_peers.precise_timer import Alarm

PERCENTS = (50, 90, 99, 99.9)


class Texts:
    """Endless requests of which no two are alike, so that no cache answers any.

    Two common words are put before each text: two tokens.
    """

    def __init__(self, file: Path, seed: int) -> None:
        found = json.loads(file.read_text())
        self._words: list[str] = found["words"]
        self._kinds: dict[str, list[str]] = {"short": found["short"], "long": found["long"]}
        self._random = random.Random(seed)
        self._sent = seed * 7919

    def text(self, kind: str) -> tuple[str, str]:
        """Return the kind, short or long (either, where mixed), and a text of it."""
        if kind == "mixed":
            kind = "short" if self._random.random() < 0.5 else "long"
        self._sent += 1
        n = len(self._words)
        first, second = self._words[self._sent % n], self._words[self._sent // n % n]
        return kind, f"{first} {second} {self._random.choice(self._kinds[kind])}"


class Stream:
    """Requests of one sort, and what became of them."""

    def __init__(self, job: dict[str, Any], spec: dict[str, Any], pool: Pool, seed: int) -> None:
        self.spec = spec
        self.texts = Texts(Path(job["texts"]), seed)
        self.random = random.Random(seed)
        self._model = json.dumps(job["model"])
        self._timeout = job["timeout"]
        self._pool = pool
        extra = "".join(f"{name}: {value}\r\n" for name, value in spec.get("headers", {}).items())
        self._head = (
            f"POST {job['path']} HTTP/1.1\r\nhost: {job['host']}:{job['port']}\r\n"
            f"content-type: application/json\r\n{extra}content-length: "
        )
        self.latencies: dict[str, list[float]] = {"short": [], "long": []}
        self.done: list[float] = []  # when texts were answered
        self.batch = int(spec.get("texts", 1))
        self.statuses: Counter[str] = Counter()
        self.promised = 0  # refusals that say when to come back
        self.late: list[float] = []
        self.compute: list[tuple[float, float]] = []  # (latency, the server's computing), seconds
        self.open = 0
        self.start = self.end = 0.0  # of the time that counts

    def request(self) -> tuple[str, bytes]:
        """Return the kind of the next request, and its bytes."""
        made = [self.texts.text(self.spec["mix"]) for _ in range(self.batch)]
        texts = json.dumps(made[0][1] if self.batch == 1 else [text for _, text in made])
        body = f'{{"model":{self._model},"input":{texts},"encoding_format":"base64"}}'.encode()
        return made[0][0], f"{self._head}{len(body)}\r\n\r\n".encode() + body

    def fire(self, due: float) -> None:
        """Send a request that was due at a time."""
        connection = self._pool.idle()
        if connection is None:
            task = asyncio.ensure_future(self._connect_and_send(due))
            _TASKS.add(task)
            task.add_done_callback(_TASKS.discard)
        else:
            self._send(connection, due)

    async def _connect_and_send(self, due: float) -> None:
        connection = await self._pool.take()
        if connection is None:
            self._count("no connection", due)
        else:
            self._send(connection, due)

    def _send(
        self, connection: Connection, due: float, made: tuple[str, bytes] | None = None
    ) -> asyncio.Future[Answer | None]:
        kind, request = made or self.request()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer | None] = loop.create_future()
        self.open += 1

        def expire() -> None:
            connection.close()
            finish(None, "timeout")

        timer = loop.call_later(self._timeout, expire)

        def finish(answer: Answer | None, why: str = "broken") -> None:
            timer.cancel()
            self.open -= 1
            self._pool.give(connection)
            if answer is None:
                self._count(why, due)
            else:
                self._note(kind, answer, due)
            if not answered.done():
                answered.set_result(answer)

        if self._counts(due):
            self.late.append(time.perf_counter() - due)
        connection.send(request, finish)
        return answered

    def _counts(self, moment: float) -> bool:
        return self.start <= moment < self.end

    def _count(self, what: str, due: float) -> None:
        if self._counts(due):
            self.statuses[what] += 1

    def _note(self, kind: str, answer: Answer, due: float) -> None:
        self._count(str(answer.status), due)
        if answer.status == 200:
            self.done.append(answer.seconds)
            if self._counts(due):
                self.latencies[kind].append(answer.seconds - due)
                self._note_timing(answer, answer.seconds - due)
        elif answer.status in (429, 503) and self._counts(due):
            self.promised += answer.header("retry-after") is not None

    def _note_timing(self, answer: Answer, latency: float) -> None:
        timing = answer.header("server-timing") if self.spec.get("timing") else None
        for part in (timing or "").split(","):
            name, _, rest = part.strip().partition(";")
            if name == self.spec.get("timing") and rest.startswith("dur="):
                self.compute.append((latency, float(rest[4:]) / 1000))

    async def run_open(self) -> None:
        """Send at random times, `rate` requests a second on average, until the end."""
        alarm = Alarm()
        due = time.perf_counter()
        while due < self.end:
            due += self.random.expovariate(self.spec["rate"])
            if due > time.perf_counter():
                await alarm.wait_until(due)
            self.fire(due)
        alarm.close()

    async def run_client(self) -> None:
        """Send, wait for the answer, send again, until the end."""
        while time.perf_counter() < self.end:
            connection = await self._pool.take()
            made = self.request()
            now = time.perf_counter()
            answer = await self._send(connection, now, made) if connection else None
            if answer is None or answer.status != 200:
                await asyncio.sleep(_seconds_of(answer))

    def result(self, started: float) -> dict[str, Any]:
        """Return what was seen between the warm-up and the end."""
        seconds = self.end - self.start
        counted = [moment for moment in self.done if self._counts(moment)]
        per_second = Counter(int(moment - started) for moment in self.done)
        refused = self.statuses["429"] + self.statuses["503"]
        return {
            "texts_per_second": self.batch * len(counted) / seconds,
            "requests_per_second": len(counted) / seconds,
            "statuses": dict(self.statuses),
            "refused": refused,
            "refused_with_retry_after": self.promised,
            "latency_ms": {
                **{kind: summary(found) for kind, found in self.latencies.items()},
                "all": summary([*self.latencies["short"], *self.latencies["long"]]),
            },
            "late_ms": summary(self.late),
            "compute": _halves(self.compute),
            "per_second": [per_second[second] for second in range(int(self.end - started) + 1)],
        }


_TASKS: set[asyncio.Future[None]] = set()


def _seconds_of(answer: Answer | None) -> float:
    """Return how long to wait after a refusal, bounded so that a run goes on."""
    said = answer.header("retry-after") if answer else None
    with suppress(ValueError):
        return min(max(float(said or 0.1), 0.05), 2.0)
    return 0.1


def summary(seconds: list[float]) -> dict[str, float]:
    """Return percentiles in milliseconds."""
    if not seconds:
        return {"count": 0}
    ordered = sorted(seconds)
    last = len(ordered) - 1
    points = {f"p{p:g}": 1000 * ordered[round(p / 100 * last)] for p in PERCENTS}
    return {"count": len(ordered), **points, "max": 1000 * ordered[-1]}


def _halves(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the computing time and the rest of it, each by percentiles."""
    return {
        "computing_ms": summary([computing for _, computing in pairs]),
        "rest_ms": summary([latency - computing for latency, computing in pairs]),
    }


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run all streams of a job at once."""
    pools = []
    streams = []
    started = time.perf_counter()
    for place, spec in enumerate(job["streams"]):
        pool = Pool(job["host"], job["port"], spec.get("connections", 1000))
        stream = Stream(job, spec, pool, job["seed"] + place)
        stream.start = started + job["warmup"]
        stream.end = stream.start + job["seconds"]
        pools.append(pool)
        streams.append(stream)
    running = [
        asyncio.ensure_future(coroutine)
        for stream in streams
        for coroutine in (
            [stream.run_open()]
            if "rate" in stream.spec
            else [stream.run_client() for _ in range(stream.spec["clients"])]
        )
    ]
    await asyncio.wait(running)
    for finished in running:
        finished.result()
    last = time.perf_counter() + job.get("drain", job["timeout"])
    while any(stream.open for stream in streams) and time.perf_counter() < last:
        await asyncio.sleep(0.02)
    unanswered = sum(stream.open for stream in streams)
    for pool in pools:
        pool.close()
    return {
        "streams": [stream.result(started) for stream in streams],
        "unanswered": unanswered,
        "cpu_seconds": time.process_time(),
    }


def _be_first() -> None:
    """Run before all others, as if on a machine of its own: waiting is not the server's doing.

    A nice value counts only among the processes of a session where Linux groups those.
    """
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        return
    with suppress(OSError):
        os.nice(-10)


def main() -> None:
    """Run the job on stdin."""
    job = json.load(sys.stdin)
    _be_first()
    gc.disable()
    # uvloop takes less of the processors that are measured
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(job))))


if __name__ == "__main__":
    main()
