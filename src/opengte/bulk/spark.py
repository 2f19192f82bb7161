"""Spark: `frame.mapInArrow(embedder("minilm"), schema)`, in the workers' own processes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from opengte.bulk.arrow import BatchEmbedder
from opengte.bulk.parquet import require_pyarrow


def embedder(model: str = "minilm", **arguments: Any) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Return a function for `mapInArrow` that adds a column of vectors to record batches.

    arguments are those of `BatchEmbedder`. The schema of the result is that of the frame with
    `embedding array<float>`. A worker loads the model once for all its tasks.

    >>> import pyarrow as pa
    >>> batches = embedder("minilm")([pa.record_batch({"text": ["a cat"]})])
    >>> next(batches).schema.names
    ['text', 'embedding']
    """

    def embed(batches: Iterable[Any]) -> Iterator[Any]:
        pa = require_pyarrow("Spark")
        made = BatchEmbedder(model, **arguments)
        for batch in batches:
            *others, vectors = made(batch).columns
            plain = vectors.cast(pa.list_(pa.float32()))  # Spark knows no lists of fixed size
            names = [*batch.schema.names, made.output]
            yield pa.RecordBatch.from_arrays([*others, plain], names)

    return embed
