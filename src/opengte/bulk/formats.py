"""How vectors are written: JSON Lines, .npy, Parquet; bytes that can be appended to and cut.

Every format appends to part files, so that a killed run can be cut back to the last window that
was recorded and go on. What cannot be appended (the size in the header of .npy, the footer of
Parquet) is made by `finish`, from the part files alone: doing it twice gives the same bytes.
"""

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opengte.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from opengte.types import Embeddings, Floats

NPY_HEADER = 128  # bytes; numpy leaves room in it for any number of rows


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that were embedded together: their ids and their vectors."""

    ids: tuple[str | int, ...]
    embeddings: "Embeddings"


@dataclass(frozen=True)
class Layout:
    """What is written: the width of a dense vector, the outputs, and the model they came from."""

    width: int
    outputs: tuple[str, ...]
    model: str
    fingerprint: str


@dataclass(frozen=True)
class Format:
    """One output format.

    files names the final files; render gives the bytes that a block adds to each part file, `first`
    those that open it; finish turns a part into its final file, given the number of rows.
    """

    files: Callable[[Path], tuple[Path, ...]]
    first: Callable[[Layout], tuple[bytes, ...]]
    render: Callable[[Block, Layout], tuple[bytes, ...]]
    finish: Callable[[Path, Path, Layout, int], None]


def for_output(path: Path, outputs: Sequence[str]) -> Format:
    """Return the format that a file's name asks for."""
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"--output `{path}` has an unknown suffix; expected one of {', '.join(_FORMATS)}"
        )
    if suffix == ".npy" and tuple(outputs) != ("dense",):
        raise InputError(
            f"--outputs {','.join(outputs)} does not fit in `{path}`: .npy holds dense vectors "
            "only. Write to .jsonl or .parquet"
        )
    if suffix == ".parquet":
        _arrow()
    return _FORMATS[suffix]


def json_lines(block: Block, layout: Layout) -> bytes:
    """Return the rows of a block as JSON Lines, with numbers that give back the same float32."""
    return b"".join(_json_line(block, index, layout) for index in range(len(block.ids)))


def _json_line(block: Block, index: int, layout: Layout) -> bytes:
    vectors, parts = block.embeddings, [_about(block, index)[:-1]]
    if "dense" in layout.outputs and vectors.dense is not None:
        parts.append(f'"dense": {_numbers(vectors.dense[index])}')
    if "sparse" in layout.outputs and vectors.sparse is not None:
        weights = sorted(vectors.sparse[index].items())
        pairs = ", ".join(f'"{token}": {weight:.9g}' for token, weight in weights)
        parts.append(f'"sparse": {{{pairs}}}')
    if "tokens" in layout.outputs and vectors.tokens is not None:
        rows = ", ".join(map(_numbers, vectors.tokens[index]))
        parts.append(f'"tokens": [{rows}]')
    return (", ".join(parts) + "}\n").encode()


def _numbers(vector: "Floats") -> str:
    """Write float32 with nine digits, the fewest that always give back the same number."""
    return "[" + ", ".join(["%.9g"] * len(vector)) % tuple(vector.tolist()) + "]"


def _about(block: Block, index: int) -> str:
    """Return what is known of a row besides its vectors, as JSON."""
    about: dict[str, Any] = {"id": block.ids[index]}
    about["token_count"] = int(block.embeddings.token_counts[index])
    for cut in block.embeddings.truncated:
        if cut.index == index:
            about["truncated_from"] = cut.found
    return json.dumps(about)


def _rename(part: Path, final: Path, layout: Layout, rows: int) -> None:
    os.replace(part, final)


def _npy_files(path: Path) -> tuple[Path, ...]:
    return path, path.with_suffix(".ids.jsonl")


def _npy_rows(block: Block, layout: Layout) -> tuple[bytes, ...]:
    assert block.embeddings.dense is not None
    about = "".join(_about(block, index) + "\n" for index in range(len(block.ids)))
    return block.embeddings.dense.astype("<f4", copy=False).tobytes(), about.encode()


def _npy_finish(part: Path, final: Path, layout: Layout, rows: int) -> None:
    if final.suffix.lower() == ".npy":
        with part.open("r+b") as file:
            file.write(_npy_header(rows, layout.width))
            os.fsync(file.fileno())
    os.replace(part, final)


def _npy_header(rows: int, width: int) -> bytes:
    from numpy.lib import format as npy

    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    npy.write_array_header_1_0(header, shape)
    assert len(header.getvalue()) == NPY_HEADER
    return header.getvalue()


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "writing Parquet") from error
    return pyarrow


def _schema(layout: Layout) -> Any:
    arrow = _arrow()
    number = arrow.float32()
    columns = {
        "dense": arrow.list_(number, layout.width),
        "sparse": arrow.map_(arrow.int32(), number),
        "tokens": arrow.list_(arrow.list_(number)),
    }
    fields = [("id", arrow.string()), ("token_count", arrow.int32())]
    fields += [("truncated_from", arrow.int32())]
    fields += [(name, columns[name]) for name in layout.outputs]
    origin = {"opengte.model": layout.model, "opengte.fingerprint": layout.fingerprint}
    return arrow.schema(fields, metadata=origin)


def _parquet_first(layout: Layout) -> tuple[bytes, ...]:
    return (_schema(layout).serialize().to_pybytes(),)


def _parquet_rows(block: Block, layout: Layout) -> tuple[bytes, ...]:
    """Return a block as one message of an Arrow stream."""
    arrow, schema = _arrow(), _schema(layout)
    vectors = block.embeddings
    cut = {record.index: record.found for record in vectors.truncated}
    columns: dict[str, Any] = {
        "id": [str(row_id) for row_id in block.ids],
        "token_count": vectors.token_counts,
        "truncated_from": [cut.get(index) for index in range(len(block.ids))],
        "dense": vectors.dense is not None and list(vectors.dense),
        "sparse": vectors.sparse and [sorted(row.items()) for row in vectors.sparse],
        "tokens": vectors.tokens and [list(rows) for rows in vectors.tokens],
    }
    arrays = [arrow.array(columns[field.name], type=field.type) for field in schema]
    batch = arrow.record_batch(arrays, schema=schema)
    return (batch.serialize().to_pybytes(),)


def _parquet_finish(part: Path, final: Path, layout: Layout, rows: int) -> None:
    """Assemble the blocks, one row group each, in a second file, then put it in place."""
    arrow, whole = _arrow(), part.with_name(part.name + ".parquet")
    with part.open("rb") as file, arrow.ipc.open_stream(file) as blocks:
        with arrow.parquet.ParquetWriter(whole, blocks.schema) as writer:
            for block in blocks:
                writer.write_batch(block, row_group_size=max(1, len(block)))
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(whole, final)
    part.unlink()


_JSON_LINES = Format(
    files=lambda path: (path,),
    first=lambda layout: (b"",),
    render=lambda block, layout: (json_lines(block, layout),),
    finish=_rename,
)
_FORMATS = {
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".json": _JSON_LINES,
    ".npy": Format(_npy_files, lambda layout: (bytes(NPY_HEADER), b""), _npy_rows, _npy_finish),
    ".parquet": Format(lambda path: (path,), _parquet_first, _parquet_rows, _parquet_finish),
}
