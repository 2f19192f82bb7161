"""What the engine does with the same texts and no server: a process of its own.

python -m serve_peers.offline FOLDER TEXTS COUNT THREADS
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from opengte import Encoder
from serve_peers.load import Texts

ROUNDS = 3
SINGLES = 300
MANY = 256


class Timed:
    """An engine that adds up the seconds of its forward passes."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        """Pass on everything else."""
        return getattr(self._engine, name)

    def run(self, *arguments: Any) -> Any:
        """Compute a batch."""
        start = time.perf_counter()
        try:
            return self._engine.run(*arguments)
        finally:
            self.seconds += time.perf_counter() - start


def main() -> None:
    """Print the figures as JSON."""
    folder, file, count, threads = sys.argv[1:]
    encoder = Encoder.load(folder, threads=int(threads))
    encoder._engine = timed = Timed(encoder._engine)
    source = Texts(Path(file), seed=1)
    texts = [source.text("mixed")[1] for _ in range(int(count))]
    encoder.embed(texts[:MANY])
    rates = [len(texts) / _seconds(encoder, texts) for _ in range(ROUNDS)]
    many = [_both(encoder, timed, texts[i * MANY :][:MANY]) for i in range(len(texts) // MANY)]
    one = [_both(encoder, timed, [source.text("short")[1]]) for _ in range(SINGLES)]
    samples = [source.text(kind)[1] for kind in ("short", "long")]
    dense = encoder.embed(samples).dense
    assert dense is not None
    figures = {
        "texts_per_second": max(rates),
        "one": _medians(one),
        "many": _medians(many),
        "precision": encoder.card.precision,
        "engine": encoder.card.engine,
        "samples": samples,
        "vectors": dense.tolist(),
    }
    print(json.dumps(figures))


def _both(encoder: Encoder, timed: Timed, texts: list[str]) -> tuple[float, float]:
    """Return the seconds of everything, and of the forward passes."""
    timed.seconds = 0.0
    return _seconds(encoder, texts), timed.seconds


def _medians(pairs: list[tuple[float, float]]) -> dict[str, float]:
    return {
        "all_ms": 1000 * statistics.median(everything for everything, _ in pairs),
        "forward_ms": 1000 * statistics.median(forward for _, forward in pairs),
    }


def _seconds(encoder: Encoder, texts: list[str]) -> float:
    start = time.perf_counter()
    encoder.embed(texts)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
