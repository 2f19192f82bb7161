"""A worker process, told what to do through its stdin as a supervisor does."""

import os
import subprocess
import sys

import httpx
import pytest

from opengte.serve.config.settings import ServerSettings
from opengte.serve.runtime.lifecycle import WORKER_MODULE
from opengte.serve.runtime.listener import open_listeners
from opengte.serve.runtime.shared_state import SharedState
from opengte.serve.runtime.worker_protocol import LineReader, WorkerConfig

pytestmark = pytest.mark.slow


def test_a_worker_that_starts_late_takes_each_line_for_itself(tmp_path):
    settings = ServerSettings(port=0, state_dir=str(tmp_path))
    (listener,), url = open_listeners(settings)
    shared = SharedState.create(1)
    read, write = os.pipe()
    inherited = (listener.fileno(), *shared.descriptors(), write)
    worker = subprocess.Popen(
        [sys.executable, "-m", WORKER_MODULE],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=inherited,
    )
    try:
        os.close(write)
        config = WorkerConfig(settings, 0, (listener.fileno(),), shared.descriptors(), write, True)
        worker.stdin.write(config.to_line() + b"accept\npause\naccept\n")
        worker.stdin.flush()
        assert httpx.get(f"{url}/healthz", timeout=100).status_code == 200
        worker.stdin.close()  # the supervisor is gone
        assert worker.wait(60) == 0
        lines = LineReader(read).read()
        assert lines[0] == b"beat null"
    finally:
        worker.kill()
        worker.wait()
        worker.stderr.close()
        listener.close()
        os.close(read)
        shared.close()
