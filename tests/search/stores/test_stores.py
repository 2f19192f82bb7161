"""Every store, held against one in memory that loops over everything."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opengte.search.filters import And, Condition, Not, Or, matches, parse_conditions, parse_filter
from opengte.search.stores.base import SourceFile
from opengte.search.stores.lancedb import maintenance
from opengte.search.stores.listing import ListingStore, list_documents, summarize_documents
from opengte.search.stores.memory import MemoryStore
from tests.support import kb
from tests.support import stores as places
from tests.support.stores import STORES, WIDTH

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]
every_store = pytest.mark.parametrize("kind", STORES)


@pytest.fixture(params=STORES)
def stores(request, tmp_path):
    return forty(request.param, tmp_path)


@pytest.fixture(params=[kind for kind in STORES if kind != "qdrant-local"])
def searching_words(request, tmp_path):
    return forty(request.param, tmp_path)


def forty(kind, folder):
    """The same forty documents in both stores."""
    rng = np.random.default_rng(0)
    documents = [kb.document(f"d{n}", rng, windows=1 + n % 3) for n in range(40)]
    memory, made = MemoryStore(), places.made(kind, folder)
    for part in (documents[:25], documents[25:]):
        memory.put(part)
        made.put(part)
    assert made.optimize() == []
    return memory, made


def test_documents_come_back_as_they_were(stores):
    memory, made = stores
    names = [f"d{n}" for n in range(0, 40, 7)] + ["missing"]
    there, expected = made.fetch(names), memory.fetch(names)
    assert set(there) == set(expected)
    for name in expected:
        kb.same(there[name], expected[name])
    assert made.known(names) == memory.known(names)
    assert made.documents_of(["/files/d3", "/x"]) == {"/files/d3": ["d3"], "/x": []}
    assert [one.id for one in made.scan()] == [one.id for one in memory.scan()]
    (twin,) = made.with_content(["content of d5", "no such"]).values()
    kb.same(twin, expected["d5"] if "d5" in expected else memory.fetch(["d5"])["d5"])
    assert len({one.id for one in made.sample(5)}) == 5


def test_a_new_version_replaces_all_windows_of_the_old(stores):
    _, made = stores
    new = kb.document("d2", np.random.default_rng(9), windows=1)
    made.put([new])
    kb.same(made.fetch(["d2"])["d2"], new)
    assert made.count() == 40
    made.delete(["d2", "d3", "missing"])
    assert made.count() == 38
    assert made.fetch(["d2"]) == {}


FILTERS = [
    None,
    {"year": 2005},
    {"year": {"$gt": 2000}},
    {"year": {"$gte": 2005, "$lt": 2010}},
    {"year": "n/a"},
    {"lang": "it's"},
    {"lang": True},
    {"draft": True},
    {"draft": {"$ne": False}},
    {"lang": {"$in": ["de", "fr"]}},
    {"lang": {"$nin": ["de", 7]}},
    {"path": {"$starts": "/a"}},
    {"path": {"$contains": "%"}},
    {"$or": [{"year": 1999}, {"lang": "fr"}]},
    {"$not": {"lang": "fr"}},
    {"missing": 1},
    {"missing": {"$ne": 1}},
    {"lang": {"$lt": "e"}},
]


@pytest.mark.parametrize("where", FILTERS)
def test_searches_agree_with_the_oracle_under_every_filter(stores, where):
    memory, made = stores
    filter_ = parse_filter(where)
    rng = np.random.default_rng(1)
    assert made.count(filter_) == memory.count(filter_)
    for k in (1, 5, 60):
        question = kb.unit(rng.standard_normal(WIDTH))
        for exact in (False, True):
            agree(made.dense(question, k, filter_, exact=exact), memory.dense(question, k, filter_))
        sparse = {int(token): 1.5 for token in rng.choice(50, 6, replace=False)}
        agree(made.sparse(sparse, k, filter_), memory.sparse(sparse, k, filter_))


def agree(found, expected):
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose(
        [score for _, score in found], [score for _, score in expected], rtol=1e-5, atol=1e-6
    )


VALUES = st.one_of(
    st.sampled_from([1999, 2005, 2005.5, "de", "it's", "true", True, False, "n/a", "/a", ""]),
    st.integers(-5, 5),
)
CONDITIONS = st.builds(
    Condition,
    st.sampled_from(["year", "lang", "draft", "path", "o'dd"]),
    st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "starts", "contains"]),
    VALUES,
) | st.builds(
    Condition,
    st.sampled_from(["year", "lang"]),
    st.sampled_from(["in", "not in"]),
    st.lists(VALUES, max_size=3).map(tuple),
)
ANY_FILTER = st.recursive(
    CONDITIONS,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, max_size=3).map(tuple))
    ),
    max_leaves=5,
)


@given(filter_=ANY_FILTER)
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_filter_means_the_same_in_both(filter_, shared):
    memory, made = shared
    assert made.count(filter_) == memory.count(filter_)


@pytest.fixture(scope="module", params=STORES)
def shared(request, tmp_path_factory):
    rng = np.random.default_rng(3)
    documents = [kb.document(f"d{n}", rng) for n in range(30)]
    memory, made = MemoryStore(), places.made(request.param, tmp_path_factory.mktemp("shared"))
    memory.put(documents)
    made.put(documents)
    return memory, made


def test_words_are_found_in_rows_no_index_covers_yet(searching_words):
    memory, made = searching_words
    new = kb.document("new", np.random.default_rng(5), title="", text="a zebra grazes")
    made.put([new])
    assert [name for name, _ in made.lexical("zebras grazing", 5, None)] == ["new"]
    found = {name for name, _ in made.lexical("tax law", 100, None)}
    assert found == {name for name, _ in memory.lexical("tax law", 100, None)}
    filter_ = parse_filter({"lang": "de"})
    inside = {name for name, _ in made.lexical("tax law", 100, filter_)}
    assert inside == {
        name for name in found if matches(filter_, memory.fetch([name])[name].metadata)
    }


@pytest.mark.parametrize("text", ["", "  ", '"', "AND", "a:b (c)", "*", "\\", "日本", "'; drop"])
def test_no_query_is_syntax(searching_words, text):
    _, made = searching_words
    assert isinstance(made.lexical(text, 5, None), list)


def test_files_are_remembered(stores):
    _, made = stores
    skipped = (("", "no text"), ("row", "no text"))
    sources = [SourceFile(f"/f{n}", "digest", n, ("bad",), ("odd",), skipped) for n in range(3)]
    made.put_sources(sources)
    made.put_sources([SourceFile("/f1", "new", 9)])
    made.delete_sources(["/f2", "/missing"])
    assert sorted(made.sources(), key=lambda one: one.id) == [
        sources[0],
        SourceFile("/f1", "new", 9),
    ]


@pytest.mark.parametrize(
    "value",
    [
        '["digest", 2, ["bad"], ["odd"]]',
        '{"digest": "digest", "documents": 2, "problems": ["bad"], "warnings": ["odd"]}',
    ],
)
def test_files_that_earlier_versions_remembered_are_read(value):
    assert SourceFile.from_json("/f", value) == SourceFile("/f", "digest", 2, ("bad",), ("odd",))


@pytest.mark.parametrize("kind", ["lance", "postgres"])
def test_two_openers_see_each_others_commits(kind, tmp_path):
    place = places.new_place(kind, tmp_path)
    first, second = places.opened(place), places.opened(place)
    assert first.settings() is None
    first.save_settings({"dimension": WIDTH, "first_pass": None, "language": "English"})
    assert second.settings() == first.settings()
    rng = np.random.default_rng(0)
    for n in range(3):
        (first if n % 2 else second).put([kb.document(f"d{n}", rng)])
        assert first.count() == second.count() == n + 1


def test_approximate_search_finds_nearly_all_that_the_exact_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(maintenance, "INDEX_FROM", 300)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, WIDTH))
    store = places.made("lance", tmp_path)
    documents = []
    for n in range(600):
        one = kb.document(f"d{n}", rng)
        vector = kb.unit(centres[n % 12] + 0.3 * rng.standard_normal(WIDTH))
        (window,) = one.windows
        object.__setattr__(window, "vector", vector)
        documents.append(one)
    store.put(documents)
    assert store.optimize() == []
    assert store.health().unindexed["vectors"] == 0
    shares = []
    for n in range(20):
        question = kb.unit(centres[n % 12] + 0.3 * rng.standard_normal(WIDTH))
        true = {name for name, _ in store.dense(question, 10, None, exact=True)}
        shares.append(len(true & {name for name, _ in store.dense(question, 10, None)}) / 10)
    assert np.mean(shares) >= 0.95


@every_store
def test_a_first_pass_over_few_dimensions_is_scored_by_all(kind, tmp_path):
    rng = np.random.default_rng(0)
    store, memory = places.made(kind, tmp_path, first_pass=4), MemoryStore()
    documents = [kb.document(f"d{n}", rng, windows=1 + n % 2) for n in range(12)]
    store.put(documents)
    memory.put(documents)
    question = kb.unit(rng.standard_normal(WIDTH))
    agree(store.dense(question, 3, None), memory.dense(question, 12, None)[:3])


def test_outlines_and_portraits_are_those_of_the_whole_documents(stores):
    memory, made = stores
    names = [f"d{n}" for n in range(0, 40, 7)] + ["missing"]
    for where in (None, parse_filter({"lang": "de"}), parse_filter({"year": {"$gte": 2000}})):
        for ids in (None, names):
            found = {one.id: one for one in list_documents(made, where, ids)}
            assert found == {one.id: one for one in list_documents(memory, where, ids)}
    expected = {one.id: one for one in summarize_documents(memory, names)}
    found = {one.id: one for one in summarize_documents(made, names)}
    assert found.keys() == expected.keys()
    for name, one in found.items():
        np.testing.assert_allclose(one.vector, expected[name].vector, atol=1e-6)
        assert (one.metadata, one.head) == (expected[name].metadata, expected[name].head)
    assert isinstance(made, ListingStore)
    before = made.revision()
    made.delete(["d1"])
    assert made.revision() != before


@pytest.mark.parametrize("kind", ["postgres", "qdrant-edge"])
def test_words_without_stemming_have_the_scores_of_bm25(kind, tmp_path):
    rng = np.random.default_rng(4)
    store, memory = places.made(kind, tmp_path, language=None), MemoryStore()
    documents = [kb.document(f"d{n}", rng) for n in range(30)]
    store.put(documents)
    memory.put(documents)
    for query in ("cat", "red cat law", "nothing here", "stone"):
        for where in (None, parse_filter({"lang": "de"})):
            agree(store.lexical(query, 40, where), memory.lexical(query, 40, where))
    if kind == "qdrant-edge":
        return  # counts a word of the question once, and removed documents until `optimize`
    for part in (documents[:10], documents[20:]):
        store.put(part)
        memory.put(part)
    store.delete(["d3", "d4", "none"])
    memory.delete(["d3", "d4"])
    agree(store.lexical("red cat cat", 40, None), memory.lexical("red cat cat", 40, None))


def test_conditions_on_the_command_line():
    assert parse_conditions([]) is None
    assert parse_conditions(["year>=2020"]) == Condition("year", ">=", 2020)
    assert parse_conditions(["lang=de|fr", "path^/a b"]) == And(
        (Condition("lang", "in", ("de", "fr")), Condition("path", "starts", "/a b"))
    )
    assert parse_conditions(["draft=true"]) == Condition("draft", "=", True)
    assert parse_conditions(["code='007'"]) == Condition("code", "=", "007")
    assert parse_conditions(["a!=1.5"]) == Condition("a", "!=", 1.5)


@pytest.mark.parametrize("text", ["year", "=3", "", "a b=c"])
def test_a_condition_that_is_none_is_an_error(text):
    from opengte.errors import InputError

    with pytest.raises(InputError, match="expected FIELD SIGN VALUE"):
        parse_conditions([text])


@pytest.mark.parametrize(
    "where", [{"$nor": []}, {"a": {"$exists": 1}}, {"a": None}, {"a": [1]}, {"$or": 3}, "text"]
)
def test_a_filter_that_is_none_is_an_error(where):
    from opengte.errors import InputError

    with pytest.raises(InputError):
        parse_filter(where)
