"""An index in Qdrant: Qdrant Edge, which is its engine in this process, and the client of a server.

What every store must do is in tests/search/stores/test_stores.py. No Qdrant server is started here:
the client's requests are answered by the local mode of `qdrant-client`.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opengte.errors import InputError
from opengte.search.filters import parse_filter
from opengte.search.stores.memory import MemoryStore
from opengte.search.stores.qdrant import store as qdrant
from opengte.search.stores.qdrant.store import QdrantStore
from tests.support import kb, stores
from tests.support.installed import needs
from tests.support.stores import WIDTH

needs("qdrant_edge")
ROOT = Path(__file__).parents[4]
OPENER = """
import sys
from opengte.search.stores.qdrant.store import QdrantStore
QdrantStore.open(sys.argv[1])
"""
WRITER = """
import os, sys
import numpy as np
from opengte.search.stores.qdrant.store import QdrantStore
from tests.support import kb
store = QdrantStore.open(sys.argv[1])
store.save_settings({"dimension": 8, "first_pass": None, "language": "English"})
rng = np.random.default_rng(0)
store.put([kb.document(f"d{n}", rng, windows=2) for n in range(20)])
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def place(tmp_path):
    return stores.new_place("qdrant-edge", tmp_path)


def written(place):
    store = QdrantStore.open(place)
    store.save_settings({"dimension": WIDTH, "first_pass": None, "language": "English"})
    return store


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )


def test_what_was_committed_outlives_a_process_that_is_killed(place):
    assert run(WRITER, place).returncode == -9
    store = QdrantStore.open(place)
    rng = np.random.default_rng(0)
    for one in (kb.document(f"d{n}", rng, windows=2) for n in range(20)):
        kb.same(store.fetch([one.id])[one.id], one)
    assert store.count() == 20


def test_edge_lets_one_process_in_and_says_so(place):
    store = written(place)
    assert QdrantStore.open(place).settings() == store.settings()  # this process, again
    done = run(OPENER, place)
    assert done.returncode == 1 and "is open in another process" in done.stderr


@pytest.mark.parametrize("kind", ["qdrant-edge", "qdrant-local"])
@pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local:UserWarning")
def test_windows_of_an_interrupted_commit_are_left_out_and_removed(kind, tmp_path, monkeypatch):
    store = stores.made(kind, tmp_path)
    rng = np.random.default_rng(0)
    store.put([kb.document(name, rng, windows=3) for name in ("a", "b")])
    new = kb.document("a", rng, windows=1)
    with monkeypatch.context() as broken:
        broken.setattr(
            store._engine, "delete", lambda where, chosen: (_ for _ in ()).throw(OSError())
        )
        with pytest.raises(OSError):
            store.put([new])
    kb.same(store.fetch(["a"])["a"], new)  # the old windows are there still
    assert store.health().windows == 6
    store.optimize()
    assert store.health().windows == 6  # somebody may be at it
    monkeypatch.setattr(qdrant, "STALE", -1.0)
    store.optimize()
    assert store.health().windows == 4 and not list(store._notes("writing"))
    kb.same(store.fetch(["a"])["a"], new)


def test_large_commits_are_several_requests(place, monkeypatch):
    monkeypatch.setattr(qdrant, "REQUEST", 2000)
    store, seen = written(place), []
    upsert = store._engine.upsert
    monkeypatch.setattr(
        store._engine, "upsert", lambda where, made: (seen.append(len(made)), upsert(where, made))
    )
    rng = np.random.default_rng(0)
    documents = [kb.document(f"d{n}", rng, windows=1 + n % 3) for n in range(12)]
    store.put(documents)
    assert len(seen) > 6 and store.count() == 12
    for one in documents:
        kb.same(store.fetch([one.id])[one.id], one)


def test_an_optimized_index_finds_nearly_all(place):
    store, memory = written(place), MemoryStore()
    rng = np.random.default_rng(0)
    documents = [kb.document(f"d{n}", rng, windows=1 + n % 2) for n in range(400)]
    store.put(documents)
    memory.put(documents)
    assert store.optimize() == []
    shares = []
    for _ in range(20):
        question = kb.unit(rng.standard_normal(WIDTH))
        true = {name for name, _ in memory.dense(question, 10, None)}
        shares.append(len(true & {name for name, _ in store.dense(question, 10, None)}) / 10)
    assert np.mean(shares) >= 0.95


def test_texts_of_a_field_that_are_too_many_to_order(place, monkeypatch):
    from opengte.search.stores.qdrant import engine

    store = written(place)
    rng = np.random.default_rng(0)
    store.put([kb.document(f"d{n}", rng, metadata={"name": f"n{n}"}) for n in range(9)])
    assert store.count(parse_filter({"name": {"$lt": "n3"}})) == 3
    monkeypatch.setattr(engine, "TEXTS", 5)
    with pytest.raises(InputError, match="too many for Qdrant to compare by their order"):
        store.count(parse_filter({"name": {"$lt": "n3"}}))


@pytest.mark.parametrize(
    "place", ["qdrant://host", "http://host:1", "qdrant://k@h/n", "qdrant://h/a/b"]
)
def test_a_place_that_is_none_is_an_error(place):
    pytest.importorskip("qdrant_client")
    with pytest.raises(InputError, match="expected .*HOST:6333/NAME"):
        QdrantStore.open(place)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local:UserWarning")
def test_a_collection_of_others_is_left_alone(tmp_path):
    store = stores.opened(stores.new_place("qdrant-local", tmp_path))
    client, models = store._engine._client, store._engine.models
    plain = models.VectorParams(size=2, distance=models.Distance.DOT)
    client.create_collection("docs", vectors_config=plain)
    client.upsert("docs", [models.PointStruct(id=1, vector=[1.0, 0.0])])
    with pytest.raises(InputError, match="is a collection with other points"):
        store.save_settings({"dimension": WIDTH, "first_pass": None, "language": None})


def test_a_server_that_does_not_answer_is_an_error(tmp_path):
    pytest.importorskip("qdrant_client")
    with pytest.raises(OSError, match=r"`qdrant://127.0.0.1:1/kb` cannot be reached"):
        QdrantStore.open("qdrant://127.0.0.1:1/kb").settings()


def test_from_the_command_line(place, tmp_path, monkeypatch):
    other = stores.new_place("qdrant-edge", tmp_path / "other")
    kb.check_commands(place, other, tmp_path, monkeypatch)
