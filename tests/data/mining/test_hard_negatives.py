"""Candidates and drawn negatives, held against a slow search."""

import contextlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.data.examples import Example, Origin, normalised_text, text_hash
from opengte.data.mining.hard_negatives import (
    MiningCorpus,
    MiningReport,
    MiningSettings,
    draw_negatives,
    max_negative_score,
    mine_candidates,
)
from opengte.errors import InputError


def number(text: str) -> float:
    return sum(float(word) for word in text.split() if word[-1].isdigit())


def vector(text: str) -> np.ndarray:
    """Embed a text as whole numbers: scores are exact however they are computed, with many ties."""
    twice = int(2 * number(text))
    return np.array([twice % 10 - 3, twice // 10 % 10 - 4, 1 + twice // 100], dtype=np.float32)


def embed(texts) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def score(query: str, texts) -> np.ndarray:
    """Rerank by letters in common."""
    return np.array([len(set(query) & set(text)) for text in texts], dtype=np.float32)


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
    best = max(values[text] for text in answers)
    ranked = sorted(corpus, key=lambda text: (-values[text], corpus.index(text)))
    rank, kept = 0, []
    for text in ranked:
        if text in answers or text == normalised_text(query):
            continue
        rank += 1
        if rank < options.first or rank > options.last:
            continue
        if options.margin is not None and values[text] > best - (1 - options.margin) * abs(best):
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


@given(st.floats(-1, 1), st.floats(0.01, 1))
def test_the_margin_is_below_the_positive_on_both_sides_of_zero(best, margin):
    assert max_negative_score(best, margin) <= best
    if best > 0:
        assert max_negative_score(best, margin) == pytest.approx(margin * best)


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


@pytest.mark.parametrize(
    "options", [{"count": 0}, {"first": 0}, {"first": 9, "last": 5}, {"margin": 0}, {"margin": 2}]
)
def test_settings_that_make_no_sense(options):
    with pytest.raises(InputError, match="expected"):
        MiningSettings(**options)
