"""Whole servers: starting, ending, reloading, workers that die, disks that are full."""

import asyncio
import json
import os
import re
import signal
import socket
import threading
import time

import httpx
import pytest

from opengte.errors import InputError
from opengte.serve.auth import usage
from opengte.serve.auth.keys import KeyFile, RateLimits
from opengte.serve.config.settings import ServerSettings
from opengte.serve.runtime.background import background
from opengte.serve.runtime.lifecycle import notify_systemd
from opengte.serve.runtime.listener import open_listeners
from opengte.serve.runtime.process import ServerProcess
from opengte.serve.runtime.shared_state import SharedState
from tests.support.inference import Blocked
from tests.support.serve_process import server
from tests.support.serve_sockets import until

SECRET = "xylophone zebra of Ada Lovelace"

pytestmark = pytest.mark.slow


def test_it_starts_answers_and_ends():
    with server() as one:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", one.url)
        told = one.wait_for("model")
        assert told["model"] == "minilm"
        assert {"engine", "precision", "batch_tokens", "queue_tokens"} <= told.keys()
        answer = one.embed(["hello", "world"])
        assert answer.status_code == 200
        assert len(answer.json()["data"]) == 2
        assert answer.headers["x-request-id"]
        with one.client() as client:
            assert client.get("/ready").status_code == 200
            assert client.get("/health").status_code == 200
            assert "te_request_count" in client.get("/metrics").text
            assert client.get("/").status_code == 200
            assert client.post("/admin/reload").status_code == 403
        assert one.stop() == 0
    assert one.other == []
    assert [line["level"] for line in one.log if line["level"] not in ("info",)] == []


def test_sigterm_lets_the_running_requests_finish():
    texts = [f"text {i} " * 60 for i in range(150)]
    with server("--cache-memory", "0", "--drain-timeout", "100") as one:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(one.embed(texts)))
        asking.start()
        until(lambda: one.page_state()["models"][0]["queued_tokens"])
        assert one.stop(seconds=100) == 0
        asking.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["data"]) == 150
    assert one.other == []


def test_a_second_signal_ends_it_at_once():
    with server("--drain-delay", "30") as one:
        one.send(signal.SIGTERM)
        with one.client() as client:
            until(lambda: client.get("/ready").status_code == 503)
            assert one.process.poll() is None
            answer = client.post("/v1/embeddings", json={"input": "still"})
            assert answer.status_code == 200
            assert answer.headers["connection"] == "close"
        assert one.stop(signal.SIGINT, seconds=20) == 128 + signal.SIGINT


def test_a_model_that_does_not_exist_is_a_failed_start(tmp_path):
    with server("--model", tmp_path / "nothing", wait=False) as one:
        line = one.wait_for("model not loaded")
        assert "nothing" in line["error"]
        assert one.process.wait(30) == 1


def test_one_model_that_fails_leaves_the_other(tmp_path):
    with server("--model", "minilm", "--model", f"bad={tmp_path / 'nothing'}") as one:
        assert one.embed("a", model="minilm").status_code == 200
        assert one.embed("a", model="bad").status_code == 503


def test_sighup_reloads_without_losing_a_request():
    with server("--cache-memory", "0") as one:
        stop = threading.Event()
        statuses = []

        def ask():
            with one.client() as client:
                while not stop.is_set():
                    answer = client.post("/v1/embeddings", json={"input": f"t {time.time()}"})
                    statuses.append(answer.status_code)

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            one.send(signal.SIGHUP)
            assert one.wait_for("model reloaded")["model"] == "minilm"
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert len(statuses) > 5


def test_no_text_reaches_the_log(tmp_path):
    with server("--log-level", "debug") as one:
        bodies = [
            {"input": SECRET},
            {"input": [SECRET, ""]},
            {"input": SECRET, "dimensions": SECRET},
            {"input": SECRET, "model": SECRET},
            {"input": SECRET, "instruction": SECRET, "input_type": SECRET},
            {"input": [SECRET, 3, None]},
            {"input": SECRET * 3000, "truncate": False},
            {"input": "\udc80" + SECRET},
        ]
        with one.client() as client:
            for route in ("/v1/embeddings", "/embed", "/v1/rerank", "/api/embed", "/v2/embed"):
                for body in bodies:
                    content = json.dumps(body)
                    client.post(route, content=content, headers={"x-priority": "bulk"})
                client.post(route, content=f'{{"input": "{SECRET}')
                client.post(f"{route}?q={SECRET}", json={"inputs": SECRET, "query": SECRET})
            client.post("/v1/embeddings", json={"input": "a"}, headers={"x-request-id": SECRET})
            client.post("/v1/embeddings", json={"input": "a"}, headers={"authorization": SECRET})
        assert one.stop() == 0
    text = json.dumps(one.log) + "".join(one.other)
    for word in SECRET.split():
        assert word not in text or len(word) < 4
    assert sum(line["event"] == "request" for line in one.log) > 40


def test_usage_survives_kill_9_of_the_server(tmp_path):
    KeyFile(tmp_path).create("team")
    _, secret = KeyFile(tmp_path).create("other")
    headers = {"authorization": f"Bearer {secret}"}
    with server(env={"OPENGTE_STATE_DIR": str(tmp_path)}) as one:
        with one.client(headers=headers) as client:
            for i in range(50):
                assert client.post("/v1/embeddings", json={"input": f"t{i}"}).status_code == 200
        os.kill(one.pid, signal.SIGKILL)
        one.process.wait()
    assert sum(used.requests for used in usage.read_usage(tmp_path)) == 50


def test_a_rate_limit_says_when_to_return(tmp_path):
    limits = RateLimits(requests_per_minute=3)
    _, secret = KeyFile(tmp_path).create("team", limits=limits)
    with background(ServerSettings(port=0, state_dir=str(tmp_path))) as running:
        headers = {"authorization": f"Bearer {secret}"}
        with httpx.Client(base_url=running.url, headers=headers, timeout=30) as client:
            answers = [client.post("/v1/embeddings", json={"input": "a"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[3].headers["retry-after"]) <= 20


@pytest.mark.parametrize("broken", ["folder", "journal"])
def test_a_broken_disk_stops_no_request(tmp_path, monkeypatch, broken):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    state = "/proc/nothing-can-be-made-here" if broken == "folder" else tmp_path
    with background(ServerSettings(port=0, state_dir=str(state))) as running:
        if broken == "journal":
            monkeypatch.setattr(usage, "open_usage_database", full)
            monkeypatch.setattr(running.components.authorizer.usage, "_append", lambda line: None)
        with httpx.Client(base_url=running.url, timeout=30) as client:
            for _ in range(3):
                assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
            until(lambda: 'opengte_storage_ok{store="usage"} 0.0' in client.get("/metrics").text)
            page = client.get("/metrics").text
        failures = re.search(r'storage_failures_total\{store="usage"\} (\S+)', page)
        assert failures and float(failures[1]) > 0
        monkeypatch.undo()


def test_cors_is_off_unless_asked_for(tmp_path):
    origin = {"origin": "https://a.example", "access-control-request-method": "POST"}
    for allowed in ((), ("https://a.example",)):
        wanted = ServerSettings(port=0, state_dir=str(tmp_path), cors_origin=allowed)
        with background(wanted) as running:
            answer = httpx.options(f"{running.url}/v1/embeddings", headers=origin)
            told = answer.headers.get("access-control-allow-origin")
            assert told == (allowed[0] if allowed else None)
            headers = {"origin": "https://b.example"}
            answer = httpx.get(f"{running.url}/v1/models", headers=headers)
            assert "access-control-allow-origin" not in answer.headers


def test_a_whole_server_over_tls(tmp_path):
    import ssl

    import trustme

    authority, context = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(context)
    pem = tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    with server("--tls-cert", pem, client={"verify": context}) as one:
        assert one.url.startswith("https://127.0.0.1:")
        assert one.embed("a").status_code == 200
        one.send(signal.SIGHUP)
        one.wait_for("model reloaded")
        assert one.embed("b").status_code == 200
        assert one.stop() == 0


def test_a_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)  # left over from a server that was killed
    left.close()
    with background(ServerSettings(uds=path, state_dir=str(tmp_path))) as running:
        assert running.url == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=30) as client:
            answer = client.post("http://x/v1/embeddings", json={"input": "a"})
            assert answer.status_code == 200
        with (
            pytest.raises(InputError, match="cannot listen on"),
            background(ServerSettings(uds=path, state_dir=str(tmp_path))),
        ):
            pass


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with server("--port", port, wait=False) as one:
            assert one.process.wait(30) == 1
            one.stop()
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in "".join(one.other)


def test_systemd_is_told(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        with server(env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as one:
            assert systemd.recv(100) == b"READY=1"
            one.send(signal.SIGHUP)
            assert systemd.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert systemd.recv(100) == b"READY=1"
            assert one.stop() == 0
            assert systemd.recv(100) == b"STOPPING=1"
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody-listens")
    notify_systemd("READY=1")


def test_traces_of_a_whole_server(tmp_path, monkeypatch):
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from opengte.serve.observability import tracing

    exporter = InMemorySpanExporter()
    real = tracing.open_tracer
    monkeypatch.setattr(tracing, "open_tracer", lambda settings: real(settings, [exporter]))
    trace = "0af7651916cd43dd8448eb211c80319c"
    with background(ServerSettings(port=0, state_dir=str(tmp_path))) as running:
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        httpx.post(f"{running.url}/v1/embeddings", json={"input": SECRET}, headers=headers)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert f"{spans['embeddings minilm'].context.trace_id:032x}" == trace
    assert spans["embeddings minilm"].attributes["gen_ai.usage.input_tokens"] > 2
    assert spans["POST /v1/embeddings"].attributes["http.route"] == "/v1/embeddings"
    assert SECRET not in str([span.to_json() for span in spans.values()])


def test_a_process_that_is_held_accepts_when_told_or_when_its_models_are_ready(tmp_path):
    load, known, here = Blocked(), threading.Event(), []
    wanted = ServerSettings(port=0, state_dir=str(tmp_path))
    sockets, url = open_listeners(wanted)

    async def serve():
        process = ServerProcess(wanted, SharedState.create(1), load)
        process.pause(True)
        here.append((process, asyncio.get_running_loop()))
        known.set()
        return await process.serve(sockets, lambda components: None)

    def answers(path):
        try:
            return httpx.get(url + path, timeout=0.5).status_code
        except httpx.TimeoutException:
            return None

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    known.wait(20)
    process, loop = here[0]
    assert answers("/healthz") is None
    loop.call_soon_threadsafe(process.pause, False)
    assert answers("/healthz") == 200
    assert answers("/ready") == 503
    loop.call_soon_threadsafe(process.pause, True)
    assert answers("/healthz") is None
    load.go.set()
    assert httpx.get(f"{url}/ready", timeout=20).status_code == 200
    loop.call_soon_threadsafe(process.pause, True)  # it was on its way when the models were ready
    assert answers("/ready") == 200
    loop.call_soon_threadsafe(process.stop)
    thread.join(20)
