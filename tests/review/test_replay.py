"""The replay finds what the search of the index finds; words and pools against slow twins."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from opengte.review.judgments import JudgedQuery
from opengte.review.pipeline import Pipeline, VectorPlan
from opengte.review.pool import Pool, part_pool, whole_pool
from opengte.review.replay import Models, Replay
from opengte.review.run import ReadOnlyStore
from opengte.review.words import WordIndex
from opengte.search.filters import parse_filter
from opengte.search.retrieval.fusion import Fusion
from opengte.search.retrieval.search import SearchOptions
from opengte.search.stores.bm25 import K1, B
from tests.support import kb as support
from tests.support.fake_models import FakeReranker
from tests.support.installed import needs

needs("lancedb", "snowballstemmer")


def texts(count=60, seed=0):
    rng = np.random.default_rng(seed)
    made = [" ".join(rng.choice(support.WORDS, int(rng.integers(4, 12)))) for _ in range(count)]
    return [*made, made[0], made[1]]  # with copies


@pytest.fixture
def base(tmp_path):
    made = support.kb(tmp_path)
    found = texts()
    years = [{"year": 2000 + n % 7} for n in range(len(found))]
    made.add(found, [f"d{n:02}" for n in range(len(found))], metadata=years)
    return made


def replay_of(base, pool=None, **rerankers):
    index = base.latest()
    models = Models(index.encoder, {}, {name: lambda r=one: r for name, one in rerankers.items()})
    return Replay(
        ReadOnlyStore(index.store), index.settings, pool or whole_pool(index.store), models
    )


WAYS = [
    {},
    {"k": 3},
    {"depth": 2, "k": 2},
    {"fusion": Fusion("rrf")},
    {"fusion": Fusion(weights={"lexical": 0.5})},
    {"fusion": Fusion(weights={"dense": 0.0})},
    {"legs": ("dense",)},
    {"collapse": False},
    {"exact": True},
    {"where": {"year": {"$gte": 2003}}},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_replay_finds_what_the_search_finds(base, way):
    values = {**way, "where": parse_filter(way.get("where"))}
    replay, pipeline = replay_of(base), Pipeline(SearchOptions(**values))
    for text in ("red cat sleeps", "tax law", "river stone house"):
        hits = base.search(text, **{"k": 10, **way}).hits
        assert replay.found(pipeline, text) == tuple((x.id, *x.duplicates) for x in hits)


def test_a_reranker_is_replayed_and_reads_each_pair_once(base):
    reranker = FakeReranker()
    reranker.score = lambda text, passages: [len(one) % 17 for one in passages]
    replay = replay_of(base, r=reranker)
    pipeline = Pipeline(SearchOptions(reranked=20), reranker="r")
    hits = base.search("red cat", reranker=reranker, reranked=20).hits
    assert [x[0] for x in replay.found(pipeline, "red cat")] == [x.id for x in hits]
    reranker.score = None
    assert replay.found(replace(pipeline, options=SearchOptions(reranked=10)), "red cat")


def test_vectors_computed_again_are_those_of_the_index(base):
    replay = replay_of(base)
    stored = Pipeline(SearchOptions(legs=("dense",)), replica=True)
    again = replace(stored, vectors=VectorPlan())
    for text in ("red cat sleeps", "tax law"):
        assert replay.found(stored, text) == replay.found(again, text)
        exact = replace(stored, replica=False, options=replace(stored.options, exact=True))
        assert replay.found(stored, text) == replay.found(exact, text)


def slow_bm25(documents, query):
    split = [one.split() for one in documents]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        total = 0.0
        for term in set(query.split()):
            holding = sum(term in other for other in split)
            weight = math.log(1 + (len(split) - holding + 0.5) / (holding + 0.5))
            often = Counter(words)[term]
            total += weight * often * (K1 + 1) / (often + K1 * (1 - B + B * len(words) / mean))
        scores.append(total)
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_words_have_the_scores_of_a_slow_bm25(seed):
    rng = np.random.default_rng(seed)
    found = [" ".join(rng.choice(support.WORDS, int(rng.integers(1, 30)))) for _ in range(20)]
    made = WordIndex([("", one) for one in found], None)
    query = "red cat unknown"
    assert made.scores(query) == pytest.approx(slow_bm25(found, query), rel=1e-5)


def test_words_by_language():
    documents = [("Cats", "they run"), ("", "the cat runs"), ("", "nothing")]
    assert (WordIndex(documents, "English").scores("running") > 0).tolist() == [True, True, False]
    assert not WordIndex(documents, None).scores("running").any()


def test_quality_is_ndcg_of_documents_and_their_copies(base):
    replay, pipeline = replay_of(base), Pipeline(SearchOptions())
    first, second = replay.found(pipeline, "red cat sleeps")[:2]
    query = JudgedQuery("red cat sleeps", relevant={first[-1]: 1.0})
    assert replay.quality(pipeline, query) == 1.0
    query = replace(query, relevant={second[0]: 1.0}, absent={"gone": 1.0})
    expected = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert replay.quality(pipeline, query) == pytest.approx(expected)
    assert replay.quality(pipeline, replace(query, relevant={}, absent={})) == 0.0


def test_a_sample_stands_for_the_documents_that_were_left_out(base):
    """The mean over samples of a relevant document's rank is its rank in all documents."""
    store = base.latest().store
    whole = Replay(store, base.settings, whole_pool(store), replay_of(base).models)
    pipeline = Pipeline(SearchOptions(k=70, legs=("dense",), collapse=False), replica=True)
    text, wanted = "river stone house", 24
    name = whole.found(pipeline, text)[wanted][0]
    ranks = []
    for seed in range(300):
        pool = part_pool(store, [name], seed=seed, sampled=15)
        assert pool.share == pytest.approx(61 / 15)
        part = Replay(store, base.settings, pool, whole.models, whole.vectors)
        before = [x[0] for x in part.found(pipeline, text)]
        ranks.append(sum(pool.weight(x) for x in before[: before.index(name)]))
    assert np.mean(ranks) == pytest.approx(wanted, abs=3 * np.std(ranks) / math.sqrt(300))


def test_an_empty_pool_has_no_names():
    assert Pool({}).names() == []
