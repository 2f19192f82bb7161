"""What is done to a server: one function a part, each returning its figures."""

import json
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_peers.catalog import MODEL
from serve_peers.environment import PeerError
from serve_peers.servers import BENCH, Running

Figures = dict[str, Any]
STEP = 1.2  # from one rate of the ramp to the next
STEPS = 14
KEPT_UP = 0.93  # of the offered load, below which a server has fallen behind
BEHIND = 2  # steps in a row after which the ramp ends
CLIENTS = 16
ALIKE = 0.97  # cosine of vectors of one model at several precisions
BULK = {"mix": "long", "texts": 64, "clients": 2, "headers": {"X-Priority": "bulk"}}


@dataclass(frozen=True)
class Load:
    """How load is made: which texts, and how long each part takes (pace 1 is a full run)."""

    texts: Path
    pace: float = 1.0

    def put(
        self, server: Running, *streams: Figures, seconds: float, warmup: float, drain: float = 30
    ) -> list[Figures]:
        """Run a job of the generator in its own process; return the figures of each stream."""
        job = {
            "host": "127.0.0.1",
            "port": server.port,
            "path": server.path,
            "model": MODEL,
            "texts": str(self.texts),
            "streams": streams,
            "warmup": warmup * self.pace,
            "seconds": seconds * self.pace,
            "timeout": 60.0,
            "drain": drain,
            "seed": 20,
        }
        done = subprocess.run(
            [sys.executable, "-m", "serve_peers.load"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            cwd=BENCH,
        )
        if done.returncode:
            raise PeerError(f"the load generator failed: {done.stderr[-500:]}")
        result: Figures = json.loads(done.stdout)
        if not server.alive():
            raise PeerError(f"{server.server.label} ended under load; see {server.log}")
        return list(result["streams"])


def saturation(server: Running, load: Load) -> Figures:
    """Find the highest rate of answers, one text a request, by raising the offered rate."""
    (base,) = load.put(server, {"mix": "mixed", "clients": CLIENTS}, seconds=8, warmup=3)
    steps: list[Figures] = []
    rate = base["texts_per_second"]
    behind = 0
    while behind < BEHIND and len(steps) < STEPS:
        (step,) = load.put(
            server, {"mix": "mixed", "rate": rate, "connections": 6000}, seconds=6, warmup=2
        )
        steps.append({"offered": rate, "answered": step["texts_per_second"]})
        behind = behind + 1 if step["texts_per_second"] < KEPT_UP * rate else 0
        rate *= STEP
    best = max(base["texts_per_second"], *(step["answered"] for step in steps))
    (many,) = load.put(server, {"mix": "mixed", "texts": 32, "clients": 2}, seconds=10, warmup=3)
    return {
        "texts_per_second": best,
        "clients_16": base["texts_per_second"],
        "steps": steps,
        "requests_of_32": many["texts_per_second"],
    }


def idle(server: Running, load: Load) -> Figures:
    """Send one short query after the other."""
    stream = {"mix": "short", "clients": 1, "timing": "compute"}
    (alone,) = load.put(server, stream, seconds=6, warmup=2)
    return {**alone["latency_ms"]["short"], "compute": alone["compute"]}


def half(server: Running, load: Load, full: float) -> Figures:
    """Offer half of what it can do."""
    (stream,) = load.put(server, _half(full), seconds=_seconds(full), warmup=4)
    return stream


def bulk(server: Running, load: Load, full: float) -> Figures:
    """Offer the same beside a client that indexes: requests of 64 long texts, two at a time."""
    queries, indexing = load.put(server, _half(full), BULK, seconds=_seconds(full), warmup=4)
    return {**queries, "bulk_texts_per_second": indexing["texts_per_second"]}


def _half(full: float) -> Figures:
    return {"mix": "mixed", "rate": full / 2, "connections": 2000}


def _seconds(full: float) -> float:
    """Return how long to measure: longer where there are few requests a second."""
    return min(max(2000 / full, 20.0), 36.0)


def overhead(server: Running, load: Load) -> Figures:
    """Return what a client sees: of one text beside the forward pass as Server-Timing tells it.

    The parts of 256 texts are computed side by side: the offline forward pass is what to compare.
    """
    one = {"mix": "short", "clients": 1, "timing": "compute"}
    many = {"mix": "mixed", "texts": 256, "clients": 1}
    (first,) = load.put(server, one, seconds=6, warmup=2)
    (second,) = load.put(server, many, seconds=20, warmup=1)
    return {"one": first["compute"], "many": second["latency_ms"]["all"]}


def soak(server: Running, load: Load, full: float, seconds: float) -> Figures:
    """Offer twice what it can do, for long, and watch its memory."""
    watch = Watch(server)
    warmup = min(30.0, seconds / 6)
    before = server.pids()
    with watch:
        (stream,) = Load(load.texts).put(
            server,
            {"mix": "mixed", "rate": 2 * full, "connections": 12000},
            seconds=seconds - warmup,
            warmup=warmup,
            drain=60,
        )
    lost = len(before - server.pids())
    return {**stream, "seconds": seconds, "lost_processes": lost, "memory": watch.growth()}


class Watch:
    """Samples of a server's resident memory while something else goes on."""

    def __init__(self, server: Running, every: float = 2.0) -> None:
        self._server = server
        self._every = every
        self._samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._samples.append(self._server.rss())

    def growth(self) -> Figures:
        """Return MB at the start (after a tenth), at the end, at most, and the growth between."""
        kept = [sample / 2**20 for sample in self._samples[len(self._samples) // 10 :]]
        if len(kept) < 4:
            return {}
        tenth = max(1, len(kept) // 10)
        start, end = statistics.median(kept[:tenth]), statistics.median(kept[-tenth:])
        return {"start": start, "end": end, "most": max(kept), "growth": end / start - 1}


def agreement(server: Running, offline: Figures) -> float:
    """Return the lowest cosine of a server's vectors to the library's; PeerError if far off."""
    status, _, body = server.post(offline["samples"])
    if status != 200:
        raise PeerError(f"answered with status {status}: {body[:200]!r}")
    found = [item["embedding"] for item in json.loads(body)["data"]]
    cosine = min(
        sum(x * y for x, y in zip(a, b, strict=True))
        / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
        for a, b in zip(found, offline["vectors"], strict=True)
    )
    if cosine < ALIKE:
        raise PeerError(f"computes something else: cosine {cosine:.3f} to the library's vectors")
    return cosine


def offline(model: Path, texts: Path, count: int, threads: int) -> Figures:
    """Measure the engine without a server."""
    command = [sys.executable, "-m", "serve_peers.offline", str(model), str(texts)]
    done = subprocess.run(
        [*command, str(count), str(threads)], capture_output=True, text=True, cwd=BENCH
    )
    if done.returncode:
        raise PeerError(f"the engine failed: {done.stderr[-500:]}")
    result: Figures = json.loads(done.stdout)
    return result


def quiet(server: Running, seconds: float = 60.0) -> None:
    """Wait until what an overload left behind is computed: a request takes no time again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        start = time.monotonic()
        server.post(["a short query"])
        if time.monotonic() - start < 0.5:
            return
