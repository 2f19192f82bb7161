"""A model under gunicorn, loaded before the workers are forked, or by each of them."""

import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from opengte import Encoder
from tests.parity.families import FAMILIES
from tests.support.serve_sockets import until

TEXTS = [f"the cat sat on the mat {'and the dog ' * n}" for n in range(12)]

APPLICATION = """
import threading
from opengte import Encoder
encoder = Encoder.load({folder!r}, engine="native", precision="fp32", threads=2)
texts = {texts!r}

def warm():
    for _ in range(2000):
        encoder.encode(texts)

threading.Thread(target=warm, daemon=True).start()  # workers are forked meanwhile

def app(environ, start_response):
    vector = encoder.encode(texts)[0]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [",".join(map(str, vector.tolist())).encode()]
"""


@pytest.mark.parametrize("preload", [["--preload"], []], ids=["preloaded", "by each worker"])
def test_a_model_under_gunicorn(tmp_path, preload):
    folder = tmp_path / "tiny-bert"
    folder.mkdir()
    FAMILIES["bert"](folder)
    (tmp_path / "application.py").write_text(APPLICATION.format(folder=str(folder), texts=TEXTS))
    options = "--workers 3 --bind 127.0.0.1:0 --timeout 60".split()
    log = tmp_path / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *preload, *options, "application:app"],
            cwd=tmp_path, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        url = address(log, server)
        expected = Encoder.load(folder, engine="native", precision="fp32").encode(TEXTS)[0]
        for _ in range(30):
            with urllib.request.urlopen(url, timeout=60) as answer:
                found = np.array(answer.read().decode().split(","), np.float32)
            np.testing.assert_allclose(found, expected, atol=1e-5)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert "Traceback" not in log.read_text() and "TIMEOUT" not in log.read_text()


def address(log, server):
    """Return the address that gunicorn writes to its log."""
    found = []

    def listening():
        assert server.poll() is None, log.read_text()
        lines = log.read_text().splitlines()
        found.extend(line for line in lines if "Listening at: " in line)
        return bool(found)

    until(listening, seconds=120)
    return found[0].split("Listening at: ")[1].split(" ")[0]
