"""Bring the words of an index up to date that an earlier version made: without embedding again."""

from collections.abc import Sequence

from opengte.search.segmentation import VERSION, extra_terms
from opengte.search.stores.base import DocumentHashes, Store, StoredDocument

BATCH = 256  # documents of a commit


def renew_words(store: Store) -> int:
    """Write those documents again that have further terms (see `segmentation`); return how many.

    Does nothing where this version made the words. A run that is killed begins again.
    """
    settings = store.settings()
    if settings is None or settings.get("words") == VERSION:
        return 0
    count, held = 0, list[StoredDocument]()
    for document in store.scan():
        if extra_terms(f"{document.title} {document.text}"):
            held.append(document)
        if len(held) == BATCH:
            count += _write(store, held)
            held = []
    count += _write(store, held)
    store.save_settings({**settings, "words": VERSION})
    return count


def _write(store: Store, documents: Sequence[StoredDocument]) -> int:
    """Write documents again, but those that another process changed or removed meanwhile."""
    there = store.known([one.id for one in documents])
    same = [one for one in documents if there.get(one.id) == DocumentHashes(one.content, one.row)]
    if same:
        store.put(same)
    return len(same)
