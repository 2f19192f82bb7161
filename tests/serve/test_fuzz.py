"""Requests made at random from the OpenAPI document; `bench/serve_fuzz.py` does it for longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_nothing_that_the_document_suggests_makes_the_server_fail(tmp_path):
    pytest.importorskip("schemathesis")
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "serve_fuzz.py", "--seconds", "20"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
