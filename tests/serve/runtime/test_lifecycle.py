"""Starts of a server on a busy machine; `OPENGTE_TEST_STARTS=50` makes that many."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.serve_process import server

pytestmark = pytest.mark.slow

STARTS = int(os.environ.get("OPENGTE_TEST_STARTS", "1"))


@pytest.fixture
def spinning():
    """Keep two processors busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def embed(url):
    return httpx.post(f"{url}/v1/embeddings", json={"input": "a"}, timeout=100).status_code


def once_it_listens(url, seconds=100):
    """Ask for vectors as soon as the socket takes connections."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.ConnectError):
            return embed(url)
        time.sleep(0.002)
    raise AssertionError("the server never listened")


def once_it_is_healthy(url, seconds=100):
    """Ask for vectors right after the first 200 of /health."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=seconds).status_code == 200:
                return embed(url)
        time.sleep(0.002)
    raise AssertionError("the server was never healthy")


def ask_at_every_start(ask, workers):
    """Return how often each status came of STARTS starts; ask(url) is called as they begin."""
    statuses = Counter()
    for _ in range(STARTS):
        port = free_port()
        with ThreadPoolExecutor() as asking:
            answer = asking.submit(ask, f"http://127.0.0.1:{port}")
            with server("--port", port, "--workers", workers, wait=False) as one:
                statuses[answer.result()] += 1
                assert one.stop() == 0
    return statuses


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("ask", [once_it_listens, once_it_is_healthy])
def test_the_first_request_is_answered_at_every_start(spinning, ask, workers):
    assert ask_at_every_start(ask, workers) == {200: STARTS}
