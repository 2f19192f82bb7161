"""What the CPU engine's kernels reach: products at their peak, then a whole model, on one machine.

    python bench/cpu_kernels.py [--threads N] [--rounds N] [--isa LEVEL ...]

Prints, per instruction-set level and precision, operations a second of the product on one thread,
tokens a second of a MiniLM-shaped network (6 layers of 384, 12 heads, inner width 1536, random
weights) on texts of mixed lengths, the share of the product's peak that this is, and the latency of
a query of 10 tokens. Figures are the best of the rounds: what a busy machine disturbs least.
"""

import argparse
import importlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from opengte.arch.plan import Attention, Embedding, FeedForward, Layer, Norm, Plan
from opengte.engine import native, native_extension
from opengte.types import Output, PackedBatch
from opengte.weights import WeightChunk

_native: Any = importlib.import_module("opengte._native")

DENSE: frozenset[Output] = frozenset({"dense"})
WIDTH, INNER, HEADS, LAYERS, VOCABULARY = 384, 1536, 12, 6, 30522


def minilm() -> Plan:
    """Return the plan of all-MiniLM-L6-v2."""
    norm = Norm("layer", 1e-12, bias=True)
    attention = Attention(
        heads=HEADS,
        kv_heads=HEADS,
        head_dim=WIDTH // HEADS,
        qkv_bias=True,
        out_bias=True,
        causal=False,
        rope=None,
        window=None,
        qk_norm=None,
        logn=None,
    )
    ffn = FeedForward(INNER, False, "gelu", up_bias=True, down_bias=True)
    return Plan(
        architecture="bert",
        embedding=Embedding(VOCABULARY, WIDTH, 512, 0, 2, norm),
        layers=(Layer(True, norm, attention, norm, ffn),) * LAYERS,
        final_norm=None,
        max_positions=512,
        pooling="mean",
    )


def weights(plan: Plan) -> Iterator[WeightChunk]:
    """Yield random weights that keep states near unit size."""
    generator = np.random.default_rng(0)
    for name, slot in plan.slots().items():
        x = generator.standard_normal(slot.shape, dtype=np.float32)
        if len(slot.shape) == 2 and not name.startswith("embedding"):
            x /= np.float32(slot.shape[1] ** 0.5)
        elif name.endswith("norm.weight"):
            x = np.ones(slot.shape, dtype=np.float32)
        yield WeightChunk(name, 0, x, "F32")


def lengths(count: int) -> npt.NDArray[np.int64]:
    """Half one-line summaries, half passages of up to 512 tokens; about 111 tokens on average."""
    generator = np.random.default_rng(1)
    short = generator.integers(8, 40, count // 2)
    long = np.clip(generator.lognormal(5.0, 0.7, count - count // 2), 30, 512).astype(np.int64)
    return np.sort(np.concatenate([short, long]))[::-1]


def packed(counts: npt.NDArray[np.int64]) -> PackedBatch:
    """Return random sequences of the given lengths."""
    cu_seqlens = np.cumsum([0, *counts], dtype=np.int32)
    ids = np.random.default_rng(2).integers(0, VOCABULARY, int(cu_seqlens[-1]), dtype=np.int32)
    zeros = np.zeros(len(counts), dtype=np.int32)
    return PackedBatch(ids, cu_seqlens, np.zeros_like(ids), zeros)


def operations(counts: npt.NDArray[np.int64]) -> float:
    """Multiplications and additions of a pass, attention included."""
    products = 2.0 * LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) * counts.sum()
    attention = 4.0 * LAYERS * WIDTH * (counts.astype(np.float64) ** 2).sum()
    return float(products + attention)


def best(engine: native.NativeEngine, batch: PackedBatch, rounds: int) -> float:
    """Return the seconds of the fastest run."""
    engine.run(batch, DENSE)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        engine.run(batch, DENSE)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=native.available_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--isa", nargs="*", default=native_extension.isa_levels())
    options = parser.parse_args()
    plan, counts = minilm(), lengths(options.texts)
    batch, query = packed(counts), packed(np.array([10]))
    print(
        f"{options.threads} threads; {len(counts)} texts, {counts.mean():.0f} tokens on average, "
        f"{operations(counts) / counts.sum() / 1e6:.1f} MOP a token"
    )
    print("level     precision  product, GOP/s a thread  tokens/s  share of peak  query, ms")
    for isa in options.isa:
        for precision in native.PRECISIONS:
            shapes = ((96, 1152, WIDTH), (96, WIDTH, INNER))
            rates = [_native.probe.rate(isa, precision, *shape, 5) / 1e9 for shape in shapes]
            engine = native.build_native_engine(
                plan, weights(plan), precision=precision, threads=options.threads, isa=isa
            )
            took = best(engine, batch, options.rounds)
            share = operations(counts) / took / 1e9 / options.threads / max(rates)
            latency = best(engine, query, 40 * options.rounds)
            print(
                f"{isa:9} {precision:10} {rates[0]:8.0f} {rates[1]:8.0f}       "
                f"{counts.sum() / took:9.0f}  {share:13.0%}  {latency * 1e3:9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
