"""MaxSim: what the bytes and the operations allow, what the kernel reaches, and NumPy beside it.

    python bench/maxsim.py [--passages 1000] [--tokens 180] [--query 32] [--width 128]

The prediction is the sum of two times, both measured here on one core: reading the vectors from
memory once, and the products at the rate of the engine's own product kernel on operands that stay
in the cache. All are medians of processor time of rounds in turn, so that other load counts for
little. NumPy runs on one thread: set OMP_NUM_THREADS=1 (the program starts itself again with it).
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from opengte.engine.maxsim import Stored, TokenVectors, maxsim
from opengte.engine.native_extension import isa_levels, load_extension
from opengte.types import Floats

ROUNDS = 21


def seconds(run: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def medians(**runs: Callable[[], object]) -> dict[str, float]:
    """Return the median processor time of each, measured in turn."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    return {name: statistics.median(each) for name, each in taken.items()}


def numpy_maxsim(query: Floats, rows: Floats, starts: np.ndarray) -> Floats:
    """Compute MaxSim in float32: one product, then the highest of each document."""
    return np.maximum.reduceat(rows @ query.T, starts[:-1], axis=0).sum(axis=1)


def measure(isa: str, query: Floats, documents: list[Floats], rows: Floats) -> None:
    """Print the table of one instruction set."""
    rate = load_extension().probe.rate
    width = query.shape[1]
    work = 2.0 * len(query) * len(rows) * width
    print(f"\n{isa}\n| stored | MB | read ms | products ms | predicted ms | measured ms | share |")
    print("|---|---|---|---|---|---|---|")
    precisions: tuple[Stored, ...] = ("fp32", "bf16", "int8")
    for stored in precisions:
        kept = TokenVectors.of(documents, stored)
        words = kept.values.reshape(-1).view(np.uint64)
        products = work / rate(isa, stored, 240, len(query), width, 40)
        found = medians(
            read=lambda words=words: words.max(),
            kernel=lambda kept=kept: maxsim(query, kept, isa=isa),
        )
        predicted = found["read"] + products
        print(
            f"| {stored} | {kept.values.nbytes / 1e6:.1f} | {1e3 * found['read']:.2f} "
            f"| {1e3 * products:.2f} | {1e3 * predicted:.2f} | {1e3 * found['kernel']:.2f} "
            f"| {predicted / found['kernel']:.0%} |"
        )
        beside = medians(
            kernel=lambda kept=kept: maxsim(query, kept, isa=isa),
            numpy=lambda kept=kept: numpy_maxsim(query, rows, kept.starts),
        )
        print(f"  NumPy float32 takes {beside['numpy'] / beside['kernel']:.1f} times as long")


def main() -> None:
    """Measure every instruction set of this processor."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("passages", 1000), ("tokens", 180), ("query", 32), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--isa", action="append", help="[default: all of this processor]")
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    query = rng.standard_normal((args.query, args.width)).astype(np.float32)
    rows = rng.standard_normal((args.passages * args.tokens, args.width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    documents = np.split(rows, args.passages)
    for isa in args.isa or isa_levels():
        measure(isa, query, documents, rows)


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":
        one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **one})
    main()
