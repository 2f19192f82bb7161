"""Run the suite at every instruction set that can be forced, and beside busy processors.

    python runs/isa.py [ARGS for pytest]

The levels that this machine's native engine has are spread over three runs, each with one of the
kernels of OpenBLAS; the last one has two processes beside it that spin. What failed in a run is
run once more, alone, before it counts, as `make test` does. At the end comes a table.
"""

import os
import subprocess
import sys
import time
from typing import NamedTuple

SPIN = "while True: pass"
PYTEST = (sys.executable, "-m", "pytest", "--ignore", "tests/system")
RETRY = ("--last-failed", "--last-failed-no-failures", "none")


class Run(NamedTuple):
    """One run: what it forces, and how many processes spin beside it."""

    environment: dict[str, str]
    spinners: int = 0

    @property
    def name(self) -> str:
        """Return what the table calls the run."""
        forced = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join(forced) or f"default level beside {self.spinners} spinning processes"


def runs(levels: list[str]) -> list[Run]:
    """Return the runs for these levels, the best one first: that one is the default."""
    cores = ("Haswell", "SkylakeX")
    forced = [
        Run({"OPENGTE_ISA": level, "OPENBLAS_CORETYPE": cores[number % 2]})
        for number, level in enumerate(levels[1:])
    ]
    return [*forced, Run({}, spinners=2)]


def execute(run: Run, arguments: list[str]) -> tuple[int, float]:
    """Run the suite; return its exit status and how many seconds it took."""
    start = time.monotonic()
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(run.spinners)]
    command = [*PYTEST, "-n", "2", *arguments]
    environment = os.environ | run.environment
    try:
        status = subprocess.run(command, env=environment).returncode
        if status == 1:
            again = [*PYTEST, *RETRY, *arguments]
            status = subprocess.run(again, env=environment).returncode
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    return status, time.monotonic() - start


def main(arguments: list[str]) -> int:
    """Execute all runs and print the table; return 1 if any failed."""
    from opengte import _native

    done = []
    for run in runs(_native.levels()):
        print(f"\n=== {run.name}", flush=True)
        done.append((run, *execute(run, arguments)))
    print(f"\n{'run':60} {'result':8} {'minutes':>7}")
    for run, status, seconds in done:
        result = "passed" if status == 0 else f"failed {status}"
        print(f"{run.name:60} {result:8} {seconds / 60:7.1f}")
    return int(any(status for _, status, _ in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
