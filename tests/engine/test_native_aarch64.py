"""The kernels' AArch64 levels, cross-built and run under an emulator."""

import subprocess
from pathlib import Path

import pytest

from tests.support.native_selftest import build, need, run

pytestmark = pytest.mark.slow

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("cmake", COMPILER, EMULATOR)
    return build(
        tmp_path_factory.mktemp("aarch64"),
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",  # so that the emulator needs no libraries
    )


@pytest.mark.parametrize(
    ("processor", "levels"),
    [
        ("cortex-a72", {"portable"}),  # ARMv8.0
        ("neoverse-n1", {"portable", "neon"}),  # with dot products
        ("max", {"portable", "neon", "neon_i8mm"}),
    ],
)
def test_kernels(program: Path, processor: str, levels: set[str]) -> None:
    known = subprocess.run([EMULATOR, "-cpu", "help"], capture_output=True, text=True).stdout
    if processor not in known.split():
        pytest.skip(f"{EMULATOR} does not know {processor}")
    required = [word for level in sorted(levels) for word in ("--require", level)]
    output = run(EMULATOR, "-cpu", processor, program, "--rounds", "10", *required)
    for level in ("portable", "neon", "neon_i8mm"):
        assert (f"{level} product int8, exact" in output) == (level in levels)
