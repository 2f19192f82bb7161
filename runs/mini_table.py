"""The table of runs/mini.sh: `python runs/mini_table.py MTEB DOMAINS BEFORE AFTER...` prints it.

Each model beside the first: retrieval by the mean nDCG@10 of its queries, STSBenchmark by
Spearman's correlation, Banking77 by mteb's protocol (ten classifiers on eight texts of each label).
p is two-sided, from a test that swaps the two models query by query, pair by pair, text by text.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from opengte import Encoder
from opengte.evaluate import compare, dataset, systems
from opengte.evaluate.significance import paired_test

SEED, EXPERIMENTS, EXAMPLES, SWAPS = 42, 10, 8, 999


class Row(NamedTuple):
    """One figure before and after, in points."""

    name: str
    before: float
    after: float
    p: float

    def __str__(self) -> str:
        """Return a row of the Markdown table."""
        change = self.after - self.before
        p = f"{self.p:.3f}" if self.p >= 0.001 else "< 0.001"
        return f"| {self.name} | {self.before:.2f} | {self.after:.2f} | {change:+.2f} | {p} |"


def lines(path: Path) -> list[dict]:
    """Return the rows of a packed JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def load(model: str) -> Encoder:
    """Load a model; bf16 takes half the time of fp32, and moves these figures by hundredths."""
    return Encoder.load(model, precision="bf16")


def retrieval(folder: Path, models: list[str]) -> list[Row]:
    """Return nDCG@10 of a BEIR folder's queries."""
    data = dataset.load_dataset(folder)
    loaders = systems.ModelLoaders(encoder=lambda system: load(system.model), reranker=load)
    first, *others = systems.evaluate_systems(
        [systems.parse_system(model) for model in models], data, loaders
    )
    results = [compare.compare_systems(first, other, data).main for other in others]
    return [Row(f"{folder.name} nDCG@10", r.mean_a, r.mean_b, r.p) for r in results]


def similarity(path: Path, models: list[str]) -> list[Row]:
    """Return Spearman's correlation of sentence pairs."""
    pairs = lines(path)
    gold = rankdata([float(row["score"]) for row in pairs])
    ranks = []
    for model in models:
        encoder = load(model)
        a, b = (encoder.encode([r[name] for r in pairs]) for name in ("sentence1", "sentence2"))
        ranks.append(rankdata(np.einsum("nd,nd->n", a, b)))
    rows, generator = [], np.random.default_rng(SEED)
    for other in ranks[1:]:
        before, after = (100 * np.corrcoef(gold, x)[0, 1] for x in (ranks[0], other))
        swapped = []
        for _ in range(SWAPS):
            swap = generator.random(len(gold)) < 0.5
            one, two = np.where(swap, other, ranks[0]), np.where(swap, ranks[0], other)
            swapped.append(100 * (np.corrcoef(gold, two) - np.corrcoef(gold, one))[0, 1])
        as_far = int((np.abs(swapped) >= abs(after - before)).sum())
        rows.append(Row("STSBenchmark Spearman", before, after, (as_far + 1) / (SWAPS + 1)))
    return rows


def classification(folder: Path, models: list[str]) -> list[Row]:
    """Return the accuracy of classifiers on vectors: for each test text, how many are right."""
    train, test = (lines(folder / f"{name}.jsonl.gz") for name in ("train", "test"))
    labels, wanted = (np.array([row["label"] for row in rows]) for rows in (train, test))
    right = []
    for model in models:
        encoder = load(model)
        known, asked = (encoder.encode([row["text"] for row in rows]) for rows in (train, test))
        generator = np.random.default_rng(SEED)
        total = np.zeros(len(test))
        for _ in range(EXPERIMENTS):
            chosen = [
                generator.choice(np.flatnonzero(labels == label), EXAMPLES, replace=False)
                for label in np.unique(labels)
            ]
            rows = np.concatenate(chosen)
            classifier = LogisticRegression(max_iter=100).fit(known[rows], labels[rows])
            total += classifier.predict(asked) == wanted
        right.append(100 * total / EXPERIMENTS)
    results = [paired_test(right[0], other) for other in right[1:]]
    return [Row("Banking77 accuracy", r.mean_a, r.mean_b, r.p) for r in results]


def main(mteb: Path, domains: Path, models: list[str]) -> None:
    """Print a table for each model after the first."""
    tables: list[list[Row]] = [[] for _ in models[1:]]
    figures = [
        *(retrieval(folder, models) for folder in sorted(domains.iterdir())),
        retrieval(mteb / "SciFact", models),
        similarity(mteb / "STSBenchmark" / "test.jsonl.gz", models),
        classification(mteb / "Banking77", models),
    ]
    for rows in figures:
        for table, row in zip(tables, rows, strict=True):
            table.append(row)
    for model, table in zip(models[1:], tables, strict=True):
        print(f"\n{models[0]} and {model}\n\n| | before | after | change | p |")
        print("|---|---|---|---|---|", *table, sep="\n")
        gained = [row.after - row.before for row in table[:-3]]
        print(f"| mean of the {len(gained)} domains | | | {np.mean(gained):+.2f} | |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
