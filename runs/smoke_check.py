"""Does each stage better the one before? `python runs/smoke_check.py FOLDER` fails where not."""

import json
import sys
from pathlib import Path

import numpy as np

from opengte import Encoder

# stage, and the stage whose measure on the same data it must better; None: its own before training
STAGES = (
    ("mlm", None),
    ("contrastive", None),
    ("finetuned", "contrastive"),
    ("long", None),
    ("instructed", None),
    ("reranker", None),
    ("distilled", None),
)


def results(folder: Path, stage: str) -> dict:
    """Return what a stage measured."""
    return json.loads((folder / stage / "result.json").read_text(encoding="utf-8"))


def ndcg(model: Path, dev: Path) -> float:
    """Return nDCG@10 where each query has one document."""
    rows = [json.loads(line) for line in dev.read_text(encoding="utf-8").splitlines()]
    encoder = Encoder.load(model)
    queries = encoder.encode_query([row["query"] for row in rows])
    documents = encoder.encode_document([row["positive"] for row in rows])
    scores = queries @ documents.T
    ranks = (scores > scores.diagonal()[:, None]).sum(axis=1)
    return float(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean())


def line(stage: str, metric: str, was: float, after: float) -> bool:
    """Print a stage's line, and return whether it got worse."""
    worse = after <= was
    told = "  WORSE" if worse else ""
    sys.stdout.write(f"{stage:12} {metric:18} {was:.4f} -> {after:.4f}{told}\n")
    return worse


def main(folder: Path) -> int:
    """Print a line for each stage, and return whether any got worse."""
    failed = 0
    for stage, before in STAGES:
        found = results(folder, stage)
        metric, after = next(iter(found["after"].items()))
        was = found["before"][metric]
        if before is not None:
            was = max(was, results(folder, before)["after"][metric])
        failed += line(stage, metric, was, after)
    dev = folder / "data/dev.jsonl"
    was, after = (ndcg(folder / name, dev) for name in ("contrastive/model", "merged"))
    failed += line("merged", "nDCG@10", was, after)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
