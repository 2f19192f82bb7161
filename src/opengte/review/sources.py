"""The documents as their sources have them now: what is missing, stale or garbled in an index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import numpy as np

from opengte.errors import InputError
from opengte.evaluate.data_files import read_records
from opengte.review.vectors import Texts
from opengte.search.index import Index
from opengte.search.ingest.embedder import EmbeddedDocument
from opengte.search.ingest.pipeline import IngestOptions, index_files
from opengte.search.stores.base import SpanVectors, StoredDocument, StoredWindow
from opengte.search.stores.memory import MemoryStore

Difference = Literal["missing", "garbled", "stale"]
GARBLED = 0.1  # of the words of a text that are not in its source: from here it was read badly
LEAST_WORDS = 10  # of a text, before that can be told
COMPARED = 200  # characters of both
ALIKE = 0.5  # of which stand in the same order


def read_sources(index: Index, path: str | Path) -> dict[str, Texts]:
    """Return the documents that an index should have, by id: title, text, sections.

    path is a JSON Lines file of objects with `id` (or `_id`), `text` and maybe `title`; or files
    or a folder that the index was made of, which are read again. Raises InputError for others.
    """
    file = Path(path)
    if file.suffix.lower() in (".jsonl", ".ndjson") or file.name.endswith(".jsonl.gz"):
        found: dict[str, Texts] = {}
        for number, row in read_records(file):
            name, text = row.get("id", row.get("_id")), row.get("text")
            if not isinstance(name, str | int) or not isinstance(text, str):
                raise InputError(f"`{path}`:{number} has no `id` or no `text`; expected both")
            if text.strip():
                found[str(name)] = str(row.get("title") or ""), text, ()
        return found
    store = MemoryStore()
    index_files(store, lambda: _Unread(), [str(file)], IngestOptions(), roots=index.roots)  # type: ignore[arg-type,return-value]
    return {one.id: (one.title, one.text, one.sections) for one in store.scan()}


class _Unread:
    """Stands for the model where documents are only read."""

    passages = "none"

    def embed(self, documents: Sequence[Any]) -> list[EmbeddedDocument]:
        empty = SpanVectors(
            np.zeros((0, 2), np.int32), np.zeros((0, 1), np.int8), np.zeros(0, np.float32)
        )
        window = StoredWindow(0, 1, np.zeros(1, np.float32), empty, 0)
        return [EmbeddedDocument((window,), truncated=False) for _ in documents]


@dataclass(frozen=True)
class SourceDifferences:
    """Documents whose sources have another text: which, and how they differ."""

    texts: Mapping[str, Texts]
    kinds: Mapping[str, Difference]

    def counts(self) -> dict[str, int]:
        """Return how many documents differ in each way."""
        kinds = list(self.kinds.values())
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def compare_sources(
    documents: Mapping[str, StoredDocument], sources: Mapping[str, Texts], present: set[str]
) -> SourceDifferences:
    """Return how the documents of a pool differ from their sources; present are all ids there."""
    texts: dict[str, Texts] = {}
    kinds: dict[str, Difference] = {}
    for name, source in sources.items():
        one = documents.get(name)
        if one is None and name in present:
            continue  # outside the pool: it is not replayed
        if one is not None and one.text == source[1] and one.title == source[0]:
            continue
        texts[name] = source
        kinds[name] = "missing" if one is None else _kind(one.text, source[1])
    return SourceDifferences(texts, kinds)


def _kind(text: str, source: str) -> Difference:
    """Return whether a text was read badly, or is of another version of its source.

    Badly read text has words that its source has not, in the places of those that it has.
    """
    words, known = text.lower().split(), set(source.lower().split())
    foreign = sum(word not in known for word in words) / max(1, len(words))
    if foreign <= GARBLED or len(words) < LEAST_WORDS:
        return "stale"
    alike = SequenceMatcher(None, text[:COMPARED], source[:COMPARED], autojunk=False).ratio()
    return "garbled" if alike > ALIKE else "stale"
