"""What this machine is, and what its product kernels reach: the ceiling of an engine."""

import os
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from opengte.arch.plan import Plan
from opengte.engine import native_extension

ROWS = 96  # of a micro-batch
ROUNDS = 5


def processor() -> str:
    """Return the name of the processor, as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> float | None:
    """Return how many processes ran or waited in the last minute, None where nobody counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def level() -> str:
    """Return the instruction set of the compiled engine, `none` without it."""
    return native_extension.choose_isa() if native_extension.available() else "none"


def product_rate(plan: Plan, precision: str, threads: int) -> float | None:
    """Return operations a second of the engine's matrix product on all threads at once.

    Of the shapes that the plan's layers multiply, the best; None without the compiled engine.
    """
    if not native_extension.available():
        return None
    probe: Any = native_extension.load_extension().probe
    level = native_extension.choose_isa()
    first = {
        slot.shape
        for name, slot in plan.slots().items()
        if name.startswith("layers.0.") and name.endswith(".weight") and len(slot.shape) == 2
    }
    with ThreadPoolExecutor(threads) as pool:

        def together(shape: tuple[int, ...]) -> float:
            ready = threading.Barrier(threads)

            def one(_: int) -> float:
                ready.wait()
                return float(probe.rate(level, precision, ROWS, *shape, ROUNDS))

            return sum(pool.map(one, range(threads)))

        return max(map(together, first), default=None)
