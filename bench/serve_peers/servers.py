"""Starting, watching and ending one server at a time."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from serve_peers import environment
from serve_peers.catalog import MODEL, Server
from serve_peers.environment import PeerError

BENCH = Path(__file__).resolve().parent.parent
READY_SECONDS = 120.0
GRACE = 20.0  # seconds that a server gets to end by itself
POLL = 0.005


@dataclass(frozen=True)
class Place:
    """Where things are: the model, the peers' environments, what was prepared, the logs."""

    model: Path
    environments: Path
    cache: Path
    threads: int
    options: tuple[str, ...] = ()  # further ones of `gte serve`


@dataclass
class Running:
    """A server that answers."""

    server: Server
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    ready_seconds: float
    path: str = "/v1/embeddings"
    peak_rss: int = field(default=0)

    def alive(self) -> bool:
        """Return whether its first process still runs."""
        return self.process.poll() is None

    def pids(self) -> frozenset[int]:
        """Return its processes: those of its session."""
        found = set()
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                with suppress(OSError):
                    if os.getsid(int(entry)) == self.process.pid:
                        found.add(int(entry))
        return frozenset(found)

    def rss(self) -> int:
        """Return the bytes that its processes have resident; shared pages count in each."""
        total = 0
        page = os.sysconf("SC_PAGE_SIZE")
        for pid in self.pids():
            with suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
        return total

    def post(self, texts: list[str], **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send one request and return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = json.dumps({"model": MODEL, "input": texts, "encoding_format": "float"})
        connection.request("POST", self.path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found


@contextmanager
def running(server: Server, place: Place) -> Iterator[Running]:
    """Start a server, wait until it is ready, and end it with all its processes."""
    port = _free_port()
    log = place.cache / "logs" / f"{server.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command, probe = _command(server, place, port)
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(place, server),
            cwd=BENCH,
            start_new_session=True,  # so that its processes can be told from others
        )
    try:
        seconds = _wait(process, port, probe, start, log)
        yield Running(server, process, port, log, seconds)
    finally:
        _end(process)


def _command(server: Server, place: Place, port: int) -> tuple[list[str], str]:
    """Return how to start a server, and the path that answers 200 when it is ready."""
    folder = place.cache / server.artifact if server.artifact else place.model
    if server.ours:
        gte = Path(sys.executable).parent / "gte"
        # the cache would answer what it has seen; every text here is a new one all the same
        options = ["--port", str(port), "--model", f"{MODEL}={folder}", "--cache-memory", "0"]
        return [str(gte), "serve", *options, *place.options], "/ready"
    python = environment.python(place.environments, server.environment)
    if server.environment == "plain":
        return [str(python), "-m", "serve_peers.fastapi_server", str(folder), str(port)], "/ready"
    engine = ["optimum", "--pooling-method", "mean"] if server.artifact else ["torch"]
    command = [str(python.parent / "infinity_emb"), "v2", "--model-id", str(folder)]
    command += ["--served-model-name", MODEL, "--device", "cpu", "--engine", *engine]
    command += ["--url-prefix", "/v1", "--no-trust-remote-code", "--host", "127.0.0.1"]
    return [*command, "--port", str(port), "--log-level", "warning"], "/v1/models"


def _environment(place: Place, server: Server) -> dict[str, str]:
    threads = str(place.threads)
    names = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "PYTHONWARNINGS": "ignore",
    }
    if not server.ours:
        names["PYTHONPATH"] = str(BENCH)
    return names


def prepare(server: Server, place: Place) -> None:
    """Make what a server loads, where it is missing."""
    if not server.environment:
        return
    python = environment.python(place.environments, server.environment)
    out = place.cache / server.artifact
    if not server.artifact or out.is_dir():
        return
    print(f"Preparing the model for {server.label} ...", file=sys.stderr)
    command = [str(python), "-m", "serve_peers.prepare", str(place.model), str(out)]
    command += ["int8"] if server.artifact.endswith("int8") else []
    done = subprocess.run(
        command, cwd=BENCH, env=_environment(place, server), capture_output=True, text=True
    )
    if done.returncode:
        raise PeerError((done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300])


def _wait(
    process: subprocess.Popen[bytes], port: int, probe: str, start: float, log: Path
) -> float:
    """Return the seconds until the probe answered 200; raise PeerError when it does not."""
    while time.perf_counter() < start + READY_SECONDS:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise PeerError(f"ended with status {process.returncode}: {lines[-1][:300]}")
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", probe)
            status = connection.getresponse().status
            connection.close()
            if status == 200:
                return time.perf_counter() - start
        time.sleep(POLL)
    raise PeerError(f"was not ready within {READY_SECONDS:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
