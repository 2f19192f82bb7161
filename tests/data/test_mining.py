"""Hard negatives: every rule held against a slow search that reads like its description."""

import contextlib
import csv
import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.data.examples import Example, Origin, normalised_text, text_hash
from opengte.data.mining import disk_store
from opengte.data.mining.exact_search import nearest_rows
from opengte.data.mining.files import MiningModels, mine_hard_negatives
from opengte.data.mining.hard_negatives import (
    MiningCorpus,
    MiningReport,
    MiningSettings,
    draw_negatives,
    max_negative_score,
    mine_candidates,
)
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import SourceSpec, detect_columns, read_examples
from opengte.errors import InputError
from opengte.search.adhoc.exact import top_k
from tests.support.training_data import write_lines


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 80), st.integers(1, 30))
@settings(deadline=None)
def test_nearest_is_the_exact_search_whatever_the_blocks(seed, q, m, k):
    random = np.random.default_rng(seed)
    queries = random.integers(-1, 2, (q, 3)).astype(np.float32)  # many ties
    rows = random.integers(-1, 2, (m, 3)).astype(np.float32)
    cuts = np.sort(random.integers(0, m + 1, random.integers(0, 9)))
    scores, found = nearest_rows(queries, np.split(rows, cuts), k)
    expected = top_k(queries, np.split(rows, cuts), k)
    np.testing.assert_array_equal(found, expected.rows)
    np.testing.assert_array_equal(scores, expected.scores)
    for i in range(q):  # and both are what sorting gives
        every = sorted(range(m), key=lambda row: (-float(queries[i] @ rows[row]), row))
        assert found[i].tolist() == every[:k]


def number(text: str) -> float:
    return sum(float(word) for word in text.split() if word[-1].isdigit())


def circle(texts) -> np.ndarray:
    """Embed texts by their numbers, so that they can be put where a test wants them."""
    angles = np.array([number(text) for text in texts]) / 50
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def vector(text: str) -> np.ndarray:
    """Embed a text as whole numbers: scores are exact however they are computed, with many ties."""
    twice = int(2 * number(text))
    return np.array([twice % 10 - 3, twice // 10 % 10 - 4, 1 + twice // 100], dtype=np.float32)


def embed(texts) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def score(query: str, texts) -> np.ndarray:
    """Rerank by letters in common."""
    return np.array([len(set(query) & set(text)) for text in texts], dtype=np.float32)


MODELS = MiningModels(embed, embed, {"model": "circle"})


def slow_candidates(rows, query, options, rerank=None) -> tuple[list[str], Counter]:
    """Return the candidates of a query, and what became of the other texts."""
    counts: Counter[str] = Counter()
    corpus = list(dict.fromkeys(normalised_text(t) for row in rows for t in row.documents))
    original = {normalised_text(t): t for row in reversed(rows) for t in row.documents[::-1]}
    answers = {
        normalised_text(text)
        for row in rows
        if normalised_text(row.query) == normalised_text(query)
        for text in row.positives
    }
    values = {text: float(vector(query) @ vector(original[text])) for text in corpus}
    best, mean = max(values[text] for text in answers), float(np.mean(list(values.values())))
    ranked = sorted(corpus, key=lambda text: (-values[text], corpus.index(text)))
    rank, kept = 0, []
    for text in ranked:
        if text in answers or text == normalised_text(query):
            continue
        rank += 1
        if rank < options.first or rank > options.last:
            continue
        if options.margin is not None and values[text] > best - (1 - options.margin) * abs(
            best - mean
        ):
            counts["too near for the margin"] += 1
            continue
        kept.append(text)
    if rerank is not None and kept:
        limit = max(rerank(query, [original[t] for t in answers])) - options.reranker_margin
        good = [text for text in kept if rerank(query, [original[text]])[0] < limit]
        counts["refused by the reranker"] += len(kept) - len(good)
        kept = good
    return kept, counts


def random_rows(seed: int, count: int) -> list[Example]:
    random = np.random.default_rng(seed)

    def text(kind: str) -> str:
        return f"{kind} {random.integers(0, 99) + random.integers(0, 2) / 2}"

    rows = []
    for i in range(count):
        query = text("Ask" if random.random() < 0.5 else "ask")
        positives = tuple({normalised_text(t): t for t in [text("p"), text("P")]}.values())
        texts = {normalised_text(t): t for t in [text("n"), query if i % 7 == 0 else text("p")]}
        others = tuple(t for n, t in texts.items() if n not in map(normalised_text, positives))
        rows.append(Example(Origin("f", i), query, positives, others))
    return rows


@pytest.fixture
def collection(tmp_path):
    with contextlib.closing(MiningCorpus(tmp_path)) as found:
        yield found


OPTIONS = [
    MiningSettings(count=3, first=1, last=20),
    MiningSettings(count=2, first=4, last=9, margin=0.8, seed=5),
    MiningSettings(count=50, first=2, last=15, margin=None, draw="top"),
    MiningSettings(count=3, first=1, last=12, margin=1.0, reranker_margin=1.0),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rerank", [None, score])
@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_those_of_a_slow_search(collection, monkeypatch, options, rerank, seed):
    monkeypatch.setattr("opengte.data.mining.hard_negatives.QUERIES", 7)
    monkeypatch.setattr("opengte.data.mining.hard_negatives.CORPUS", 11)
    rows, mined = random_rows(seed, 60), MiningReport()
    for row in rows:
        collection.add(row)
    vectors = embed(collection.queries[:]), embed(collection.corpus[:])
    found = list(mine_candidates(collection, *vectors, options, mined, rerank))
    assert [number for number, _, _ in found] == list(range(len(collection.queries)))
    counts: Counter[str] = Counter()
    for number, _, kept in found:
        expected, own = slow_candidates(rows, collection.queries[number], options, rerank)
        counts += own
        texts = [normalised_text(collection.corpus[one.number]) for one in kept]
        assert texts == expected
        assert [one.rank for one in kept] == sorted({one.rank for one in kept})
        assert all(options.first <= one.rank <= options.last for one in kept)
    for rule in ("too near for the margin", "refused by the reranker"):
        assert mined.candidates[rule] == counts[rule]


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.01, 1))
def test_the_margin_is_a_share_of_the_way_from_the_mean_to_the_positive(best, mean, margin):
    assert max_negative_score(best, margin, mean) <= best
    if best > mean:
        share = mean + margin * (best - mean)
        assert max_negative_score(best, margin, mean) == pytest.approx(share)


@pytest.mark.parametrize("lift", [0.0, 0.9])
def test_a_model_whose_scores_are_close_together_finds_as_many(collection, lift):
    """A constant added to all vectors lifts all scores alike, and changes no ranking."""
    rows, mined = random_rows(0, 40), MiningReport()
    for row in rows:
        collection.add(row)

    def lifted(texts):
        width = np.full((len(texts), 1), lift, np.float32)
        return np.hstack([embed(texts) * np.float32(np.sqrt(1 - lift**2)), width])

    vectors = lifted(collection.queries[:]), lifted(collection.corpus[:])
    options = MiningSettings(count=2, first=1, last=30, margin=0.9)
    found = [kept for _, _, kept in mine_candidates(collection, *vectors, options, mined)]
    plain = embed(collection.queries[:]), embed(collection.corpus[:])
    same = [kept for _, _, kept in mine_candidates(collection, *plain, options, MiningReport())]
    assert [len(kept) for kept in found] == [len(kept) for kept in same]


def test_a_report_says_that_few_were_found():
    options = MiningSettings(count=3)
    mined = MiningReport(rows=10, negatives=Counter({0: 7, 3: 3}))
    mined.candidates["too near for the margin"] = 21
    said = mined.shortage(options)
    assert "found 9 of 30 wanted negatives; 7 of 10 rows have none" in said
    assert "21 too near for the margin (margin 0.95" in said
    assert MiningReport(rows=2, negatives=Counter({0: 1, 3: 1})).shortage(options) == ""


def test_rows_draw_their_own_negatives_and_always_the_same(tmp_path):
    candidates = [(i, text_hash(f"c {i}")) for i in range(40)]
    rows = [Example(Origin("f", i), "q", (f"p {i}",), ("c 3", "C  5")) for i in range(6)]
    options = MiningSettings(count=4, seed=1)
    found = [draw_negatives(row, candidates, options, MiningReport()) for row in rows]
    assert found == [draw_negatives(row, candidates, options, MiningReport()) for row in rows]
    assert len({tuple(one) for one in found}) == 6
    assert all(one == sorted(one) and not {3, 5} & set(one) for one in found)
    other = [
        draw_negatives(row, candidates, MiningSettings(count=4, seed=2), MiningReport())
        for row in rows
    ]
    assert other != found
    assert draw_negatives(
        rows[0], candidates, MiningSettings(count=4, draw="top"), MiningReport()
    ) == [0, 1, 2, 4]
    mined = MiningReport()
    assert draw_negatives(rows[0], candidates[:3], options, mined) == [0, 1, 2]
    assert (mined.negatives, mined.candidates) == ({3: 1}, {"taken": 3, "not drawn": 0})


def read(path: Path) -> list[Example]:
    return list(read_examples((path,), detect_columns((path,), ColumnMapping())))


def as_rows(rows: list[Example]) -> list[dict]:
    return [
        {"query": r.query, "positive": list(r.positives), "negative": list(r.negatives)}
        for r in rows
    ]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_mined_files_are_rows_with_more_negatives(tmp_path, name):
    rows = random_rows(1, 50)
    path = write_lines(tmp_path / "a.jsonl", [*as_rows(rows), {"query": "x"}])
    options = MiningSettings(count=3, first=2, last=15)
    mined = mine_hard_negatives([SourceSpec("a", (path,))], tmp_path / name, MODELS, options)
    aside = f"{name}.dropped.jsonl"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", name, aside]
    line = json.loads((tmp_path / aside).read_text())
    assert (line["file"], line["row"]) == (str(path), 51)
    assert line["reason"] == "has no `positive`"
    assert mined.dropped == {"unusable row": 1}
    found = read(tmp_path / name)
    assert len(found) == mined.rows == 50
    for number, row in enumerate(rows):  # a negative that is the query is no negative
        own = [t for t in row.negatives if normalised_text(t) != normalised_text(row.query)]
        rows[number] = replace(row, negatives=tuple(own))
    for before, after in zip(rows, found, strict=True):
        assert (after.query, after.positives) == (before.query, before.positives)
        kept = before.negatives
        assert after.negatives[: len(kept)] == kept
        new = [normalised_text(text) for text in after.negatives[len(kept) :]]
        candidates, _ = slow_candidates(rows, before.query, options)
        assert len(new) == len(set(new)) <= 3
        assert set(new) <= set(candidates) - set(map(normalised_text, before.documents))
        expected = [text for text in candidates if text in new]
        assert new == expected
    assert sum(mined.negatives.values()) == 50


def test_the_same_run_writes_the_same_bytes(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", as_rows(random_rows(2, 30)))
    for name in ("1.jsonl.gz", "2.jsonl.gz"):
        mine_hard_negatives(
            [SourceSpec("a", (path,))], tmp_path / name, MODELS, MiningSettings(count=2)
        )
    first, second = ((tmp_path / f"{n}.jsonl.gz").read_bytes() for n in (1, 2))
    assert first == second
    assert gzip.decompress(first).count(b"\n") == 30


def test_csv_has_a_column_for_each_negative(tmp_path):
    rows = [{"query": f"q {i}", "positive": f'a "{i}"\n{i}'} for i in range(9)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    mine_hard_negatives(
        [SourceSpec("a", (path,))], tmp_path / "o.csv", MODELS, MiningSettings(count=2, margin=None)
    )
    with (tmp_path / "o.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["query", "positive", "negative_1", "negative_2"]
    assert [row["positive"] for row in found] == [row["positive"] for row in rows]
    assert all(len(one.negatives) == 2 for one in read(tmp_path / "o.csv"))
    write_lines(path, [{"query": "q 1", "positive": ["a 1", "b 1"]}])
    with pytest.raises(InputError, match=r"a.jsonl:1 has 2 positives.*Write .jsonl or .parquet"):
        mine_hard_negatives(
            [SourceSpec("a", (path,))], tmp_path / "p.csv", MODELS, MiningSettings(count=2)
        )
    assert not (tmp_path / "p.csv").exists()


def test_answers_of_all_rows_and_sources_are_respected(tmp_path):
    first = write_lines(tmp_path / "a.jsonl", [{"query": "what 1", "positive": "yes 1"}])
    rows = [
        {"query": "WHAT  1", "positive": "also 1.1"},
        {"query": "other 9", "positive": "no 1.2"},
    ]
    second = write_lines(tmp_path / "b.jsonl", rows)
    corpus = write_lines(tmp_path / "c.jsonl", ["What 1", "YES 1", "far 2", ""])
    options = MiningSettings(count=9, first=1, margin=None)
    out = tmp_path / "o.jsonl"
    specs = [SourceSpec("a", (first,)), SourceSpec("b", (second,))]
    models = MiningModels(circle, circle, {})
    mined = mine_hard_negatives(specs, out, models, options, corpus=[corpus])
    assert [row.negatives for row in read(out)] == [
        ("no 1.2", "far 2"),
        ("no 1.2", "far 2"),
        ("far 2", "also 1.1", "yes 1", "What 1"),
    ]
    assert mined.candidates["answers the query"] == 3
    assert mined.candidates["is the query"] == 1
    assert (mined.queries, mined.corpus) == (2, 5)


def test_scores_of_the_reranker_are_written_for_distillation(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", as_rows(random_rows(3, 20)))
    models = MiningModels(embed, embed, {}, score, write_scores=True)
    mine_hard_negatives(
        [SourceSpec("a", (path,))], tmp_path / "o.jsonl", models, MiningSettings(count=2)
    )
    for row in read(tmp_path / "o.jsonl"):
        assert row.scores == tuple(map(float, score(row.query, row.documents)))


def test_only_pairs_are_mined(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"text": "a", "label": 1}])
    with pytest.raises(InputError, match="source `a` holds labelled .* mined for pairs"):
        mine_hard_negatives(
            [SourceSpec("a", (path,))], tmp_path / "o.jsonl", MODELS, MiningSettings()
        )
    path = write_lines(tmp_path / "b.jsonl", [{"query": "a 1", "positive": "A 1"}])
    with pytest.raises(InputError, match="no row of `b` can be used"):
        mine_hard_negatives(
            [SourceSpec("b", (path,))], tmp_path / "o.jsonl", MODELS, MiningSettings()
        )
    with pytest.raises(InputError, match="unknown suffix; expected one of .jsonl"):
        mine_hard_negatives(
            [SourceSpec("b", (path,))], tmp_path / "o.txt", MODELS, MiningSettings()
        )


class Killed(BaseException):
    pass


def test_a_killed_run_takes_up_its_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_store, "BLOCK", 4)
    path = write_lines(tmp_path / "a.jsonl", as_rows(random_rows(4, 40)))
    specs, options = [SourceSpec("a", (path,))], MiningSettings(count=2)
    mine_hard_negatives(specs, tmp_path / "whole.jsonl", MODELS, options)
    seen: list[str] = []
    left = 15

    def dying(texts):
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        seen.extend(texts)
        return embed(texts)

    out = tmp_path / "o.jsonl"
    with pytest.raises(Killed):
        mine_hard_negatives(specs, out, MiningModels(dying, dying, MODELS.identity), options)
    assert not out.exists()
    with (tmp_path / "o.jsonl.work" / "corpus.f32").open("ab") as file:
        file.write(b"abc")  # a write that was cut off
    mined = mine_hard_negatives(specs, out, MiningModels(dying, dying, MODELS.identity), options)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(seen) == mined.queries + mined.corpus  # nothing was embedded twice


def test_vectors_of_other_texts_or_models_are_made_anew(tmp_path):
    calls: list[int] = []

    def counted(texts):
        calls.append(len(texts))
        return embed(texts)

    texts = [f"t {i}" for i in range(9)]
    for identity in ({"model": "a"}, {"model": "a"}, {"model": "b"}):
        found = disk_store.embed_to_disk(texts, counted, tmp_path / "v.f32", identity)
        np.testing.assert_array_equal(found, embed(texts))
    assert calls == [9, 9]
    with pytest.raises(InputError, match="no texts to embed"):
        disk_store.embed_to_disk([], counted, tmp_path / "w.f32", {})


def test_texts_on_disk(tmp_path):
    texts, expected = disk_store.TextStore(tmp_path / "t"), ["a", "", "été\n", "\ud800x"]
    for text in expected:
        texts.append(text)
        assert texts[0] == "a"
    assert texts[:] == expected
    assert texts[1:3] == expected[1:3]
    assert list(texts) == expected
    texts.close()


@pytest.mark.parametrize(
    "options", [{"count": 0}, {"first": 0}, {"first": 9, "last": 5}, {"margin": 0}, {"margin": 2}]
)
def test_settings_that_make_no_sense(options):
    with pytest.raises(InputError, match="expected"):
        MiningSettings(**options)


def test_a_parquet_file_of_mined_rows_has_lists(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", as_rows(random_rows(5, 9)))
    mine_hard_negatives(
        [SourceSpec("a", (path,))], tmp_path / "o.parquet", MODELS, MiningSettings(count=2)
    )
    schema = pyarrow.parquet.read_schema(tmp_path / "o.parquet")
    assert [str(schema.field(name).type) for name in schema.names] == [
        "string",
        "list<element: string>",
        "list<element: string>",
    ]
    assert json.dumps(pyarrow.parquet.read_table(tmp_path / "o.parquet").to_pylist())
