"""Parquet and Arrow files, and folders saved by the Hugging Face `datasets` library, by pyarrow.

A folder that `datasets` saved holds Arrow streams and small JSON files that name them. It is read
as data, without that library.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from opengte.errors import InputError, MissingExtraError

BATCH = 1024  # rows that are turned into Python objects at once


def _arrow(purpose: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose) from error
    return pyarrow


def column_names(path: Path) -> list[str]:
    """Return the columns of a Parquet or Arrow file."""
    arrow = _arrow(f"reading `{path}`")
    try:
        if path.suffix == ".parquet":
            return list(arrow.parquet.read_schema(path).names)
        with _opened(arrow, path) as reader:
            return list(reader.schema.names)
    except (arrow.ArrowException, OSError) as error:
        raise _broken(path, error) from error


def read_table_rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet or Arrow file, with the given columns only."""
    arrow = _arrow(f"reading `{path}`")
    try:
        for batch in _batches(arrow, path, columns):
            yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise _broken(path, error) from error


def is_saved_dataset(folder: Path) -> bool:
    """Return whether the `datasets` library saved this folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def saved_dataset_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a saved data set; of one with splits, those of `train`."""
    parts = folder / "dataset_dict.json"
    if parts.is_file():
        splits = _json(parts).get("splits")
        if not isinstance(splits, list) or "train" not in splits:
            raise InputError(
                f"`{folder}` has the parts {splits}, and none is called train. Name the folder of "
                "the part that you want."
            )
        folder = folder / "train"
    listed = _json(folder / "state.json").get("_data_files")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"`{folder / 'state.json'}` names no data files. Save the data set again.")
    return [folder / Path(str(one["filename"])).name for one in listed]


def write_parquet(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """Write rows with the same keys, one row group at a time, in bounded memory."""
    arrow = _arrow(f"writing `{path}`")
    text = arrow.string()
    types = {"query": text, "text": text, "label": text, "scores": arrow.list_(arrow.float32())}
    writer = None
    try:
        for group in _groups(records, 8 * BATCH):
            if writer is None:
                kinds = [(name, types.get(name, arrow.list_(text))) for name in group[0]]
                writer = arrow.parquet.ParquetWriter(path, arrow.schema(kinds))
            writer.write_table(arrow.Table.from_pylist(group, schema=writer.schema))
    finally:
        if writer is not None:
            writer.close()


def open_zstd(path: Path) -> IO[bytes]:
    """Open a file that was compressed with Zstandard."""
    arrow = _arrow(f"reading `{path}`")
    return io.BufferedReader(arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd"))


def _groups(records: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for record in records:
        group.append(record)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _batches(arrow: Any, path: Path, columns: list[str] | None) -> Iterator[Any]:
    if path.suffix == ".parquet":
        with arrow.parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=BATCH, columns=columns)
        return
    with _opened(arrow, path) as reader:
        for batch in reader:
            yield batch if columns is None else batch.select(columns)


def _opened(arrow: Any, path: Path) -> Any:
    """Open an Arrow stream, as `datasets` writes them."""
    return arrow.ipc.open_stream(arrow.OSFile(str(path)))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"`{path}` cannot be read: {error}. Save the data set again.") from error
    if not isinstance(value, dict):
        raise InputError(f"`{path}` is not a JSON object. Save the data set again.")
    return value


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(f"`{path}` is not a whole Parquet or Arrow file: {error}")
