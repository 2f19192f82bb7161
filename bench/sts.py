"""Semantic similarity on MTEB's own rows: Spearman x 100 of cosine, beside the published figure.

python bench/sts.py --data ../shared/data/mteb --precision fp32
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opengte import Encoder

# all-MiniLM-L6-v2, embeddings-benchmark results, mteb 1.12
PUBLISHED = {"STSBenchmark": 82.03, "STS13": 80.60, "SICK-R": 77.58}


def rows(path: Path) -> list[tuple[str, str, float]]:
    """Return sentence pairs and their gold scores."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [(r["sentence1"], r["sentence2"], float(r["score"])) for r in records]


def spearman(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the rank correlation, ties sharing their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return means


def figure(encoder: Encoder, pairs: list[tuple[str, str, float]]) -> float:
    """Return Spearman x 100 between cosines and gold scores."""
    first = encoder.embed([pair[0] for pair in pairs]).dense
    second = encoder.embed([pair[1] for pair in pairs]).dense
    assert first is not None and second is not None
    cosines = np.einsum("nd,nd->n", first, second, dtype=np.float64)
    return 100 * spearman(cosines, np.array([pair[2] for pair in pairs]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--max-length", type=int, default=256)
    arguments = parser.parse_args()
    encoder = Encoder.load(
        arguments.model,
        engine=arguments.engine,
        precision=arguments.precision,
        max_length=arguments.max_length,
    )
    card = encoder.card
    print(f"{card.name} · {card.engine} {card.precision} · {card.max_length} tokens")
    for task, published in PUBLISHED.items():
        pairs = rows(arguments.data / task / "test.jsonl.gz")
        start = time.perf_counter()
        found = figure(encoder, pairs)
        seconds = time.perf_counter() - start
        print(f"{task:14} {found:6.2f}   published {published:6.2f}   {seconds:5.1f} s")


if __name__ == "__main__":
    main()
