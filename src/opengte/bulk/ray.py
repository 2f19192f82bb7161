"""Ray Data: `dataset.map_batches(Embedder, concurrency=4)`."""

from typing import Any

from opengte.bulk.arrow import BatchEmbedder
from opengte.bulk.parquet import require_pyarrow


class Embedder(BatchEmbedder):
    """A class for `Dataset.map_batches` that adds a column of vectors, on CPUs or GPUs.

    Arguments are those of `BatchEmbedder`, given by `fn_constructor_kwargs`. Batches are tables of
    Arrow (`batch_format="pyarrow"`), data frames of pandas, or dictionaries of NumPy arrays.

    >>> Embedder("minilm")({"text": np.array(["a cat", "a dog"])})["embedding"].shape
    (2, 384)
    """

    def __call__(self, batch: Any) -> Any:
        """Return a batch with its vectors."""
        pa = require_pyarrow("embedding batches")
        if isinstance(batch, pa.Table):
            return super().__call__(batch)
        texts = pa.table({self._text: pa.array(list(batch[self._text]), pa.string())})
        vectors = super().__call__(texts)[self.output]
        if not isinstance(batch, dict):
            return batch.assign(**{self.output: vectors.to_pylist()})
        import numpy as np

        return {**batch, self.output: np.array(vectors.to_pylist(), np.float32)}
