"""Score one precision on MTEB's own data: three similarity tasks and one retrieval task.

    python -m cpu_peers.quality DATA ENGINE PRECISION THREADS PAIRS DOCUMENTS

PAIRS and DOCUMENTS limit the rows, 0: all; with fewer documents, the judged ones stay.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sts import PUBLISHED, figure, rows

from opengte import Encoder

MAX_LENGTH = 256  # as the model was published and its figures were made
CUT = 10


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a compressed file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def judgements(path: Path) -> dict[str, dict[str, int]]:
    """Return query -> document -> relevance."""
    found: dict[str, dict[str, int]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        next(lines)  # the names of the columns
        for line in lines:
            query, document, score = line.split("\t")
            found.setdefault(query, {})[document] = int(score)
    return found


def ndcg(ranked: list[str], relevant: dict[str, int]) -> float:
    """Return nDCG at 10 of one query's documents, best first."""
    discounts = 1 / np.log2(np.arange(2, CUT + 2))
    gains = np.array([relevant.get(document, 0) for document in ranked[:CUT]], dtype=float)
    ideal = np.array(sorted(relevant.values(), reverse=True)[:CUT], dtype=float)
    best = float(ideal @ discounts[: len(ideal)])
    return float(gains @ discounts[: len(gains)]) / best if best else 0.0


def retrieval(encoder: Encoder, folder: Path, limit: int) -> float:
    """Return the mean nDCG@10 x 100 of exact search in a BEIR folder."""
    relevant = judgements(folder / "qrels" / "test.tsv.gz")
    judged = {document for row in relevant.values() for document in row}
    corpus = read_lines(folder / "corpus.jsonl.gz")
    if limit:
        corpus = [d for i, d in enumerate(corpus) if i < limit or d["_id"] in judged]
    queries = [q for q in read_lines(folder / "queries.jsonl.gz") if q["_id"] in relevant]
    texts = [f"{d['title']} {d['text']}".strip() for d in corpus]
    documents = encoder.embed(texts, role="document", progress=False).dense
    asked = encoder.embed([q["text"] for q in queries], role="query", progress=False).dense
    assert documents is not None and asked is not None
    order = np.argsort(-(asked @ documents.T), axis=1, kind="stable")[:, :CUT]
    names = [d["_id"] for d in corpus]
    scores = [
        ndcg([names[i] for i in row], relevant[query["_id"]])
        for query, row in zip(queries, order, strict=True)
    ]
    return 100 * float(np.mean(scores))


def main() -> None:
    """Print {task: score}."""
    data, engine, precision = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    threads, pairs, documents = map(int, sys.argv[4:])
    encoder = Encoder.load(
        "minilm", engine=engine, precision=precision, threads=threads, max_length=MAX_LENGTH
    )
    scores = {}
    for task in PUBLISHED:
        path = data / task / "test.jsonl.gz"
        if path.is_file():
            scores[task] = figure(encoder, rows(path)[: pairs or None])
    if (data / "SciFact").is_dir():
        scores["SciFact"] = retrieval(encoder, data / "SciFact", documents)
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
