"""Export an index to a Parquet file and import it: texts, vectors, metadata, settings.

A row is a window; the settings of the index are in the file's own metadata under "opengte".
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from opengte.errors import InputError, MissingExtraError
from opengte.search import segmentation
from opengte.search.index import FORMATS, UNFINISHED, Index, claim_folder
from opengte.search.stores.base import Store, StoredDocument
from opengte.search.stores.lancedb.generations import live_generation
from opengte.search.stores.url import hide_password

KEY = b"opengte"
BATCH = 256  # documents held at once


def export_index(index: Index, path: str | Path) -> int:
    """Write all documents of an index to a file; return how many."""
    pa, pq = _arrow()
    from opengte.search.stores.lancedb.rows import arrow_schema, to_table

    late = index.settings.get("late") is not None
    columns = arrow_schema(index.settings["dimension"], None, late=late)
    plain = columns.set(columns.get_field_index("metadata"), pa.field("metadata", pa.string()))
    plain = plain.with_metadata({KEY: json.dumps(index.settings).encode()})
    final, part = os.fspath(path), f"{os.fspath(path)}.part"
    count = 0
    with open(part, "wb") as file, pq.ParquetWriter(file, plain, compression="zstd") as writer:
        for documents in _batches(index.store.scan()):
            table = to_table(documents, columns)
            writer.write_table(table.cast(plain))
            count += len(documents)
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, final)
    return count


def exported_settings(path: str | Path) -> dict[str, Any]:
    """Return the settings of an exported index; InputError for another file."""
    _, pq = _arrow()
    import pyarrow

    try:
        found = pq.read_schema(os.fspath(path)).metadata or {}
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"`{path}` is not a Parquet file that can be read: {error}") from error
    if KEY not in found:
        raise InputError(f"`{path}` is not an exported index; `gte index export` writes one")
    values: dict[str, Any] = json.loads(found[KEY])
    return values


def import_index(
    file: str | Path, path: str | Path, storage_options: Mapping[str, str] | None = None
) -> Index:
    """Make an index from an exported file; an import that was interrupted can be repeated."""
    from opengte.search.stores.open import open_store

    settings, place = exported_settings(file), os.fspath(path)
    if settings.get("format") not in FORMATS:
        raise InputError(f"`{file}` has the format {settings.get('format')!r}, not {FORMATS}")
    claim_folder(place)
    store, shown = open_store(place, storage_options), hide_password(place)
    existing = store.settings()
    if existing is not None and existing.get("format") != UNFINISHED:
        raise InputError(f"`{shown}` is an index already; choose another place")
    store.save_settings({**settings, "format": UNFINISHED})
    store.delete([one.id for one in store.scan()] if existing else [])
    import_documents(file, store)
    settings["words"] = segmentation.VERSION
    store.save_settings(settings)
    store.optimize()
    return Index(shown, store, settings, live=live_generation(place, storage_options))


def import_documents(path: str | Path, store: Store) -> int:
    """Write all documents of a file into a store; return how many."""
    _, pq = _arrow()
    from opengte.search.stores.lancedb.rows import documents_from_rows

    def rows() -> Iterator[dict[str, Any]]:
        for batch in pq.ParquetFile(os.fspath(path)).iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()

    count = 0
    for documents in _batches(documents_from_rows(rows())):
        store.put(documents)
        count += len(documents)
    return count


def _batches(documents: Iterable[StoredDocument]) -> Iterator[list[StoredDocument]]:
    stream = iter(documents)
    while batch := list(islice(stream, BATCH)):
        yield batch


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "search", "Parquet") from None
    return pyarrow, pyarrow.parquet
