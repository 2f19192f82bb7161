"""Retrieval quality of a knowledge base: legs, fusions and windows, on judged questions.

    python bench/search_quality.py --data DATA            SciFact and LEMBQMSum of DATA
    python bench/search_quality.py --data DATA --sets SciFact --json results.json

Everything goes through `KnowledgeBase`: documents are indexed into a temporary folder and found by
its own legs. Weights of the fitted fusion are chosen on the train questions and only then applied
to the test questions. nDCG@10, means over questions; a paired randomisation test beside each
comparison.
"""

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from opengte import Encoder
from opengte.search.kb import KnowledgeBase
from opengte.search.retrieval import search
from opengte.search.retrieval.fusion import Fusion, fuse

Judged = Mapping[str, Mapping[str, int]]
WEIGHTS = [round(0.05 * step, 2) for step in range(1, 20)]  # of the dense leg; the other has 1 - w


def rows(path: Path) -> list[dict]:
    """Return the rows of a compressed JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def judgements(path: Path) -> Judged:
    """Return the relevant documents of each question."""
    found: dict[str, dict[str, int]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        next(file)
        for line in file:
            question, document, score = line.rstrip("\n").split("\t")
            if int(score) > 0:
                found.setdefault(question, {})[document] = int(score)
    return found


def ndcg(ranking: Iterable[str], judged: Mapping[str, int], k: int = 10) -> float:
    """Return the nDCG@k of one question."""
    gains = [judged.get(name, 0) for name in list(ranking)[:k]]
    ideal = sorted(judged.values(), reverse=True)[:k]
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    return float(np.dot(gains, discount[: len(gains)]) / np.dot(ideal, discount[: len(ideal)]))


def paired(a: np.ndarray, b: np.ndarray, rounds: int = 10_000) -> float:
    """Return the two-sided p-value of a paired randomisation test."""
    difference = a - b
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(rounds, len(difference)))
    means = np.abs((signs * difference).mean(axis=1))
    return float((1 + (means >= abs(difference.mean()) - 1e-12).sum()) / (rounds + 1))


class Task:
    """Documents, questions and judgements of a data set."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        corpus = rows(folder / "corpus.jsonl.gz")
        self.ids = [row["_id"] for row in corpus]
        self.titles = [row.get("title") or "" for row in corpus]
        self.texts = [row["text"] for row in corpus]
        self.questions = {row["_id"]: row["text"] for row in rows(folder / "queries.jsonl.gz")}
        self.judged = {
            path.name.split(".")[0]: judgements(path)
            for path in (folder / "qrels").glob("*.tsv.gz")
        }


def indexed(task: Task, encoder: Encoder, folder: str, **settings) -> KnowledgeBase:
    """Index the documents of a task."""
    kb = KnowledgeBase.create(folder, encoder, **settings)
    start = time.perf_counter()
    # empty documents have no row; a text without words cannot be found by anything
    report = kb.add(task.texts, task.ids, titles=task.titles)
    print(
        f"  {settings or 'default'}: {report.new} documents, {kb.store.health().windows} windows, "
        f"{time.perf_counter() - start:.0f} s",
        flush=True,
    )
    return kb


def rankings(kb: KnowledgeBase, task: Task, split: str, depth: int) -> dict[str, dict]:
    """Return each question's ranking by each leg."""
    options = search.SearchOptions(depth=depth)
    found = {}
    for name in task.judged[split]:
        asked = kb.current.encode_query(task.questions[name])
        found[name], _ = search.run_legs(kb.store, asked, options, search.StepTimer())
    return found


def scores(task: Task, split: str, rank) -> np.ndarray:
    """Return the nDCG@10 of each question; rank gives a question's documents."""
    return np.array([ndcg(rank(name), judged) for name, judged in task.judged[split].items()])


def fused(legs: Mapping[str, dict], fusion: Fusion):
    """Return a function from a question to its fused documents."""
    depth = search.DEPTH[fusion.method]

    def ranking(name: str) -> list[str]:
        cut = {leg: found[:depth] for leg, found in legs[name].items()}
        return [document for document, _ in fuse(cut, fusion)]

    return ranking


def alone(legs: Mapping[str, dict], leg: str):
    """Return a function from a question to the documents of one leg."""
    return lambda name: [document for document, _ in legs[name][leg]]


def fit(task: Task, legs: Mapping[str, dict]) -> Fusion:
    """Return the weighted fusion that is best on the train questions."""

    def value(weight: float) -> float:
        fusion = Fusion("weighted", {"dense": weight, "lexical": round(1 - weight, 2)})
        return float(scores(task, "train", fused(legs, fusion)).mean())

    best = max(WEIGHTS, key=value)
    return Fusion("weighted", {"dense": best, "lexical": round(1 - best, 2)})


def truncated(task: Task, encoder: Encoder, split: str) -> np.ndarray:
    """Return the scores of the plain way: one vector of the beginning of each document."""
    whole = [f"{title} {text}".strip() for title, text in zip(task.titles, task.texts, strict=True)]
    documents = encoder.embed(whole, role="document", progress=False).dense
    asked = [task.questions[name] for name in task.judged[split]]
    found = encoder.embed(asked, role="query", progress=False).dense @ documents.T
    order = dict(zip(task.judged[split], np.argsort(-found, axis=1)[:, :10], strict=True))
    return scores(task, split, lambda name: [task.ids[i] for i in order[name]])


def measure(task: Task, encoder: Encoder, depth: int) -> list[dict]:
    """Return the rows of the table of one task."""
    print(task.name, flush=True)
    table: list[dict] = []

    def add(name: str, values: np.ndarray, against: np.ndarray | None = None) -> None:
        p = None if against is None else paired(values, against)
        table.append({"set": task.name, "name": name, "ndcg@10": 100 * values.mean(), "p": p})
        print(f"  {name:<44}{100 * values.mean():6.2f}" + (f"  p={p:.4f}" if p else ""), flush=True)

    base = truncated(task, encoder, "test")
    add(f"beginning only ({encoder.card.max_length} tokens), dense", base)
    for passages in ("late", "classic"):
        with tempfile.TemporaryDirectory() as folder:
            kb = indexed(task, encoder, folder + "/kb", passages=passages)
            legs = rankings(kb, task, "test", depth)
            add(f"{passages}: dense", scores(task, "test", alone(legs, "dense")), base)
            if passages == "late":
                add("lexical (BM25)", scores(task, "test", alone(legs, "lexical")), base)
            default = scores(task, "test", fused(legs, Fusion()))
            add(f"{passages}: fused, default (RRF)", default, base)
            even = Fusion("weighted", {"dense": 0.5, "lexical": 0.5})
            add(
                f"{passages}: fused, weighted evenly", scores(task, "test", fused(legs, even)), base
            )
            if "train" in task.judged:
                best = fit(task, rankings(kb, task, "train", depth))
                add(
                    f"{passages}: fused, fitted on train ({best.weights['dense']:.2f} dense)",
                    scores(task, "test", fused(legs, best)),
                    default,
                )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--sets", default="SciFact,LEMBQMSum", help="names, with commas between")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--depth", type=int, default=max(search.DEPTH.values()), help="documents of each leg"
    )
    parser.add_argument("--json", type=Path, help="write the table to a file")
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.model, precision=arguments.precision)
    table = []
    for name in arguments.sets.split(","):
        table += measure(Task(arguments.data / name), encoder, arguments.depth)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
