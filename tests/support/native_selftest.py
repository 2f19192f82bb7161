"""Building and running `native/tests/kernels_selftest.cpp`, the kernels' test without Python."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "native"


def need(*programs: str) -> None:
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found")


def build(folder: Path, *options: str) -> Path:
    """Return the program, built in `folder`."""
    _run("cmake", "-S", str(SOURCES), "-B", str(folder), "-DOPENGTE_SELFTEST=ON", *options)
    _run("cmake", "--build", str(folder), "--parallel", "2")
    return folder / "kernels_selftest"


def run(*command: str | Path) -> str:
    """Return what the program printed; fail the test when it found a difference."""
    output = _run(*map(str, command))
    assert output.endswith("all passed\n"), output
    return output


def _run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}"
    return done.stdout
