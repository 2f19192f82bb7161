"""Contents to the columns of an output: what is computed of a text, as Arrow."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from opengte.bulk.parquet import require_pyarrow
from opengte.bulk.shards.plan import BulkOptions
from opengte.errors import InputError

if TYPE_CHECKING:
    from opengte.encoder import Encoder
    from opengte.types import Floats

Content = tuple[str, str]  # title, text
DTYPES = ("float32", "float16", "int8", "binary")


class ContentColumns(Protocol):
    """Computes the columns of contents."""

    @property
    def schema(self) -> Any:
        """The columns; `token_count` and `truncated_from` are among them."""
        ...

    def table(self, contents: Sequence[Content]) -> Any:
        """Return the columns of contents, a row each."""
        ...


ColumnMaker = Callable[["Encoder", BulkOptions], ContentColumns]


def check_columns(options: BulkOptions, known: Sequence[str]) -> None:
    """Raise InputError for outputs or a dtype that there are not."""
    if not options.outputs or not set(options.outputs) <= set(known):
        raise InputError(f"outputs is {options.outputs!r}, expected some of {', '.join(known)}")
    if options.dtype not in DTYPES:
        raise InputError(f"dtype is {options.dtype!r}, expected one of {', '.join(DTYPES)}")


class VectorColumns:
    """Dense and sparse vectors of texts, one of each for a text."""

    def __init__(self, encoder: "Encoder", options: BulkOptions) -> None:
        check_columns(options, ("dense", "sparse"))
        if options.title_field is not None:
            raise InputError("title_field is for outputs that are passages; a vector has no title")
        self._encoder, self._options = encoder, options
        pa = self._pa = require_pyarrow("bulk embedding")
        columns = {"token_count": pa.int32(), "truncated_from": pa.int32()}
        if "dense" in options.outputs:
            columns |= dense_columns(options.dimension, options.dtype)
        if "sparse" in options.outputs:
            columns["sparse"] = pa.map_(pa.int32(), pa.float32())
        self.schema = pa.schema(list(columns.items()))
        self.table([("", "a text")])  # so that a wrong option is not the fault of every row

    def table(self, contents: Sequence[Content]) -> Any:
        """Return the columns of texts, a row each."""
        made = self._encoder.embed(
            [text for _, text in contents],
            role=self._options.role,  # type: ignore[arg-type]
            instruction=self._options.instruction,
            outputs=self._options.outputs,  # type: ignore[arg-type]
            dimensions=self._options.dimensions,
            truncation=self._options.truncation,  # type: ignore[arg-type]
            progress=False,
        )
        cut = {one.index: one.found for one in made.truncated}
        values: dict[str, Any] = {
            "token_count": made.token_counts,
            "truncated_from": [cut.get(index) for index in range(len(contents))],
        }
        if made.dense is not None:
            values |= dense_arrays(made.dense, self._options.dtype)
        if made.sparse is not None:
            values["sparse"] = [sorted(row.items()) for row in made.sparse]
        arrays = [
            made
            if isinstance(made := values[one.name], self._pa.Array)
            else self._pa.array(made, one.type)
            for one in self.schema
        ]
        return self._pa.Table.from_arrays(arrays, schema=self.schema)


def dense_columns(width: int, dtype: str) -> dict[str, Any]:
    """Return the columns of vectors of a width.

    float32, float16: `dense`. int8: `dense` times `dense_scale`. binary: a bit for each dimension,
    1 where it is above 0, the first in the highest bit; `dense_scale` is the mean of the absolutes.
    """
    pa = require_pyarrow("bulk embedding")
    kinds = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}
    if dtype == "binary":
        return {"dense": pa.list_(pa.uint8(), -(-width // 8)), "dense_scale": pa.float32()}
    scale = {"dense_scale": pa.float32()} if dtype == "int8" else {}
    return {"dense": pa.list_(kinds[dtype], width), **scale}


def dense_arrays(vectors: "Floats", dtype: str) -> dict[str, Any]:
    """Return the columns of vectors (n, d)."""
    scales = None
    if dtype == "int8":
        scales = (np.abs(vectors).max(axis=1, initial=1e-12) / 127).astype(np.float32)
        stored: Any = np.rint(vectors / scales[:, None]).astype(np.int8)
    elif dtype == "binary":
        scales = np.abs(vectors).mean(axis=1, dtype=np.float32)
        stored = np.packbits(vectors > 0, axis=1)
    else:
        stored = vectors.astype(dtype, copy=False)
    pa = require_pyarrow("bulk embedding")
    flat = pa.array(np.ascontiguousarray(stored).reshape(-1))
    found = {"dense": pa.FixedSizeListArray.from_arrays(flat, stored.shape[1])}
    return found if scales is None else {**found, "dense_scale": pa.array(scales)}


def dense_vectors(table: Any, width: int, dtype: str) -> "Floats":
    """Return the vectors (n, d) float32 of rows; of binary ones, plus and minus the scale."""
    column = table["dense"].combine_chunks()
    stored = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    if dtype == "binary":
        stored = np.unpackbits(stored, axis=1, count=width).astype(np.float32) * 2 - 1
    vectors: Floats = stored.astype(np.float32)
    if "dense_scale" in table.column_names:
        vectors = vectors * table["dense_scale"].to_numpy()[:, None]
    return vectors
