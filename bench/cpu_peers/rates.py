"""Measure what matrix products reach on this machine, in operations a second on all threads.

    python -m cpu_peers.rates native|torch THREADS

Prints {"int8": ..., "bf16": ..., "fp32": ...}; a precision that cannot be measured is left out.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# rows of a micro-batch, outputs, inputs: products of MiniLM's and of a base model's layers
SHAPES = ((96, 1152, 384), (96, 384, 1536), (96, 2304, 768), (96, 3072, 768), (96, 768, 3072))
ROUNDS = 5
SECONDS = 0.5  # of repeating one product in PyTorch
SIDE = 1024  # of PyTorch's square matrices


def native(threads: int) -> dict[str, float]:
    """Return the best rates of OpenGTE's own product, on every thread at once."""
    from opengte.engine.native import PRECISIONS
    from opengte.engine.native_extension import choose_isa

    compiled: Any = importlib.import_module("opengte._native")
    level = choose_isa()
    with ThreadPoolExecutor(threads) as pool:

        def together(precision: str, shape: tuple[int, int, int]) -> float:
            def one(_: int) -> float:
                return float(compiled.probe.rate(level, precision, *shape, ROUNDS))

            return sum(pool.map(one, range(threads)))

        return {p: max(together(p, shape) for shape in SHAPES) for p in PRECISIONS}


def torch(threads: int) -> dict[str, float]:
    """Return the rates of the products that PyTorch's libraries have."""
    import torch

    torch.set_num_threads(threads)
    x: Any = torch.randn(SIDE, SIDE)
    narrow, small = x.to(torch.bfloat16), (x * 30).to(torch.int8)
    products: dict[str, Callable[[], Any]] = {
        "fp32": lambda: x @ x,
        "bf16": lambda: narrow @ narrow,
        "int8": lambda: torch._int_mm(small, small),
    }
    found = {}
    for precision, product in products.items():
        try:
            found[precision] = 2 * SIDE**3 / _seconds(product)
        except RuntimeError:
            continue  # this build has no such product
    return found


def _seconds(product: Callable[[], Any]) -> float:
    product()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    print(json.dumps({"native": native, "torch": torch}[sys.argv[1]](int(sys.argv[2]))))
