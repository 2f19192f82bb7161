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
from opengte.errors import InputError, OpenGTEWarning
from tests.support.mining import embed, random_rows, score, slow_candidates


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


@pytest.mark.parametrize(
    "options", [{"count": 0}, {"first": 0}, {"first": 9, "last": 5}, {"margin": 0}, {"margin": 2}]
)
def test_settings_that_make_no_sense(options):
    with pytest.raises(InputError, match="expected"):
        MiningSettings(**options)


def test_a_margin_that_is_a_distance_is_told() -> None:
    with pytest.warns(OpenGTEWarning, match=r"margin=0.05 leaves out .* pass 0.95"):
        MiningSettings(count=1, margin=0.05)
