"""Open the store at a folder or URI: LanceDB, PostgreSQL or Qdrant."""

from collections.abc import Mapping

from opengte.search.stores.base import Store

POSTGRES = ("postgresql", "postgres")
QDRANT = ("qdrant", "http", "https", "qdrant-edge")


def open_store(place: str, options: Mapping[str, str] | None = None) -> Store:
    """Return the store at a place, empty or not.

    A folder or s3://bucket/kb is LanceDB's; postgresql://host/database?schema=kb PostgreSQL's;
    qdrant://host:6333/kb, http(s)://host:6333/kb and qdrant-edge:///folder are Qdrant's.
    """
    scheme = place.partition("://")[0] if "://" in place else ""
    if scheme in POSTGRES:
        from opengte.search.stores.postgres.store import PostgresStore

        return PostgresStore(place)
    if scheme in QDRANT:
        from opengte.search.stores.qdrant.store import QdrantStore

        return QdrantStore.open(place, options)
    from opengte.search.stores.lancedb import store

    return store.open_store(place, options)
