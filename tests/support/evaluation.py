"""Stand-ins for the tests of `opengte.evaluate`: an encoder of hashed words, and small data."""

import json
import zlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from opengte.types import Embeddings, ModelCard, Truncated
from tests.support.fake_models import CARD, FakeTokenizer

WIDTH = 64


class HashEncoder:
    """Adds up a pseudo-random vector a word, so that texts that share words are alike.

    noise blurs every vector, for a worse model; only names the words that it attends to; reads
    counts the texts that it was given.
    """

    def __init__(
        self,
        noise: float = 0.0,
        max_length: int = 100_000,
        only: Collection[str] | None = None,
        **card: Any,
    ) -> None:
        self.card: ModelCard = replace(
            CARD, dimension=WIDTH, max_length=max_length, prompts={}, dimensions=(8, 16), **card
        )
        self.tokenizer = FakeTokenizer()
        self.noise, self.only = noise, only
        self.reads = 0
        self.calls: list[dict[str, Any]] = []

    def embed(
        self,
        texts: Sequence[str],
        *,
        role: Any = None,
        instruction: str | None = None,
        outputs: Any = ("dense",),
        dimensions: int | None = None,
        truncation: Any = "right",
        progress: bool | None = None,
    ) -> Embeddings:
        self.reads += len(texts)
        self.calls.append({"role": role, "instruction": instruction, "texts": list(texts)})
        room = self.card.max_length - 2
        words = [[word.strip(".?") for word in text.lower().split()] for text in texts]
        long = [Truncated(i, len(row) + 2, room + 2) for i, row in enumerate(words) if row[room:]]
        words = [row[:room] for row in words]
        dense = np.array([self._vector(row) for row in words], np.float32).reshape(-1, WIDTH)
        dense = dense[:, :dimensions]
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        counts = np.array([len(row) + 2 for row in words], np.int32)
        return Embeddings(dense, None, None, None, counts, tuple(long), ())

    def _vector(self, words: list[str]) -> Any:
        blur = np.random.default_rng(zlib.crc32(" ".join(words).encode("utf-8", "replace")))
        total = self.noise * blur.standard_normal(WIDTH) + 1e-6
        for word in words if self.only is None else filter(self.only.__contains__, words):
            seed = zlib.crc32(word.encode("utf-8", "replace"))
            total = total + np.random.default_rng(seed).standard_normal(WIDTH)
        return total


class OverlapReranker:
    """Scores a document by the words that it shares with the query."""

    def score(self, query: str, documents: Sequence[str], **settings: Any) -> Any:
        asked = set(query.split())
        return np.array([len(asked & set(text.split())) for text in documents], np.float32)


def beir(folder: Path, queries: int = 30, seed: int = 0) -> Path:
    """Write a BEIR folder: every document holds ten words, a query three of one document's."""
    rng = np.random.default_rng(seed)
    words = [[f"w{word}" for word in rng.integers(0, 300, 10)] for _ in range(2 * queries)]
    corpus = [
        {"_id": f"d{i}", "title": row[0], "text": " ".join(row[1:])} for i, row in enumerate(words)
    ]
    asked = [
        {"_id": f"q{i}", "text": " ".join(words[i][2:5]), "kind": ("even", "odd")[i % 2]}
        for i in range(queries)
    ]
    qrels = [f"q{i}\td{i}\t1" for i in range(queries)]
    (folder / "qrels").mkdir(parents=True)
    jsonl(folder / "corpus.jsonl", corpus)
    jsonl(folder / "queries.jsonl", asked)
    header = "query-id\tcorpus-id\tscore"
    (folder / "qrels" / "test.tsv").write_text("\n".join([header, *qrels]) + "\n")
    return folder


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
