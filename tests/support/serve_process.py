"""`gte serve` as a process of its own, on a free port."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
CODE = "from opengte.cli import main; main()"


class Server:
    """A running server: `url`, `pid`, and the lines of its log."""

    def __init__(self, process, client_options):
        self.process = process
        self.pid = process.pid
        self.url = ""
        self.state = Path()  # its state folder
        self.log: list[dict] = []
        self.other: list[str] = []  # lines that are no JSON
        self._lines: queue.Queue[dict] = queue.Queue()
        self._options = client_options
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                self.other.append(line)
                continue
            self.log.append(event)
            self._lines.put(event)

    def wait_for(self, event, seconds=60):
        """Return the next log line of this event."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None and self._lines.empty():
                raise AssertionError(f"the server ended: {self.log} {self.other}")
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=0.1)
                if line["event"] == event:
                    return line
        raise AssertionError(f"no `{event}` in {self.log} {self.other}")

    def client(self, **options):
        """Return an HTTP client of the server."""
        return httpx.Client(base_url=self.url, timeout=100, **(self._options | options))

    def embed(self, texts, **options):
        """Ask for vectors; return the response."""
        with self.client() as client:
            return client.post("/v1/embeddings", json={"input": texts, **options})

    def page_state(self):
        """Return what the status page shows."""
        with self.client() as client:
            return client.get("/page/state").json()

    def children(self):
        """Return the ids of the worker processes."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(child) for child in listed.split()]

    def send(self, number):
        self.process.send_signal(number)

    def stop(self, number=signal.SIGTERM, seconds=40):
        """End the server; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status


@contextlib.contextmanager
def server(*flags, env=None, wait=True, client=None, **variables):
    """Run `gte serve` with these flags until the block ends; ready when it begins."""
    with tempfile.TemporaryDirectory() as state:
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("OPENGTE_PORT")},
            "PYTHONPATH": paths,
            "OPENGTE_STATE_DIR": state,
            **(env or {}),
        }
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, "serve", "--port", "0", *map(str, flags)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        running = Server(process, client or {})
        running.state = Path(environment["OPENGTE_STATE_DIR"])
        try:
            if wait:
                running.url = running.wait_for("serving")["address"]
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            process.stderr.close()
