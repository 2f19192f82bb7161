"""Passages in bulk, loaded: the index answers as one that `gte index` made."""

import json

import pytest

from opengte.apps import bulk_index
from opengte.errors import InputError
from opengte.search.index import Index
from opengte.search.kb import KnowledgeBase
from tests.support import bulk, stores
from tests.support.installed import needs
from tests.support.kb import WordEncoder

needs("lancedb")
QUERIES = ["red cat", "fish sleeps", "tax law river", "stone", "green grass eats"]


def passages(folder, **options):
    columns = bulk_index.columns_for(("passages",))
    options |= {
        "outputs": ("passages",),
        "shard_tokens": 500,
        "title_field": "title",
        "keep": ("year",),
    }
    made = bulk.plan(folder / "in", folder / "out", columns=columns, **options)
    bulk.run(made, columns=columns)
    return made


def target(place):
    settings = {"passages": "auto", "span_tokens": 96, "window_tokens": None, "first_pass": None}
    return Index.create(place, WordEncoder.load("minilm"), settings | {"language": "English"}, None)


def rows_of(folder, count=60, seed=0):
    rows = bulk.write_inputs(folder / "made", seed, count)
    (folder / "in").mkdir(exist_ok=True)
    lines = [
        json.dumps(
            {"id": name, "text": f"{text}\n\n{text} again", "title": "a title", "year": year}
        )
        for name, (text, year) in rows.items()
    ]
    (folder / "in/rows.jsonl").write_text("\n".join(lines))
    return rows


def answers(kb, query, **options):
    found = kb.search(query, 8, **options)
    return [
        (hit.id.rpartition("#")[2], hit.title, hit.passage, pytest.approx(hit.score, abs=1e-6))
        for hit in found.hits
    ]


@pytest.mark.slow
def test_a_loaded_index_answers_like_an_indexed_one(tmp_path):
    rows = rows_of(tmp_path)
    encoder = WordEncoder.load("minilm")
    indexed = KnowledgeBase.create(tmp_path / "indexed", encoder)
    assert indexed.index([tmp_path / "in"]).new == len(rows)
    index = target(tmp_path / "loaded")
    report = bulk_index.load_run(passages(tmp_path), index)
    assert (report.new, report.unchanged) == (len(rows), 0)
    loaded = KnowledgeBase(index)
    for query in QUERIES:
        assert answers(loaded, query) == answers(indexed, query)
        assert answers(loaded, query, legs=("lexical",)) == answers(
            indexed, query, legs=("lexical",)
        )
        where = {"year": {"$lt": 20}}
        assert answers(loaded, query, where=where) == answers(indexed, query, where=where)
    ours = loaded.calibrate(generate=40).settings()
    theirs = indexed.calibrate(generate=40).settings()
    assert ours.keys() == theirs.keys()
    assert loaded.search("red cat").confidence is not None
    old = {one.id.rpartition("#")[2]: one for one in indexed.store.scan()}
    for one in loaded.store.scan():
        twin = old[one.id]
        assert (one.content, one.truncated, one.text) == (twin.content, twin.truncated, twin.text)
        for a, b in zip(one.windows, twin.windows, strict=True):
            assert (a.start, a.end, a.tokens) == (b.start, b.end, b.tokens)
            assert a.vector.tolist() == b.vector.tolist()
            assert a.spans.floats().tolist() == b.spans.floats().tolist()
            assert a.spans.bounds.tolist() == b.spans.bounds.tolist()


def test_loading_again_does_nothing_and_an_interrupted_one_goes_on(tmp_path, monkeypatch):
    rows = rows_of(tmp_path)
    made = passages(tmp_path)
    index = target(tmp_path / "kb")
    real, calls = bulk_index.index_embedded, []

    def stopped(store, documents):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(store, documents)

    with monkeypatch.context() as patch:
        patch.setattr(bulk_index, "index_embedded", stopped)
        with pytest.raises(KeyboardInterrupt):
            bulk_index.load_run(made, index)
    report = bulk_index.load_run(made, index)
    assert report.changed == 0
    assert 0 < report.new < len(rows)
    assert report.new + report.unchanged <= len(rows)
    assert index.store.count() == len(rows)
    again = bulk_index.load_run(made, index)
    assert (again.new, again.changed, again.unchanged) == (0, 0, 0)


def test_a_later_run_replaces_what_changed(tmp_path):
    rows = rows_of(tmp_path)
    index = target(tmp_path / "kb")
    bulk_index.load_run(passages(tmp_path), index)
    path = tmp_path / "in/rows.jsonl"
    path.write_text(
        path.read_text().replace('"id": "r7", "text": "', '"id": "r7", "text": "zebra ')
    )
    report = bulk_index.load_run(passages(tmp_path), index)
    assert (report.new, report.changed, report.unchanged) == (0, 1, len(rows) - 1)
    assert KnowledgeBase(index).search("zebra", 1).hits[0].id == "r7"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres", "qdrant-edge"])
def test_other_stores(tmp_path, kind):
    rows = rows_of(tmp_path)
    made = passages(tmp_path)
    place = stores.new_place(kind, tmp_path)
    index = target(place)
    report = bulk_index.load_run(made, index, writers=4)
    assert report.new == len(rows)
    lance = target(tmp_path / "lance")
    bulk_index.load_run(made, lance)
    for query in QUERIES:
        ours = KnowledgeBase(index).search(query, 5, legs=("dense",)).hits
        theirs = KnowledgeBase(lance).search(query, 5, legs=("dense",)).hits
        assert [hit.id for hit in ours] == [hit.id for hit in theirs]


def test_what_cannot_be_loaded(tmp_path):
    rows_of(tmp_path)
    made = bulk.plan(tmp_path / "in", tmp_path / "vectors")
    index = target(tmp_path / "kb")
    with pytest.raises(InputError, match="no passages, which an index answers with"):
        bulk_index.load_run(made, index)
    options = {"columns": bulk_index.columns_for(("passages",)), "outputs": ("passages",)}
    made = bulk.plan(tmp_path / "in", tmp_path / "out", **options)
    with pytest.raises(InputError, match="the run is not complete. Continue it: gte bulk run"):
        bulk_index.load_run(made, index)
    with pytest.raises(InputError, match="an index decides"):
        bulk.plan(tmp_path / "in", tmp_path / "x", role="query", **options)
