"""Row-level access: nothing of a hidden document comes out of any store method, route or key."""

import inspect
import json
import sqlite3
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from opengte.apps import kb_server
from opengte.errors import AccessError, InputError
from opengte.search.access import LimitedStore
from opengte.search.analysis.facets import FacetIndex
from opengte.search.filters import all_of, matches, parse_conditions, parse_filter
from opengte.search.stores.base import Store
from opengte.search.stores.memory import MemoryStore
from opengte.search.web.app import Grant
from opengte.serve.auth import keys
from opengte.serve.auth.authorizer import KeyAuthorizer
from opengte.serve.auth.keys import KeyFile, KeyRing, RateLimits
from opengte.serve.auth.rate_limits import RateLimiter, rate_limit_memory
from opengte.serve.config.settings import ServerSettings
from tests.support import kb as helpers
from tests.support import kb_web
from tests.support.installed import needs

needs("lancedb")
ACME = Grant(parse_filter({"tenant": "acme"}))
FILTERS = [
    {"tenant": "zeta"},
    {"tenant": {"$ne": "acme"}},
    {"$or": [{"tenant": "zeta"}, {"year": {"$gte": 0}}]},
    {"$not": {"tenant": "acme"}},
    {"tenant": {"$in": ["acme", "zeta"]}},
    {"topic": {"$starts": "zeta"}},
    {},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return kb_web.made(tmp_path_factory.mktemp("access"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A knowledge base in which the other tenant never was."""
    return kb_web.made(tmp_path_factory.mktemp("alone"), tenants=("acme",))


@pytest.fixture
def client(base):
    with TestClient(kb_web.app(kb_web.desk(base), visitor=ACME)) as one:
        yield one


# --- the store -------------------------------------------------------------------------------


def test_every_method_of_a_store_is_limited_or_refused():
    def public(kind):
        return {name for name, _ in inspect.getmembers(kind, callable) if name[0] != "_"}

    assert public(Store) <= public(LimitedStore)


def filters():
    values = st.sampled_from([1999, 2005, 2024, "n/a", "de", "fr", "true", True, False, "/a", 1])
    one = st.builds(
        lambda field, sign, value: {field: {sign: [value] if sign in ("$in", "$nin") else value}},
        st.sampled_from(["year", "lang", "draft", "path"]),
        st.sampled_from("$eq $ne $lt $gte $in $nin $starts $contains".split()),
        values,
    )
    return st.recursive(
        one,
        lambda inner: st.one_of(
            st.builds(lambda a, b: {"$or": [a, b]}, inner, inner),
            st.builds(lambda a: {"$not": a}, inner),
        ),
        max_leaves=4,
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    from opengte.search.stores.lancedb.store import LanceStore

    rng = np.random.default_rng(3)
    documents = [helpers.document(f"d{n}", rng, windows=1 + n % 2) for n in range(30)]
    lance = LanceStore(str(tmp_path_factory.mktemp("lance") / "lance"))
    lance.save_settings({"dimension": 8, "first_pass": None, "language": "English"})
    loops = MemoryStore()
    lance.put(documents)
    loops.put(documents)
    return {"lance": lance, "memory": loops}, documents


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(allowed=filters(), asked=filters(), name=st.sampled_from(["lance", "memory"]))
def test_a_limited_store_is_a_store_of_the_documents_that_fit(stores, allowed, asked, name):
    made, documents = stores
    oracle = MemoryStore()
    oracle.put([one for one in documents if matches(parse_filter(allowed), one.metadata)])
    store = LimitedStore(made[name], parse_filter(allowed))
    names = [one.id for one in documents] + ["missing"]
    query = helpers.unit(np.random.default_rng(1).standard_normal(8))
    sparse = documents[0].windows[0].sparse
    for where in (None, parse_filter(asked)):
        assert store.count(where) == oracle.count(where)
        found, expected = store.dense(query, 40, where, exact=True), oracle.dense(query, 40, where)
        assert [one for one, _ in found] == [one for one, _ in expected]
        found, expected = store.sparse(sparse, 40, where), oracle.sparse(sparse, 40, where)
        assert sorted(one for one, _ in found) == sorted(one for one, _ in expected)
        found = {one for one, _ in store.lexical("cat dog tax", 40, where)}
        if name == "memory":  # whose words are those of the oracle
            assert found == {one for one, _ in oracle.lexical("cat dog tax", 40, where)}
        assert found <= set(oracle.fetch(names))
        assert sorted(one.id for one in store.outline(where)) == sorted(
            one.id for one in oracle.scan() if matches(where, one.metadata)
        )
    there = sorted(oracle.fetch(names))
    assert sorted(store.fetch(names)) == there
    assert sorted(store.known(names)) == there
    assert sorted(one.id for one in store.scan()) == there
    assert sorted(one.id for one in store.portraits(names)) == there
    assert {one.id for one in store.sample(100)} == set(there)
    assert store.health().documents == len(there)
    assert store.documents_of(["/files/d3"])["/files/d3"] == [n for n in there if n == "d3"]
    assert [one.id for one in store.with_content(["content of d4"]).values()] == [
        n for n in there if n == "d4"
    ]


def test_a_limited_store_is_not_written(base):
    store = kb_web.only(base, "acme").store
    for write in (
        lambda: store.put([]),
        lambda: store.delete(["acme/1"]),
        lambda: store.put_sources([]),
        lambda: store.delete_sources([]),
        lambda: store.save_settings({}),
        lambda: store.optimize(),
    ):
        with pytest.raises(AccessError, match="can only be read"):
            write()
    assert base.store.count() == 26


def test_no_filter_is_no_limit(base):
    assert base.limited(None) is base
    assert all_of(None, None) is None


def test_the_model_is_loaded_once_for_all(base):
    assert kb_web.only(base, "acme").encoder is base.encoder


# --- the routes ------------------------------------------------------------------------------


def clean(answer):
    """Assert that an answer tells nothing of the other tenant."""
    text = answer.text.lower()
    for word in kb_web.HIDDEN:
        assert word not in text.replace(str(answer.request.url).lower(), ""), word
    return answer


@pytest.mark.parametrize("where", FILTERS, ids=str)
@pytest.mark.parametrize("legs", [None, ["dense"], ["sparse"], ["lexical"]], ids=str)
def test_no_search_finds_hidden_documents(client, legs, where):
    body = {"query": "fish cat tax stone", "k": 100, "where": where, "legs": legs}
    for more in ({}, {"exact": True}, {"diversity": 0.5}, {"fusion": "weighted"}):
        answer = clean(client.post("/search", json=body | more))
        assert answer.status_code == 200
        for hit in answer.json()["hits"]:
            assert hit["metadata"]["tenant"] == "acme"


def test_a_word_that_only_hidden_documents_have_finds_no_more_than_one_of_none(client):
    found = [
        client.post("/search", json={"query": word, "legs": ["lexical"], "k": 100}).json()
        for word in (kb_web.SECRET, "nosuchwordatall")
    ]
    assert found[0]["hits"] == found[1]["hits"] == []
    assert found[0]["candidates"] == found[1]["candidates"]


def test_scores_of_words_are_not_told_to_those_who_see_a_part(client, base):
    hits = client.post("/search", json={"query": "tax law"}).json()["hits"]
    assert all(hit["score"] is None for hit in hits)
    words = [hit["legs"]["lexical"] for hit in hits if hit["legs"].get("lexical")]
    assert words and all(one["score"] is None for one in words)
    # places among what the asker may see
    assert sorted(one["rank"] for one in words) == [*range(1, len(words) + 1)]
    with TestClient(kb_web.app(kb_web.desk(base))) as all_of_it:
        hit = all_of_it.post("/search", json={"query": "tax law"}).json()["hits"][0]
    assert hit["legs"]["lexical"]["score"] > 0


def test_near_copies_that_are_hidden_are_not_named(client, base):
    body = {"query": "river stone 1 2 3", "k": 100}
    hits = clean(client.post("/search", json=body)).json()["hits"]
    (hit,) = [hit for hit in hits if hit["id"] == "acme/long"]
    assert hit["duplicates"] == []
    with TestClient(kb_web.app(kb_web.desk(base))) as all_of_it:
        hits = all_of_it.post("/search", json=body).json()["hits"]
    assert ["zeta/copy"] in [hit["duplicates"] for hit in hits] or ["acme/long"] in [
        hit["duplicates"] for hit in hits
    ]


def test_a_reranker_reads_nothing_hidden(base):
    reranker = kb_web.CountingReranker()
    with TestClient(kb_web.app(kb_web.desk(base, reranker=reranker), visitor=ACME)) as one:
        answer = clean(one.post("/search", json={"query": "fish tax", "rerank": True}))
    assert answer.json()["hits"][0]["rerank"] is not None
    assert reranker.read
    assert not any(kb_web.SECRET in text for text in reranker.read)


@pytest.mark.parametrize("path", ["/document", "/near"])
def test_a_hidden_document_is_missing_like_any_other(client, base, path):
    hidden = client.post(path, json={"id": "zeta/1"})
    missing = client.post(path, json={"id": "nono/1"})
    assert hidden.status_code == missing.status_code == 404
    assert hidden.text.replace("zeta", "nono") == missing.text
    assert hidden.headers.items() == missing.headers.items()
    with TestClient(kb_web.app(kb_web.desk(base))) as all_of_it:
        assert all_of_it.post(path, json={"id": "zeta/1"}).status_code == 200


def test_nothing_of_a_hidden_document_is_read(base, monkeypatch):
    read = []
    fetch = type(base.store).fetch
    monkeypatch.setattr(
        type(base.store), "fetch", lambda self, ids: read.append(list(ids)) or fetch(self, ids)
    )
    seen = kb_web.only(base, "acme").store
    assert seen.fetch(["zeta/1", "nono/1"]) == {}
    assert set(seen.fetch(["zeta/1", "acme/1"])) == {"acme/1"}
    assert read == [["acme/1"]]


@pytest.mark.parametrize("where", FILTERS, ids=str)
def test_neighbours_are_those_of_a_collection_without_the_hidden(client, alone, where):
    body = {"id": "acme/1", "k": 100, "where": where}
    found = clean(client.post("/near", json=body)).json()
    with TestClient(kb_web.app(kb_web.desk(alone))) as other:
        assert found == other.post("/near", json=body).json()


@pytest.mark.parametrize("path", ["/map", "/facets"])
@pytest.mark.parametrize("where", FILTERS, ids=str)
def test_map_and_facets_are_those_of_a_collection_without_the_hidden(client, alone, path, where):
    found = clean(client.post(path, json={"where": where})).json()
    with TestClient(kb_web.app(kb_web.desk(alone))) as other:
        assert found == other.post(path, json={"where": where}).json()


def test_the_status_counts_what_is_seen(client, base):
    assert clean(client.get("/status")).json()["knowledge_bases"][0]["documents"] == 13
    with TestClient(kb_web.app(kb_web.desk(base))) as one:
        assert one.get("/status").json()["knowledge_bases"][0]["documents"] == 26


def test_what_was_made_for_one_visitor_is_not_shown_to_another(base):
    now = {"visitor": Grant()}
    site = kb_web.app(kb_web.desk(base), guard=lambda request, name: now["visitor"])
    with TestClient(site) as one:
        for where, count in (
            (None, 26),
            ({"tenant": "acme"}, 13),
            ({"tenant": "zeta"}, 13),
            ({"draft": True}, 2),
            ({"draft": 1}, 0),  # is not the same, though 1 == True
            ({"tenant": "nobody"}, 0),
            (None, 26),
        ):
            now["visitor"] = Grant(parse_filter(where))
            assert len(one.post("/map", json={}).json()["ids"]) == count
            assert one.post("/facets", json={}).json()["counted"] == count


def test_a_document_that_moves_to_another_tenant_is_gone_at_once(tmp_path):
    base = kb_web.made(tmp_path, count=3)
    with TestClient(kb_web.app(kb_web.desk(base), visitor=ACME)) as one:
        assert "acme/2" in one.post("/map", json={}).json()["ids"]
        base.add(["tax law moved"], ["acme/2"], metadata=[{"tenant": "zeta"}])
        assert "acme/2" not in one.post("/map", json={}).text
        assert one.post("/document", json={"id": "acme/2"}).status_code == 404
        assert one.post("/facets", json={}).json()["counted"] == 3


def test_a_catalogue_of_a_part_knows_no_other_values(base):
    seen = FacetIndex.of(kb_web.only(base, "acme").store)
    assert seen.columns["tenant"].values == ["acme"]
    assert all(name.startswith("acme/") for name in seen.ids)


def test_the_filters_of_server_and_visitor_both_hold(base):
    limits = Grant(parse_filter({"year": {"$gte": 2005}}))
    with TestClient(kb_web.app(kb_web.desk(base, {"tenant": "acme"}), visitor=limits)) as one:
        ids = one.post("/map", json={}).json()["ids"]
    assert ids == sorted(f"acme/{n}" for n in range(5, 12))


def test_a_knowledge_base_that_a_key_may_not_see(base):
    def guard(request, name):
        if name != "open":
            raise AccessError("not for this key", authenticated=True)
        return Grant()

    desks = [kb_web.desk(base, name="secret"), kb_web.desk(base, name="open")]
    with TestClient(kb_web.app(*desks, guard=guard)) as one:
        bases = one.get("/status").json()["knowledge_bases"]
        assert [each["name"] for each in bases] == ["open"]
        for name in ("secret", "missing", None):
            answer = one.post("/search", json={"query": "x", "kb": name})
            assert (answer.status_code, answer.json()["error"]["message"]) == (
                403,
                "not for this key",
            )
        assert one.post("/search", json={"query": "x", "kb": "open"}).status_code == 200


# --- keys ------------------------------------------------------------------------------------


@pytest.fixture
def guarded(base, tmp_path, monkeypatch):
    """The routes behind the keys of a folder."""
    monkeypatch.setattr(keys, "REFRESH_SECONDS", -1.0)
    gate = KeyAuthorizer(KeyRing(tmp_path), RateLimiter(rate_limit_memory()))
    parts = SimpleNamespace(authorizer=gate, settings=ServerSettings(insecure=True))
    with TestClient(kb_web.app(kb_web.desk(base), guard=kb_server.key_authorizer(parts))) as one:
        yield one, KeyFile(tmp_path)
    gate.keys.close()


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


def tenants(client, secret):
    body = {"query": "cat tax stone", "k": 100}
    answer = client.post("/search", json=body, headers=bearer(secret))
    assert answer.status_code == 200, answer.text
    return {hit["metadata"]["tenant"] for hit in answer.json()["hits"]}


def test_a_key_sees_what_fits_its_conditions(guarded):
    client, file = guarded
    assert client.post("/search", json={"query": "cat"}).status_code == 200  # no keys yet
    _, acme = file.create("acme", where=("tenant=acme",))
    _, late = file.create("late", where=("tenant=acme|zeta", "year>=2011"))
    _, everything = file.create("admin")
    assert client.post("/search", json={"query": "cat"}).status_code == 401
    assert client.get("/status").status_code == 401
    assert client.post("/map", headers=bearer("wrong"), json={}).status_code == 401
    assert tenants(client, acme) == {"acme"}
    assert tenants(client, everything) == {"acme", "zeta"}
    found = client.post("/map", headers=bearer(late), json={}).json()["ids"]
    assert found == ["acme/11", "zeta/11"]
    file.revoke("acme")
    assert client.post("/map", headers=bearer(acme), json={}).status_code == 401


def test_conditions_outlive_a_rotation_and_are_listed(guarded):
    client, file = guarded
    key, _ = file.create("acme", where=("tenant=acme",))
    _, secret = file.rotate("acme")
    assert tenants(client, secret) == {"acme"}
    assert file.find(key.id).where == ("tenant=acme",)


def test_a_key_whose_conditions_cannot_be_read_sees_nothing(guarded):
    client, file = guarded
    key, secret = file.create("acme", where=("tenant=acme",))
    with sqlite3.connect(file.path) as database:
        database.execute("UPDATE keys SET documents = ?", (json.dumps(["tenant"]),))
    database.close()
    answer = client.post("/search", json={"query": "cat"}, headers=bearer(secret))
    assert answer.status_code == 403
    assert key.id in answer.json()["error"]["message"]


def test_a_key_for_some_models_sees_only_the_knowledge_bases_it_names(guarded):
    client, file = guarded
    _, without = file.create("a", models=("minilm",))
    _, with_it = file.create("b", models=("minilm", "kb"), where=("tenant=zeta",))
    assert client.post("/map", json={}, headers=bearer(without)).status_code == 403
    assert client.get("/status", headers=bearer(without)).status_code == 403
    assert tenants(client, with_it) == {"zeta"}


def test_limits_of_a_key_hold_for_searches(guarded):
    client, file = guarded
    _, secret = file.create("slow", limits=RateLimits(tokens_per_minute=8))
    answers = [
        client.post("/search", json={"query": "cat dog fish"}, headers=bearer(secret))
        for _ in range(3)
    ]
    assert [one.status_code for one in answers] == [200, 429, 429]
    assert int(answers[1].headers["retry-after"]) > 0


def test_a_file_of_keys_from_before_conditions_still_works(tmp_path):
    old = keys.SCHEMA.split(",\n    documents TEXT")[0] + "\n)"
    assert "documents TEXT" not in old
    with sqlite3.connect(tmp_path / "keys.db") as database:
        database.execute(old)
        database.execute(
            "INSERT INTO keys (id, name, hash, created) VALUES ('abcdefgh', 'old', x'00', 0)"
        )
    database.close()
    file = KeyFile(tmp_path)
    assert file.find("old").where == ()
    file.create("new", where=("tenant=acme",))
    assert [key.where for key in file.list()] == [(), ("tenant=acme",)]


def test_the_command_refuses_a_condition_that_is_none(tmp_path):
    from click.testing import CliRunner

    from opengte.cli import main

    run = CliRunner().invoke
    made = ["keys", "create", "acme", "--state-dir", str(tmp_path), "--json", "--where"]
    failed = run(main, [*made, "tenant"])
    assert failed.exit_code != 0
    assert isinstance(failed.exception, InputError | SystemExit)
    assert KeyFile(tmp_path).list() == []
    done = run(main, [*made, "tenant=acme", "--where", "year>=2020"])
    assert json.loads(done.stdout)["where"] == ["tenant=acme", "year>=2020"]
    listed = run(main, ["keys", "list", "--state-dir", str(tmp_path)])
    assert "tenant=acme, year>=2020" in listed.output
    assert parse_conditions(KeyFile(tmp_path).find("acme").where) is not None
