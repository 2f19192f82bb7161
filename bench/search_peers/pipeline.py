"""One pipeline of the peers, in a process of its own.

    python -m search_peers.pipeline lancedb|chroma MODEL_FOLDER THREADS < TEXTS.json

Both are what their own manuals show: a table, or a collection, that embeds what is added to it by
sentence-transformers. The model is loaded and warm before the clock starts. Prints the seconds.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

BATCH = 1000  # texts that are added at once


def lance(model: str, folder: str) -> Callable[[list[str], list[str]], Any]:
    """Return what adds texts to a LanceDB table."""
    import lancedb
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    embedder = get_registry().get("sentence-transformers").create(name=model, device="cpu")
    embedder.compute_source_embeddings(["warm"])

    class Row(LanceModel):
        id: str
        text: str = embedder.SourceField()
        vector: Vector(embedder.ndims()) = embedder.VectorField()  # type: ignore[valid-type]

    table = lancedb.connect(folder).create_table("texts", schema=Row)

    def add(ids: list[str], texts: list[str]) -> None:
        table.add([{"id": one, "text": text} for one, text in zip(ids, texts, strict=True)])

    return add


def chroma(model: str, folder: str) -> Callable[[list[str], list[str]], Any]:
    """Return what adds texts to a Chroma collection."""
    import chromadb
    from chromadb.config import Settings
    from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction

    embedder: Any = SentenceTransformerEmbeddingFunction(
        model_name=model, device="cpu", normalize_embeddings=True
    )
    embedder(["warm"])
    client = chromadb.PersistentClient(folder, settings=Settings(anonymized_telemetry=False))
    collection = client.create_collection("texts", embedding_function=embedder)
    return lambda ids, texts: collection.add(ids=ids, documents=texts)


def main() -> None:
    """Index the texts of standard input."""
    import torch

    name, model, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    texts = json.load(sys.stdin)
    ids = [str(number) for number in range(len(texts))]
    with tempfile.TemporaryDirectory() as folder:
        add = {"lancedb": lance, "chroma": chroma}[name](model, folder)
        start = time.perf_counter()
        for first in range(0, len(texts), BATCH):
            add(ids[first : first + BATCH], texts[first : first + BATCH])
        print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
