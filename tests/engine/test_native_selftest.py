"""The kernels at every level of this machine, under address and undefined-behaviour sanitizers."""

import os
from pathlib import Path

import pytest

from tests.support.native_selftest import build, need, run

pytestmark = pytest.mark.slow


def test_kernels_under_sanitizers(tmp_path: Path) -> None:
    need("cmake", os.environ.get("CXX", "c++").split()[0])
    program = build(tmp_path, "-DOPENGTE_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo")
    for seed in ("1", "2"):
        output = run(program, "--require", "portable", "--rounds", "10", "--seed", seed)
        assert "portable product int8, exact" in output
