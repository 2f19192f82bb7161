"""Batches of Arrow with a column of vectors: what Ray, Daft and Spark call for each batch."""

from functools import cache
from typing import TYPE_CHECKING, Any

from opengte.bulk.parquet import require_pyarrow

if TYPE_CHECKING:
    from opengte.encoder import Encoder


@cache
def shared_encoder(model: str, **settings: Any) -> "Encoder":
    """Load a model once for all batches of a process; settings are those of `Encoder.load`."""
    from opengte.encoder import Encoder

    return Encoder.load(model, **settings)


class BatchEmbedder:
    """Adds a column of dense vectors, fixed-size lists of float32, to tables and record batches.

    text is the column of texts, output that of vectors; a text that is null has none. embed are
    options of `Encoder.embed`, such as `{"role": "document"}`, and settings those of
    `Encoder.load`. Raises InputError for a text that cannot be embedded.

    >>> import pyarrow as pa
    >>> table = BatchEmbedder(text="body")(pa.table({"body": ["a cat", None]}))
    >>> table.column_names, table["embedding"].null_count, len(table["embedding"][0])
    (['body', 'embedding'], 1, 384)
    """

    def __init__(
        self,
        model: str = "minilm",
        *,
        text: str = "text",
        output: str = "embedding",
        embed: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._text, self.output, self._embed = text, output, embed or {}
        self.encoder = shared_encoder(model, **settings)

    def __call__(self, batch: Any) -> Any:
        """Return a table or a record batch with its vectors."""
        pa = require_pyarrow("embedding batches")
        texts = batch.column(self._text).to_pylist()
        made = self.encoder.embed(
            [text for text in texts if text is not None], progress=False, **self._embed
        ).dense
        assert made is not None
        rows = iter(made)
        width = made.shape[1] if len(made) else self._embed.get("dimensions")
        kind = pa.list_(pa.float32(), width or self.encoder.card.dimension)
        vectors = [None if text is None else next(rows) for text in texts]
        return batch.append_column(self.output, pa.array(vectors, kind))
