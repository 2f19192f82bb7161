"""A disk that is full under the cache and the usage records: no request fails, and it is told."""

import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.serve_process import server

pytestmark = pytest.mark.slow

SIZE = 2 * 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError:
        pytest.skip("no `mount` here")
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(b"x"):
            pass
    return ballast


def stores(one) -> dict[str, float]:
    with one.client() as client:
        page = client.get("/metrics").text
    found = re.findall(r'opengte_storage_ok\{store="(\w+)"\} (\S+)', page)
    return {name: float(value) for name, value in found}


def tokens_written(folder: Path) -> int:
    command = "from opengte.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "usage", "--by", "model", "--csv", "--state-dir", folder],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    place = lines[0].split(",").index("texts")
    return sum(int(line.split(",")[place]) for line in lines[1:])


def test_a_full_disk_under_everything(small_disk):
    state = small_disk / "state"
    state.mkdir()
    flags = ("--cache-file", str(small_disk / "cache.sqlite"), "--cache-memory", "65536")
    with server("--model", "minilm", *flags, env={"OPENGTE_STATE_DIR": str(state)}) as one:
        assert one.embed([f"before {i}" for i in range(50)]).status_code == 200
        ballast = fill(small_disk)
        first = {}
        for i in range(40):  # more than the memory's cache holds
            texts = [f"text {i} {j}" for j in range(20)]
            answer = one.embed(texts)
            assert answer.status_code == 200, answer.text
            first[i] = answer.json()["data"]
        for i in (0, 39):  # cached or not, the vectors are the same
            again = one.embed([f"text {i} {j}" for j in range(20)])
            assert again.json()["data"] == first[i]
        deadline = time.monotonic() + 15
        while 0.0 not in stores(one).values() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert 0.0 in stores(one).values()
        ballast.unlink()
        deadline = time.monotonic() + 30
        while 0.0 in stores(one).values() and time.monotonic() < deadline:
            assert one.embed([f"after {time.monotonic()}"]).status_code == 200
            time.sleep(0.3)
        assert 0.0 not in stores(one).values()
        assert one.embed(["the last"]).status_code == 200
        assert one.stop() == 0
        assert one.other == []  # warnings in the log, no tracebacks
    # what was answered while the disk was full is written down once there is room again
    assert tokens_written(state) >= 50 + 42 * 20


def test_a_disk_that_is_full_from_the_start(small_disk):
    state = small_disk / "state"
    state.mkdir()
    fill(small_disk)
    flags = ("--cache-file", str(small_disk / "cache.sqlite"))
    with server("--model", "minilm", *flags, env={"OPENGTE_STATE_DIR": str(state)}) as one:
        for _ in range(3):
            assert one.embed(["a text"]).status_code == 200
        assert one.stop() == 0
