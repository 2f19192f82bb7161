"""The load generator of `bench/serve_load.py`, against a server whose behaviour is known."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


class Known:
    """Answers after `delay` seconds; every third request is refused where `refuses`."""

    def __init__(self, delay=0.0, refuses=False, workers=1000, says=b"retry-after: 1\r\n"):
        self.delay, self.refuses, self.says = delay, refuses, says
        self.workers = workers
        self.texts = []

    async def handle(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.texts.append(json.loads(await reader.readexactly(length))["input"])
                if self.refuses and len(self.texts) % 3 == 0:
                    said = b"HTTP/1.1 503 Busy\r\n" + self.says + b"content-length: 2\r\n\r\nno"
                else:
                    async with self.slots:
                        await asyncio.sleep(self.delay)
                    said = (
                        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"
                        b"server-timing: tok;dur=1, compute;dur=4.5, total;dur=6\r\n\r\nok"
                    )
                writer.write(said)
        writer.close()

    @contextlib.contextmanager
    def running(self):
        known, end = threading.Event(), []

        async def serve():
            self.slots = asyncio.Semaphore(self.workers)
            server = await asyncio.start_server(self.handle, "127.0.0.1", 0, backlog=1000)
            self.port = server.sockets[0].getsockname()[1]
            stop = asyncio.Event()
            end.extend([asyncio.get_running_loop(), stop])
            known.set()
            await stop.wait()
            server.close()

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        known.wait(10)
        try:
            yield self
        finally:
            end[0].call_soon_threadsafe(end[1].set)
            thread.join(10)


@pytest.fixture
def load(tmp_path):
    texts = tmp_path / "texts.json"
    texts.write_text(
        json.dumps({"short": ["a query"], "long": ["a long text"], "words": ["one", "two", "six"]})
    )

    def run(server, *streams, seconds=1.0, warmup=0.2):
        job = {
            "host": "127.0.0.1",
            "port": server.port,
            "path": "/v1/embeddings",
            "model": "m",
            "texts": str(texts),
            "streams": streams,
            "warmup": warmup,
            "seconds": seconds,
            "timeout": 5.0,
            "seed": 1,
        }
        done = subprocess.run(
            [sys.executable, "-m", "serve_peers.load"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            cwd=BENCH,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["streams"]

    return run


def test_an_open_stream_keeps_its_rate_and_sees_the_latency(load):
    with Known(delay=0.1).running() as server:
        (found,) = load(server, {"mix": "mixed", "rate": 60})
    assert 42 < found["requests_per_second"] < 78
    assert set(found["statuses"]) == {"200"}
    for kind in ("short", "long"):
        assert 100 <= found["latency_ms"][kind]["p50"] < 300
    count = found["latency_ms"]["all"]["count"]
    assert count == found["statuses"]["200"]


def test_latency_counts_from_when_a_request_was_due(load):
    # one place, 20 ms each: at 100 requests a second half of them must wait ever longer
    with Known(delay=0.02, workers=1).running() as server:
        (found,) = load(server, {"mix": "short", "rate": 100})
    assert found["latency_ms"]["short"]["p50"] > 200
    assert found["texts_per_second"] < 55


def test_closed_clients_and_timing(load):
    with Known(delay=0.005).running() as server:
        (found,) = load(server, {"mix": "short", "clients": 2, "texts": 3, "timing": "compute"})
    assert found["texts_per_second"] == pytest.approx(3 * found["requests_per_second"])
    assert found["compute"]["computing_ms"]["p50"] == 4.5
    rest = found["latency_ms"]["short"]["p50"] - 4.5
    assert found["compute"]["rest_ms"]["p50"] == pytest.approx(rest)


@pytest.mark.parametrize("says", [b"retry-after: 1\r\n", b""])
def test_refusals_and_whether_they_say_when_to_return(load, says):
    with Known(refuses=True, says=says).running() as server:
        (found,) = load(server, {"mix": "mixed", "rate": 100})
    assert found["refused"] == found["statuses"]["503"] > 10
    assert found["refused_with_retry_after"] == (found["refused"] if says else 0)


def test_no_two_texts_are_alike(load):
    with Known().running() as server:
        load(server, {"mix": "short", "clients": 1}, seconds=0.05, warmup=0)
        single = [text for text in server.texts if isinstance(text, str)][:9]
    assert len(single) == len(set(single)) == 9
    assert all(text.endswith(" a query") for text in single)
