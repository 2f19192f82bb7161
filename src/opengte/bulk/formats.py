"""File formats by suffix: which module reads an input and which writes an output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from opengte.bulk import jsonl, npy, parquet
from opengte.bulk.types import OutputFormat
from opengte.errors import InputError

InputFormat = Literal["text", "jsonl", "csv", "tsv", "parquet"]

INPUT_SUFFIXES: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
OUTPUT_SUFFIXES: dict[str, OutputFormat] = {
    ".jsonl": jsonl.FORMAT,
    ".ndjson": jsonl.FORMAT,
    ".json": jsonl.FORMAT,
    ".npy": npy.FORMAT,
    ".parquet": parquet.FORMAT,
}


def input_format(path: Path | None) -> InputFormat:
    """Return the format that a file's name implies: plain text unless its suffix is known.

    >>> input_format(Path("notes.jsonl.gz")), input_format(Path("notes.md"))
    ('jsonl', 'text')
    """
    if path is None:
        return "text"
    name = path.stem if path.suffix == ".gz" else path.name
    return INPUT_SUFFIXES.get(Path(name).suffix.lower(), "text")


def output_format(path: Path, outputs: Sequence[str]) -> OutputFormat:
    """Return the writer for a file's name.

    Raises InputError for an unknown suffix, or for outputs that the format cannot hold, and
    MissingExtraError for Parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix not in OUTPUT_SUFFIXES:
        raise InputError(
            f"--output `{path}` has an unknown suffix; expected one of {', '.join(OUTPUT_SUFFIXES)}"
        )
    if suffix == ".npy" and tuple(outputs) != ("dense",):
        raise InputError(
            f"--outputs {','.join(outputs)} does not fit in `{path}`: .npy holds dense vectors "
            "only. Write to .jsonl or .parquet"
        )
    if suffix == ".parquet":
        parquet.require_pyarrow("writing Parquet")
    return OUTPUT_SUFFIXES[suffix]
