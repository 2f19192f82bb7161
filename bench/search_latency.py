"""How long a question takes, and what an index costs: latency, recall, memory and disk by size.

    python bench/search_latency.py --documents 10000,100000

Documents are generated: words by Zipf's law, vectors around centres as embeddings lie. Vectors and
texts go into the default store as `gte index` puts them there; questions go through the whole
search, embedding included, on as many threads as the machine has.
"""

import argparse
import json
import resource
import tempfile
import time

import numpy as np

from opengte import Encoder
from opengte.search import query
from opengte.search.stores.base import Spans, StoredDocument, StoredWindow
from opengte.search.stores.lance import LanceStore

CENTRES = 1000
WORDS = 20_000
LENGTH = 60  # words of a document
BATCH = 5000


class Made:
    """Documents and questions, the same ones each time."""

    def __init__(self, width: int) -> None:
        self.random = np.random.default_rng(0)
        self.width = width
        self.centres = self.random.standard_normal((CENTRES, width), dtype=np.float32)
        shares = 1.0 / np.arange(1, WORDS + 1)
        self.shares = shares / shares.sum()

    def vectors(self, count: int) -> np.ndarray:
        """Return unit vectors around the centres."""
        noise = self.random.standard_normal((count, self.width), dtype=np.float32)
        found = self.centres[self.random.integers(CENTRES, size=count)] + 0.7 * noise
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def texts(self, count: int, words: int) -> list[str]:
        """Return texts of words by Zipf's law."""
        numbers = self.random.choice(WORDS, (count, words), p=self.shares)
        return [" ".join(f"w{n}" for n in row) for row in numbers.tolist()]

    def documents(self, first: int, count: int) -> list[StoredDocument]:
        """Return documents with one window and one span each."""
        pairs = zip(self.vectors(count), self.texts(count, LENGTH), strict=True)
        return [_document(first + n, vector, text) for n, (vector, text) in enumerate(pairs)]


def _document(number: int, vector: np.ndarray, text: str) -> StoredDocument:
    scale = float(np.abs(vector).max()) / 127
    spans = Spans(
        np.array([[0, len(text)]], np.int32),
        np.rint(vector[None] / scale).astype(np.int8),
        np.array([scale], np.float32),
    )
    return StoredDocument(
        id=f"/d/{number}",
        source=f"/d/{number}",
        title=f"Document {number}",
        text=text,
        content=str(number),
        row="",
        signature=b"",
        windows=(StoredWindow(0, len(text), vector, spans, LENGTH),),
        metadata={"number": number, "group": number % 10},
    )


def measure(made: Made, encoder: Encoder, documents: int, questions: int) -> dict:
    """Return the figures of one size."""
    with tempfile.TemporaryDirectory() as folder:
        store = LanceStore(folder + "/kb")
        store.save_settings({"dimension": made.width, "first_pass": None, "language": "English"})
        start = time.perf_counter()
        for first in range(0, documents, BATCH):
            store.put(made.documents(first, min(BATCH, documents - first)))
        written = time.perf_counter()
        failed = store.optimize()
        indexed = time.perf_counter()
        vectors, texts = made.vectors(questions), made.texts(questions, 6)
        times, recall = [], []
        for number, (vector, text) in enumerate(zip(vectors, texts, strict=True)):
            begin = time.perf_counter()
            encoder.embed([text], role="query", progress=False)
            query.search(store, query.Asked(text, vector), query.Options(k=10))
            times.append(1000 * (time.perf_counter() - begin))
            if number < 50:
                true = {name for name, _ in store.dense(vector, 10, None, exact=True)}
                found = {name for name, _ in store.dense(vector, 10, None)}
                recall.append(len(true & found) / 10)
        return {
            "documents": documents,
            "p50_ms": round(float(np.percentile(times[5:], 50)), 1),
            "p99_ms": round(float(np.percentile(times[5:], 99)), 1),
            "recall@10": round(float(np.mean(recall)), 4),
            "write_s": round(written - start, 1),
            "index_s": round(indexed - written, 1),
            "disk_mib": round((store.health().bytes or 0) / 2**20),
            "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "not_tidied": failed,
        }


def main() -> None:
    """Measure and print, a line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--documents", default="10000,100000", help="sizes, with commas between")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--model", default="minilm")
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.model)
    for size in map(int, arguments.documents.split(",")):
        made = Made(encoder.card.dimension)
        print(json.dumps(measure(made, encoder, size, arguments.questions)), flush=True)


if __name__ == "__main__":
    main()
