"""Several workers: shared port and counters, replacement, reloading and ending."""

import os
import re
import signal
import threading
import time

import httpx
import pytest

from opengte.serve.auth import usage
from opengte.serve.auth.keys import KeyFile, RateLimits
from tests.support.serve_process import server
from tests.support.serve_sockets import until

pytestmark = pytest.mark.slow


def test_two_workers_share_the_port_and_the_counters():
    with server("--workers", "2", "--threads", "1") as one:
        assert len(one.children()) == 2
        for i in range(40):
            assert one.embed(f"text {i}").status_code == 200
        with one.client() as client:

            def read_metrics():
                return client.get("/metrics", headers={"connection": "close"}).text

            # the first worker answers while the second one still loads
            until(lambda: 'opengte_model_ready{model="minilm"} 2.0' in read_metrics(), 60)
            pages = [read_metrics() for _ in "123"]
        for page in pages:
            counted = re.search(
                r'opengte_requests_total\{code="200",route="/v1/embeddings"\} (\S+)', page
            )
            assert counted and float(counted[1]) == 40
            assert 'opengte_model_ready{model="minilm"} 2.0' in page
        assert one.stop() == 0
    assert one.other == []


def test_a_worker_that_is_killed_is_replaced_while_the_other_answers():
    with server("--workers", "2", "--threads", "1") as one:
        before = one.children()
        stop = threading.Event()
        outcomes = []

        def ask():
            while not stop.is_set():
                try:
                    outcomes.append(one.embed(f"text {time.time()}").status_code)
                except httpx.HTTPError as error:
                    outcomes.append(type(error).__name__)

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(outcomes) > 10)
        os.kill(before[0], signal.SIGKILL)
        assert one.wait_for("worker ended")["status"] == -signal.SIGKILL
        started = re.compile(r'opengte_worker_starts_total\{worker="[01]"\} 2\.0')
        with one.client(headers={"connection": "close"}) as client:
            until(lambda: started.search(client.get("/metrics").text), 60)
        so_far = len(outcomes)
        until(lambda: len(outcomes) > so_far + 50)
        stop.set()
        for thread in threads:
            thread.join()
        after = one.children()
        assert len(after) == 2
        assert before[1] in after
        assert before[0] not in after
        assert 503 not in outcomes  # the new one takes nothing before its model is ready
        lost = [outcome for outcome in outcomes if outcome != 200]
        assert len(lost) <= 3, outcomes  # no more than were in the worker that died
        assert outcomes.count(200) > 10
        assert one.stop() == 0


def test_when_no_worker_is_ready_those_that_load_answer_the_probes():
    with server("--workers", "2", "--threads", "1") as one:
        for worker in one.children():
            os.kill(worker, signal.SIGKILL)
        one.wait_for("worker ended")
        one.wait_for("worker ended")
        with one.client() as client:
            assert client.get("/healthz").status_code == 200
        until(lambda: one.embed("a").status_code != 503, 60)
        assert one.embed("a").status_code == 200
        assert one.stop() == 0


def test_workers_reload_one_after_the_other(tmp_path):
    _, secret = KeyFile(tmp_path).create("admin", admin=True)
    with server("--workers", "2", env={"OPENGTE_STATE_DIR": str(tmp_path)}) as one:
        headers = {"authorization": f"Bearer {secret}"}
        with one.client(headers=headers) as client:
            answer = client.post("/admin/reload")
            assert answer.json() == {"models": {"minilm": "asked"}}
            one.wait_for("model reloaded")
            one.wait_for("model reloaded")
        one.send(signal.SIGHUP)
        one.wait_for("model reloaded")
        one.wait_for("model reloaded")
        assert one.stop() == 0


def test_workers_end_with_a_supervisor_that_is_killed():
    with server("--workers", "2", "--threads", "1") as one:
        workers = one.children()
        os.kill(one.pid, signal.SIGKILL)
        one.process.wait()
        until(lambda: not any(map(is_alive, workers)))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_without_a_model_are_a_failed_start(tmp_path):
    with server("--workers", "2", "--model", tmp_path / "nothing", wait=False) as one:
        one.wait_for("model not loaded")
        assert one.process.wait(30) == 1


def test_workers_that_are_asked_to_end_twice_end_at_once():
    with server("--workers", "2", "--threads", "1", "--drain-delay", "30") as one:
        one.send(signal.SIGINT)
        with one.client() as client:
            until(lambda: client.get("/ready").status_code == 503)
        assert one.process.poll() is None
        assert one.stop(seconds=20) == 128 + signal.SIGTERM


def test_limits_hold_over_workers(tmp_path):
    _, secret = KeyFile(tmp_path).create("team", limits=RateLimits(requests_per_minute=10))
    with server(
        "--workers", "2", "--threads", "1", env={"OPENGTE_STATE_DIR": str(tmp_path)}
    ) as one:
        headers = {"authorization": f"Bearer {secret}", "connection": "close"}
        with one.client(headers=headers) as client:
            start = time.monotonic()
            answers = [client.post("/v1/embeddings", json={"input": "a"}) for _ in range(16)]
            back = (time.monotonic() - start) / 6  # requests that come back meanwhile
        statuses = [answer.status_code for answer in answers]
        assert 10 <= statuses.count(200) <= 11 + back
        assert one.stop() == 0
    assert sum(used.requests for used in usage.read_usage(tmp_path)) == statuses.count(200)
