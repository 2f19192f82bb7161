"""Legs, fusion, passages, filters, diversity, explanations, against plain computation."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.errors import InputError
from opengte.search.filters import parse_filter
from opengte.search.minhash import NEAR, near_duplicate_groups, signature, signature_similarity
from opengte.search.retrieval import search
from opengte.search.retrieval.fusion import MOST, Fusion, fuse, standardise
from opengte.search.retrieval.mmr import mmr
from opengte.search.stores.memory import MemoryStore
from opengte.search.stores.sparse_index import SparseIndex
from tests.support import kb as helpers
from tests.support.fake_models import FakeReranker

RANKINGS = st.dictionaries(
    st.sampled_from("abc"),
    st.lists(st.tuples(st.sampled_from("uvwxyz"), st.floats(-5, 5)), unique_by=lambda one: one[0]),
)


@given(RANKINGS, st.integers(1, 80))
def test_reciprocal_ranks(legs, k):
    fused = dict(fuse(legs, Fusion("rrf", k=k, weights={"a": 2.0, "b": 0.0})))
    for name in "uvwxyz":
        total, found = 0.0, False
        for leg, weight in (("a", 2.0), ("c", 1.0)):
            for rank, (other, _) in enumerate(legs.get(leg, []), 1):
                if other == name:
                    total, found = total + weight / (k + rank), True
        assert (name in fused) == found
        if found:
            assert fused[name] == pytest.approx(total)


@given(RANKINGS)
def test_weighted_sums_put_the_missing_last(legs):
    fused = dict(fuse(legs, Fusion("weighted")))
    most = max(map(len, legs.values()), default=0)
    for ranking in legs.values():
        parts = standardise(ranking, most - len(ranking))
        assert all(part >= 0 for part in parts)
        assert [*parts] == sorted(parts, reverse=True) or ranking != _sorted(ranking)
    assert all(value >= 0 for value in fused.values())
    assert set(fused) == {name for ranking in legs.values() for name, _ in ranking}


def _sorted(ranking):
    return sorted(ranking, key=lambda one: -one[1])


def test_standardised_scores_against_plain_python():
    scores = [7.0, 4.0, 1.0]
    ranking = [(str(i), score) for i, score in enumerate(scores)]
    deviation = statistics.pstdev(scores)
    assert standardise(ranking) == pytest.approx([(x - 1) / deviation for x in scores])
    deviation = statistics.pstdev([*scores, 0.0, 0.0])
    assert standardise(ranking, 2) == pytest.approx([x / deviation for x in scores])
    assert standardise([("a", 3.0)], 199) == [MOST] and standardise([("a", 3.0)]) == [0.0]


def test_a_word_that_only_one_document_has_counts():
    dense = [(name, 0.5 - 0.01 * i) for i, name in enumerate("abcdefghij")]
    found = fuse({"dense": dense, "lexical": [("c", 4.0)]}, Fusion())
    assert found[0][0] == "c"
    found = fuse({"dense": dense, "lexical": []}, Fusion())
    assert [name for name, _ in found] == list("abcdefghij")


def test_ties_are_in_the_order_of_names():
    legs = {"dense": [("b", 1.0), ("a", 0.5)], "lexical": [("a", 9.0), ("b", 1.0)]}
    assert [name for name, _ in fuse(legs, Fusion())] == ["a", "b"]


@pytest.mark.parametrize(
    "values", [{"method": "sum"}, {"k": 0}, {"weights": {"dense": -1}}, {"weights": {"x": 1e999}}]
)
def test_fusions_that_make_no_sense(values):
    with pytest.raises(InputError, match="expected"):
        Fusion(**values)


@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 4))
def test_without_diversity_mmr_is_the_order_of_relevance(n, k, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 4)).astype(np.float32)
    relevance = rng.random(n)
    assert mmr(relevance, vectors, k, 0.0) == np.argsort(-relevance, kind="stable")[:k].tolist()


def test_with_diversity_a_copy_comes_after_what_differs():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    assert mmr([1.0, 0.9, 0.1], vectors, 3, 0.6) == [0, 2, 1]
    assert mmr([], np.zeros((0, 2), np.float32), 3, 0.5) == []


TEXT = " ".join(f"sentence {n} tells of {n * n} things" for n in range(30))


def near(a: bytes, b: bytes) -> bool:
    return signature_similarity(a, b) >= NEAR


def test_near_duplicates():
    other = " ".join(f"{n} other words are in line {n + 1}" for n in range(30))
    assert signature("") == signature(" .,") == b""
    assert near(signature(TEXT), signature(TEXT.upper() + " End."))
    assert near(signature("two words"), signature("two words"))
    assert not near(signature(TEXT), signature(other))
    assert not near(b"", b"")


def test_signatures_estimate_how_much_texts_share():
    words = [f"w{n}" for n in range(600)]
    for kept in (1.0, 0.9, 0.5, 0.0):
        changed = words[: int(600 * kept)] + [f"v{n}" for n in range(600 - int(600 * kept))]
        runs = [{tuple(text[n : n + 3]) for n in range(598)} for text in (words, changed)]
        share = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        a, b = (np.frombuffer(signature(" ".join(t)), "<u2") for t in (words, changed))
        assert abs(float((a == b).mean()) - share) < 0.15


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8), max_size=14))
def test_groups_are_the_connected_pairs(texts):
    signatures = {f"n{i:02}": signature(" ".join(text)) for i, text in enumerate(texts)}
    by_hand: list[set[str]] = [{name} for name in signatures]
    for a in signatures:
        for b in signatures:
            if a < b and near(signatures[a], signatures[b]):
                joined = [group for group in by_hand if a in group or b in group]
                by_hand = [group for group in by_hand if group not in joined]
                by_hand.append(set().union(*joined))
    assert near_duplicate_groups(signatures) == sorted(
        sorted(group) for group in by_hand if len(group) > 1
    )


@given(
    st.lists(st.dictionaries(st.integers(0, 9), st.floats(0.1, 2)), max_size=9),
    st.dictionaries(st.integers(0, 12), st.floats(0.1, 2)),
    st.integers(1, 5),
)
def test_postings_are_dot_products(rows, asked, k):
    ids = [f"d{n // 2}" for n in range(len(rows))]
    found = SparseIndex.build(ids, rows).search(asked, k)
    best: dict[str, float] = {}
    for name, row in zip(ids, rows, strict=True):
        score = sum(weight * asked.get(token, 0.0) for token, weight in row.items())
        if score > best.get(name, 0.0):
            best[name] = score
    top = sorted(best.values(), reverse=True)[:k]
    np.testing.assert_allclose([score for _, score in found], top, rtol=1e-5)
    assert all(best[name] == pytest.approx(score, rel=1e-5) for name, score in found)


# --- a whole search -------------------------------------------------------------------------------

TEXTS = {
    "cats": "A red cat eats grass in the green house. It sleeps. It runs after blue fish.",
    "dogs": "A blue dog sleeps by the river. The dog runs.",
    "law": "The tax law of the house of stone.",
    "long": "Nothing at all is said here. " * 12 + "The zebra drinks water. " + "No more. " * 15,
}


@pytest.fixture
def base(tmp_path):
    pytest.importorskip("lancedb")
    made = helpers.kb(tmp_path)
    metadata = [{"n": n, "lang": "en"} for n in range(len(TEXTS))]
    made.add(TEXTS.values(), TEXTS, titles=["Cats", "", "", ""], metadata=metadata)
    return made


def names(answer):
    return [hit.id for hit in answer.hits]


def test_a_hit_says_where_it_is_from_and_why(base):
    answer = base.search("which zebra drinks", 3)
    hit = answer.hits[0]
    assert hit.id == "long"
    assert "zebra drinks" in hit.passage.text
    assert TEXTS["long"][hit.passage.start : hit.passage.end] == hit.passage.text
    marked = {hit.passage.text[start:end] for start, end in hit.passage.marks}
    assert marked == {"zebra", "drinks"}
    assert hit.legs["lexical"].rank == 1
    assert set(hit.legs) == {"dense", "sparse", "lexical"}
    assert [one.rank for one in answer.hits] == [1, 2, 3]
    assert answer.candidates["dense"] == 4
    assert set(answer.seconds) == {"embed", "dense", "sparse", "lexical", "fetch", "all"}


def test_legs_and_weights_decide_who_counts(base):
    only = base.search("tax law", 4, legs=("lexical",))
    assert names(only) == ["law"]
    muted = base.search("tax law", 4, fusion=Fusion(weights={"dense": 0, "sparse": 0}))
    assert names(muted) == ["law"]
    assert set(muted.hits[0].legs) == {"lexical"}


def test_the_order_is_the_fusion_of_the_legs(base):
    asked = base.current.encode_query("blue dog runs in the house")
    legs = {
        "dense": base.store.dense(asked.vector, 9, None),
        "sparse": base.store.sparse(asked.sparse, 9, None),
        "lexical": base.store.lexical(asked.text, 9, None),
    }
    expected = [name for name, _ in fuse(legs, Fusion())]
    assert names(base.search("blue dog runs in the house", 9)) == expected


def test_filters_hold_on_every_leg(base):
    assert names(base.search("red cat", 9, where={"n": {"$gte": 2}, "lang": "en"})) != []
    found = base.search("red cat", 9, where={"n": {"$gte": 2}})
    assert set(names(found)) <= {"law", "long"}
    assert base.search("red cat", 9, where={"n": 77}).hits == ()


def test_a_filter_that_leaves_the_fast_search_short_is_done_exactly():
    class Lossy(MemoryStore):
        """Loses all but one document where it is not exact."""

        def dense(self, vector, k, where, *, exact=False):
            return super().dense(vector, k if exact else 1, where)

    store, rng = Lossy(), np.random.default_rng(0)
    store.put([helpers.document(f"d{n}", rng, metadata={"n": n}) for n in range(9)])
    asked = search.EncodedQuery("x", helpers.unit(rng.standard_normal(8)))
    where = parse_filter({"n": {"$lt": 5}})
    options = search.SearchOptions(k=3, where=where, legs=("dense",))
    answer = search.search(store, asked, options)
    assert answer.underfilled
    assert len(answer.hits) == 3
    unfiltered = search.search(store, asked, search.SearchOptions(legs=("dense",)))
    assert not unfiltered.underfilled


def test_near_duplicates_are_shown_once(tmp_path):
    base = helpers.kb(tmp_path)
    base.add([TEXT, TEXT + " End.", "Tax law."], ["a", "b", "c"])
    answer = base.search("sentence things", 5)
    assert len(answer.hits) == 2
    first = answer.hits[0]
    assert {first.id, *first.duplicates} == {"a", "b"}
    assert len(base.search("sentence things", 5, collapse=False).hits) == 3
    assert base.duplicates() == [["a", "b"]]


def test_a_reranker_has_the_last_word(base):
    reranker = FakeReranker.load("x")
    reranker.score = lambda asked, texts: np.array(
        [float("river" in text) for text in texts], np.float32
    )
    answer = base.search("tax law", 2, reranker=reranker)
    assert answer.hits[0].id == "dogs"
    assert [hit.rerank for hit in answer.hits] == [1.0, 0.0]
    assert "rerank" in answer.seconds


def test_diversity_keeps_the_best_and_all_ids_distinct(base):
    plain, diverse = base.search("red cat", 4), base.search("red cat", 4, diversity=0.5)
    assert names(plain)[0] == names(diverse)[0]
    assert sorted(names(plain)) == sorted(names(diverse))


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"diversity": 2}, {"legs": ("x",)}, {"legs": ()}, {"depth": 0}]
)
def test_options_that_make_no_sense(base, options):
    with pytest.raises(InputError, match="expected"):
        base.search("x", **options)


@pytest.mark.parametrize("text", ["", "  ", None])
def test_an_empty_question_is_an_error(base, text):
    with pytest.raises(InputError, match="the query is"):
        base.search(text)


def test_explanations_name_the_step(base, tmp_path):
    found = base.explain("zebra drinks", "long", k=2)
    assert found.lost_at is None
    assert [step.name for step in found.steps] == [
        *["parsed", "truncated", "embedded", "question", "exact dense"],
        *["dense", "sparse", "lexical", "fused", "answer"],
    ]
    assert base.explain("zebra", "nowhere").lost_at == "parsed"
    assert base.explain("zebra", "long", where={"n": 0}).lost_at == "filter"
    lost = base.explain("red cat grass house", "law", k=1)
    assert lost.lost_at == "fused"
    (tmp_path / "bad.json").write_text("broken")
    base.index([tmp_path / "bad.json"])
    step = base.explain("x", str(tmp_path / "bad.json")).steps[0]
    assert "gave no document: not JSON" in step.found


def test_an_approximate_search_that_loses_a_document_is_blamed(base, monkeypatch):
    original = base.store.dense

    def dense(vector, k, where, *, exact=False):
        found = original(vector, k, where, exact=exact)
        return found if exact else [one for one in found if one[0] != "law"]

    monkeypatch.setattr(base.store, "dense", dense)
    found = base.explain("river", "law", legs=("dense",))
    assert found.lost_at == "approximate index"


def test_status_tells_sizes_and_recall(base):
    found = base.status(sample=4)
    assert (found.model, found.health.documents) == ("fake", 4)
    assert found.health.windows > 4
    assert found.health.indexes == {"words": "FTS"}
    assert found.recall is not None
    assert found.recall.value == 1.0
    assert base.status(sample=0).recall is None


def test_a_document_longer_than_the_model_reads_has_windows_and_loses_nothing(base):
    (one,) = base.store.fetch(["long"]).values()
    assert len(one.windows) > 3
    assert not one.truncated
    covered = set()
    for window in one.windows:
        covered |= set(range(window.start, window.end))
    assert all(n in covered or one.text[n].isspace() for n in range(len(one.text)))


def test_sums_of_scores_take_more_candidates_than_ranks():
    weighted = Fusion("weighted", {"dense": 0.5, "lexical": 0.5})
    assert search.SearchOptions(fusion=Fusion("rrf")).candidates == 100
    assert search.SearchOptions().candidates == 200
    assert search.SearchOptions(fusion=weighted).candidates == 200
    assert search.SearchOptions(fusion=weighted, depth=7).candidates == 7
    with pytest.raises(InputError, match="k is 10, depth 0 and reranked 50: expected at least 1"):
        search.SearchOptions(depth=0)
