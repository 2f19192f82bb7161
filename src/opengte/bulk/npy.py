"""NumPy's .npy: writer of dense vectors, with their ids in a second file, .ids.jsonl."""

import io
import json
import os
from pathlib import Path

from opengte.bulk.types import EmbeddedRows, OutputFormat, OutputSchema

HEADER = 128  # bytes; NumPy leaves room in it for any number of rows


def _files(path: Path) -> tuple[Path, ...]:
    return path, path.with_suffix(".ids.jsonl")


def _render(block: EmbeddedRows, schema: OutputSchema) -> tuple[bytes, ...]:
    assert block.embeddings.dense is not None
    ids = "".join(json.dumps(block.metadata(index)) + "\n" for index in range(len(block.ids)))
    return block.embeddings.dense.astype("<f4", copy=False).tobytes(), ids.encode()


def _finish(part: Path, final: Path, schema: OutputSchema, rows: int) -> None:
    if final.suffix.lower() == ".npy":
        with part.open("r+b") as file:
            file.write(_header(rows, schema.width))
            os.fsync(file.fileno())
    os.replace(part, final)


def _header(rows: int, width: int) -> bytes:
    from numpy.lib import format as npy

    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    npy.write_array_header_1_0(header, shape)
    assert len(header.getvalue()) == HEADER
    return header.getvalue()


FORMAT = OutputFormat(_files, lambda schema: (bytes(HEADER), b""), _render, _finish)
