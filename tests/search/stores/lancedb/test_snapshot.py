"""Reading one version of a LanceDB table: by row numbers as by names, before and after changes."""

from concurrent.futures import Future

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.search.minhash import NEAR, first_near_duplicate, signature, signature_similarity
from opengte.search.stores.lancedb.rows import DISPLAY_COLUMNS, INGEST_COLUMNS
from opengte.search.stores.lancedb.snapshot import RowOwners, run_coroutine
from opengte.search.stores.listing import fetch_for_display
from tests.support import kb, stores
from tests.support.installed import needs

needs("lancedb")
QUERY = kb.unit(np.arange(1.0, 1.0 + stores.WIDTH))


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(3)
    made = stores.made("lance", tmp_path)
    made.put([kb.document(f"d{n}", rng, windows=1 + n % 4) for n in range(40)])
    made.put([kb.document(f"d{n}", rng, windows=2) for n in range(0, 40, 7)])
    made.delete(["d5", "d6"])
    return made


def held(store):
    return run_coroutine(store._reader.snapshot())


def asked(store):
    return store.dense(QUERY, 10, None), store.lexical("red cat", 10, None)


def same(a, b) -> None:
    assert a.keys() == b.keys()
    for name, one in a.items():
        two = b[name]
        assert (one.id, one.text, one.title, one.line) == (two.id, two.text, two.title, two.line)
        assert (one.metadata, one.sections) == (two.metadata, two.sections)
        assert len(one.windows) == len(two.windows)
        for left, right in zip(one.windows, two.windows, strict=True):
            assert np.array_equal(left.vector, right.vector)
            assert np.array_equal(left.spans.bounds, right.spans.bounds)
            assert np.array_equal(left.spans.vectors, right.spans.vectors)


def test_with_names_in_memory_the_same_is_found(store):
    store._reader._read_names = False  # as in a bucket, where names are fetched with each search
    first = held(store)
    assert first.names is None
    without = asked(store)
    documents = store.fetch([name for name, _ in without[0]])
    first.read_names().result()
    assert asked(store) == without
    assert first.names.rows([name for name, _ in without[0]]) is not None
    same(store.fetch([name for name, _ in without[0]]), documents)


def test_names_that_cannot_be_read_are_fetched_with_each_search(store):
    store._reader._read_names = False
    expected = asked(store)
    held(store)._reading = failed = Future()
    failed.set_exception(OSError("disk"))
    assert held(store).names is None
    assert asked(store) == expected


def test_documents_that_no_search_has_found_are_read_by_name(store):
    held(store).read_names().result()
    assert held(store).names.rows(["d1"]) is None
    assert set(store.fetch(["d1", "d5", "nothing"])) == {"d1"}


def test_an_answer_is_read_without_what_only_indexing_needs(store):
    held(store).read_names().result()
    ids = [name for name, _ in asked(store)[0]]
    whole, part = store.fetch(ids), fetch_for_display(store, ids)
    same(whole, part)
    one = part[ids[0]]
    assert (one.content, one.row, one.warnings, one.windows[0].sparse) == ("", "", (), {})
    assert whole[ids[0]].content == f"content of {ids[0]}"


def test_every_column_is_for_answers_or_for_indexing(store):
    columns = store.table("windows").schema.names
    assert sorted(DISPLAY_COLUMNS + INGEST_COLUMNS) == sorted(columns)


def test_a_commit_is_seen_by_the_next_search(store):
    before = held(store)
    before.read_names().result()
    assert held(store) is before
    rng = np.random.default_rng(9)
    new = kb.document("new", rng)
    object.__setattr__(new.windows[0], "vector", QUERY)
    store.put([new])
    assert store.dense(QUERY, 1, None)[0][0] == "new"
    assert held(store).version > before.version
    store.delete(["new"])
    assert "new" not in dict(asked(store)[0])
    assert store.fetch(["new"]) == {}


def test_a_missing_first_pass_is_none(store, tmp_path):
    assert held(store).first_pass is None
    (tmp_path / "short").mkdir()
    other = stores.made("lance", tmp_path / "short", first_pass=4)
    assert held(other).first_pass == 4


@given(st.lists(st.sampled_from("abcde"), min_size=1), st.randoms(use_true_random=False))
def test_names_of_rows_in_any_order(names, random):
    rows = np.array(random.sample(range(1000), len(names)), np.uint64)
    found = RowOwners(pa.array(names), rows)
    assert found.of(rows) == names
    wanted = sorted(set(names[:2]))
    assert sorted(found.rows(wanted)) == sorted(
        int(row) for row, name in zip(rows, names, strict=True) if name in wanted
    )
    assert found.rows([*wanted, "unknown"]) is None


def test_the_twin_is_the_first_that_is_near():
    texts = ["one two three four five six", "", "other words are in this text", "1 2 3"]
    signatures = [signature(text) for text in texts]
    for text in (*texts, "nothing like it"):
        own = signature(text)
        near = [n for n, other in enumerate(signatures) if signature_similarity(own, other) >= NEAR]
        assert first_near_duplicate(own, signatures) == (near[0] if near else None)
