"""The routes of the search page: what they answer and refuse, and what the page is made of."""

import re
import subprocess
import sys
import threading
from dataclasses import replace
from importlib import resources
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from opengte.apps import kb_server
from opengte.cli import main
from opengte.errors import InputError
from opengte.search.analysis.facets import FacetIndex
from opengte.search.analysis.map import draw_map
from opengte.search.analysis.tsne import (
    affinities,
    nearest_neighbours,
    principal,
    project,
    repulsion,
    repulsion_exact,
)
from opengte.search.filters import matches, parse_filter
from opengte.search.stores.listing import (
    DocumentHeader,
    list_documents,
    sample_by_id,
    summarize_documents,
)
from opengte.search.stores.memory import MemoryStore
from opengte.search.web import app as web
from opengte.search.web import openapi
from opengte.search.web import service as desks
from opengte.search.web.app import Grant, SearchSite, build_app
from opengte.serve.auth.keys import KeyFile
from opengte.serve.config.settings import ServerSettings
from opengte.serve.runtime.background import background
from tests.support import kb as helpers
from tests.support import kb_web
from tests.support.installed import needs
from tests.support.serve_process import server

needs("lancedb")
PAGE = resources.files("opengte.search.web").joinpath("page")
FILES = sorted(file.name for file in PAGE.iterdir())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return kb_web.made(tmp_path_factory.mktemp("web"))


@pytest.fixture
def client(base):
    with TestClient(kb_web.app(kb_web.desk(base))) as one:
        yield one


# --- answers ---------------------------------------------------------------------------------


def test_a_search_is_the_librarys(client, base):
    body = {
        "query": "tax law court",
        "k": 5,
        "where": {"year": {"$gte": 2003}},
        "weights": {"sparse": 0.5},
    }
    found = client.post("/search", json=body).json()
    from opengte.search.retrieval.fusion import Fusion

    wanted = base.search(
        "tax law court", 5, where=body["where"], fusion=Fusion(weights={"sparse": 0.5})
    )
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in wanted.hits]
    for hit, expected in zip(found["hits"], wanted.hits, strict=True):
        assert hit["rank"] == expected.rank
        assert hit["score"] == pytest.approx(expected.score)
        assert hit["title"] == expected.title
        assert [hit["title"][a:b] for a, b in hit["title_marks"]] == [
            word for word in hit["title"].split() if word in ("tax", "law", "court")
        ]
        assert hit["metadata"] == dict(expected.metadata)
        assert hit["passage"]["text"] == expected.passage.text
        assert hit["passage"]["marks"] == [list(mark) for mark in expected.passage.marks]
        assert {name: leg["rank"] for name, leg in hit["legs"].items()} == {
            name: leg.rank for name, leg in expected.legs.items()
        }
        assert "confidence" not in hit
    assert found["candidates"] == dict(wanted.candidates)
    assert found["milliseconds"]["all"] > 0


def test_confidence_is_told_where_there_is_some(client, base, monkeypatch):
    search = type(base).search

    def sure(self, *values, **options):
        answer = search(self, *values, **options)
        hits = tuple(replace(hit, confidence=0.5) for hit in answer.hits)
        return replace(answer, hits=hits, confidence=0.25)

    monkeypatch.setattr(type(base), "search", sure)
    found = client.post("/search", json={"query": "tax"}).json()
    assert found["confidence"] == 0.25
    assert found["hits"][0]["confidence"] == 0.5


def test_a_reranker_orders_where_it_is_asked_to(base):
    reranker = kb_web.CountingReranker()
    with TestClient(kb_web.app(kb_web.desk(base, reranker=reranker))) as one:
        plain = one.post("/search", json={"query": "zeta tax"}).json()["hits"]
        assert plain[0]["rerank"] is None and not reranker.read
        hits = one.post("/search", json={"query": "zeta tax", "rerank": True}).json()["hits"]
        assert [hit["rerank"] for hit in hits] == sorted((h["rerank"] for h in hits), reverse=True)
        assert one.get("/status").json()["knowledge_bases"][0]["reranker"] is True


def test_a_document_and_its_passage(client, base):
    one = client.post("/document", json={"id": "acme/1", "query": "tax law"}).json()
    stored = base.store.fetch(["acme/1"])["acme/1"]
    assert (one["title"], one["text"], one["start"]) == (stored.title, stored.text, 0)
    assert one["characters"] == len(stored.text)
    assert one["metadata"] == dict(stored.metadata)
    words = [stored.text[a:b].lower() for a, b in one["marks"]]
    assert set(words) == {"tax", "law"}
    passage = one["passage"]
    assert 0 <= passage["start"] < passage["end"] <= len(stored.text)
    assert client.post("/document", json={"id": "acme/1"}).json()["passage"] is None


def test_a_long_document_comes_in_parts(base, monkeypatch):
    monkeypatch.setattr(desks, "DOCUMENT_CHARACTERS", 100)
    text = base.store.fetch(["acme/long"])["acme/long"].text
    with TestClient(kb_web.app(kb_web.desk(base))) as one:
        seen, at = "", 0
        while at < len(text):
            part = one.post("/document", json={"id": "acme/long", "at": at}).json()
            assert part["start"] <= at < part["start"] + len(part["text"])
            assert part["text"] == text[part["start"] : part["start"] + 100]
            seen += part["text"][at - part["start"] :]
            at = part["start"] + len(part["text"])
        assert seen == text
        last = one.post("/document", json={"id": "acme/long", "at": 10**9}).json()
        assert last["start"] + len(last["text"]) == len(text)
        found = one.post("/document", json={"id": "acme/long", "query": "39 stone"}).json()
        assert found["start"] <= found["passage"]["start"] < found["start"] + 100


def test_files_that_are_not_indexed_are_listed_by_reason(base, tmp_path):
    for name in ("a.jpg", "b.jpg", "broken.json"):
        (tmp_path / name).write_text("broken")
    base.index([tmp_path / name for name in ("broken.json",)])
    (tmp_path / "folder").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).rename(tmp_path / "folder" / name)
    base.index([tmp_path / "folder"])
    with TestClient(kb_web.app(kb_web.desk(base))) as one:
        failed, skipped = one.post("/problems", json={}).json()["groups"]
    assert (failed["kind"], failed["files"]) == ("failed", 1)
    places = [f"{tmp_path.name}/folder/{name}" for name in ("a.jpg", "b.jpg")]
    assert skipped == {
        "kind": "skipped",
        "reason": "unknown format (.jpg)",
        "files": 2,
        "places": places,
    }
    with TestClient(kb_web.app(kb_web.desk(base, where={"tenant": "acme"}))) as one:
        assert one.post("/problems", json={}).json()["groups"] == []


def test_documents_near_one(client, base):
    found = client.post("/near", json={"id": "acme/0", "k": 4}).json()
    vectors = {
        one.id: one.vector
        for one in summarize_documents(base.store, [o.id for o in list_documents(base.store)])
    }
    order = sorted(vectors, key=lambda name: (-float(vectors[name] @ vectors["acme/0"]), name))
    single = [name for name in order if name not in ("acme/0", "acme/long", "zeta/copy")]
    assert [hit["id"] for hit in found["hits"] if hit["id"] in single][:3] == single[:3]
    assert "acme/0" not in [hit["id"] for hit in found["hits"]]
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3, 4]
    values = [hit["similarity"] for hit in found["hits"]]
    assert values == sorted(values, reverse=True)


def test_ids_with_odd_characters(tmp_path):
    base = helpers.kb(tmp_path)
    name = "caf\u00e9 \u2028\n'\"\\ \U0001f600 $where"
    base.store.put([helpers.document(name, np.random.default_rng(0), metadata={"path": name})])
    with TestClient(kb_web.app(kb_web.desk(base))) as one:
        (found,) = one.post("/map", json={}).json()["ids"]
        assert one.post("/document", json={"id": found}).json()["metadata"]["path"] == name
        assert one.post("/near", json={"id": found}).json()["hits"] == []


def test_the_status(client, base):
    found = client.get("/status").json()
    (one,) = found["knowledge_bases"]
    assert one["name"] == "kb"
    assert one["documents"] == 26
    assert one["legs"] == ["dense", "sparse", "lexical"]
    assert one["reranker"] is False


@pytest.mark.parametrize(
    ("given", "told"),
    [("minilm", "minilm"), ("a/b", "a/b"), ("/home/me/model/", "model"), ("./x", "x")],
)
def test_folders_of_models_are_not_told(given, told):
    assert desks.public_name(given) == told


def test_several_knowledge_bases(base, tmp_path):
    other = kb_web.made(tmp_path, "other", tenants=("acme",), count=3)
    with TestClient(kb_web.app(kb_web.desk(base, name="a"), kb_web.desk(other, name="b"))) as one:
        assert [each["name"] for each in one.get("/status").json()["knowledge_bases"]] == ["a", "b"]
        counts = [
            len(one.post("/map", json={"kb": name}).json()["ids"]) for name in ("a", "b", None)
        ]
        assert counts == [26, 4, 26]
        assert one.post("/map", json={"kb": "c"}).status_code == 404
    with pytest.raises(InputError, match="two knowledge bases are called `a`"):
        SearchSite([kb_web.desk(base, name="a")] * 2, lambda request, name: Grant())


def test_an_index_that_is_switched_is_noticed(base, tmp_path, monkeypatch):
    other = kb_web.made(tmp_path, "other", tenants=("acme",), count=3)
    monkeypatch.setattr(desks, "REFRESH_SECONDS", -1.0)
    with TestClient(kb_web.app(kb_web.desk(base))) as one:
        assert one.get("/status").json()["knowledge_bases"][0]["documents"] == 26
        monkeypatch.setattr(base, "latest", other.latest)
        assert one.get("/status").json()["knowledge_bases"][0]["documents"] == 4
        assert len(one.post("/map", json={}).json()["ids"]) == 4


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/search", {}, "query is missing"),
        ("/search", {"query": " "}, "query is ' '"),
        ("/search", {"query": "x" * 8001}, "1 to 8000 characters"),
        ("/search", {"query": 3}, "query is 3"),
        ("/search", {"query": "x", "k": 0}, "k is 0"),
        ("/search", {"query": "x", "k": 101}, "k is 101"),
        ("/search", {"query": "x", "k": True}, "k is True"),
        ("/search", {"query": "x", "where": []}, "where is []"),
        ("/search", {"query": "x", "where": {"a": {"$near": 1}}}, "'$near'"),
        ("/search", {"query": "x", "where": {"$where": 1}}, "'$where'"),
        ("/search", {"query": "x", "legs": []}, "legs are ()"),
        ("/search", {"query": "x", "legs": ["best"]}, "legs are"),
        ("/search", {"query": "x", "fusion": "sum"}, "fusion method is 'sum'"),
        ("/search", {"query": "x", "weights": {"dense": "a"}}, "weights.dense is 'a'"),
        ("/search", {"query": "x", "weights": {"dense": -1}}, "the weight of `dense`"),
        ("/search", {"query": "x", "diversity": 2}, "diversity is 2"),
        ("/search", {"query": "x", "exact": 1}, "exact is 1"),
        ("/search", {"query": "x", "rerank": True}, "there is no reranker"),
        ("/search", {"query": "x", "tenant": "zeta"}, "there is no field 'tenant'"),
        ("/document", {"query": "x"}, "id is missing"),
        ("/document", {"id": "acme/1", "at": -1}, "at is -1"),
        ("/near", {"id": 1}, "id is 1"),
        ("/facets", {"where": {"$or": 1}}, "$or has 1"),
        ("/map", {"where": {"x": [1]}}, "compares with [1]"),
    ],
)
def test_what_cannot_be_used_is_said(client, path, body, said):
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"x"', b"\xff", b'{"query": NaN}', b'{"where": ' + b"[" * 90_000, b"{" * 5]
    + [b'{"query": "x", "where": ' + b'{"$not":' * 40 + b"{}" + b"}" * 41],
)
def test_bodies_that_are_no_json(client, body):
    answer = client.post("/search", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large(client):
    answer = client.post("/search", content=b'{"query": "' + b"x" * web.BODY)
    assert answer.status_code == 400
    assert "more than" in answer.json()["error"]["message"]


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | NUMBERS | st.text()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(["/search", "/document", "/near", "/facets", "/map"]),
    body=st.dictionaries(
        st.sampled_from(["query", "id", "k", "where", "legs", "at", "kb", "x"]),
        st.recursive(
            SCALARS,
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    ),
)
def test_no_body_makes_the_server_fail(client, path, body):
    assert client.post(path, json=body).status_code in (200, 400, 404)


def test_a_failure_says_nothing_of_texts(base, monkeypatch, caplog):
    def fail(*values, **options):
        raise RuntimeError("the secret text")

    monkeypatch.setattr(desks.SearchService, "search", fail)
    with TestClient(kb_web.app(kb_web.desk(base))) as one:
        answer = one.post("/search", json={"query": "x"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "RuntimeError" in caplog.text


def test_more_questions_than_can_wait_are_refused(base, monkeypatch):
    monkeypatch.setattr(web, "WAITING", 0)
    with TestClient(kb_web.app(kb_web.desk(base))) as one:
        answer = one.post("/search", json={"query": "x"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_who_went_away_is_not_waited_for(base, monkeypatch):
    site = SearchSite([kb_web.desk(base)], lambda request, name: Grant())
    begun, release, counted = threading.Event(), threading.Event(), []

    def slow(self, asked, visitor):
        counted.append(asked.query)
        begun.set()
        release.wait(10)
        return {}

    monkeypatch.setattr(desks.SearchService, "search", slow)
    site._threads._max_workers = 1
    import asyncio

    async def ask(query, gone):
        sent = []
        body = [{"type": "http.request", "body": f'{{"query": "{query}"}}'.encode()}]

        async def receive():
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/search", "headers": []}
        scope |= {"query_string": b"", "root_path": "", "server": ("x", 1), "scheme": "http"}
        await build_app(site)(scope, receive, send)
        return sent[0]["status"]

    async def both():
        here, gone = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(ask("first", here))
        await asyncio.to_thread(begun.wait, 5)
        second = asyncio.create_task(ask("second", gone))
        await asyncio.sleep(0.1)
        gone.set()
        assert await second == web.CLIENT_WENT
        release.set()
        return await first

    assert asyncio.run(both()) == 200
    assert counted == ["first"]
    assert site._waiting == 0
    site.close()


# --- who may ask -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8081", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("", 403),
    ],
)
def test_only_pages_of_this_machine_may_ask_a_server_without_keys(base, host, status):
    site = kb_server.loopback_site(lambda guard: SearchSite([kb_web.desk(base)], guard))
    with TestClient(build_app(site)) as one:
        answer = one.post("/search", json={"query": "cat"}, headers={"host": host})
        assert answer.status_code == status
        assert one.get("/status", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("options", "status"),
    [({}, 403), ({"insecure": True}, 200), ({"host": "0.0.0.0"}, 200), ({"uds": "/x"}, 200)],
)
def test_where_a_server_checks_the_name_it_is_asked_by(base, options, status):
    gate = SimpleNamespace(
        key_needed=False,
        authenticate=lambda secret, name: SimpleNamespace(key=None),
        reserve=lambda *values: None,
        record=lambda *values: None,
    )
    parts = SimpleNamespace(authorizer=gate, settings=ServerSettings(**options))
    with TestClient(kb_web.app(kb_web.desk(base), guard=kb_server.key_authorizer(parts))) as one:
        answer = one.post("/search", json={"query": "x"}, headers={"host": "a.example"})
        assert answer.status_code == status


@pytest.mark.parametrize("option", [["--where", "a=1"], ["--reranker", "x"]], ids=lambda o: o[0])
def test_settings_that_would_do_nothing(option):
    done = CliRunner().invoke(main, ["serve", *option])
    assert done.exit_code == 1
    assert "set kb too" in done.output


@pytest.mark.parametrize(
    ("given", "name", "place"),
    [
        ("kb/", "kb", "kb/"),
        ("notes=some/kb", "notes", "some/kb"),
        ("s3://bucket/kb", "kb", "s3://bucket/kb"),
        ("a/b=c", "b=c", "a/b=c"),
        ("/", "kb", "/"),
    ],
)
def test_names_of_knowledge_bases(given, name, place):
    assert kb_server.parse_kb_argument(given) == (name, place)


# --- the page's files ------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_page_loads_nothing_from_elsewhere_and_needs_no_inline_code(name):
    text = PAGE.joinpath(name).read_text()
    assert set(re.findall(r"https?://[^\s\"'`<)]+", text)) <= {"http://www.w3.org/2000/svg"}
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text
    if name.endswith(".html"):
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", text)
        assert 'lang="en"' in text


def test_every_file_that_the_page_names_is_there(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for path in re.findall(r'"(assets/[^"]+)"', page.text):
        answer = client.get(f"/{path}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        again = client.get(f"/{path}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for module in re.findall(r'from "\./([^"]+)"', answer.text):
            assert client.get(f"/assets/{module}").status_code == 200


def test_nothing_else_is_served(client):
    for path in ("/assets/", "/assets/index.html", "/assets/../app.py", "/kb", "/x"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    assert client.get("/search").status_code == 405


def test_every_route_is_documented(base):
    site = SearchSite([kb_web.desk(base)], lambda request, name: Grant())
    site.close()
    routes = {
        (route.path, method.lower())
        for route in site.routes("/kb")
        for method in route.methods
        if method != "HEAD" and "assets" not in route.path and route.path not in ("/kb", "/kb/")
    }
    paths = openapi.paths("/kb")
    assert routes == {(path, method) for path in paths for method in paths[path]}


# --- facets, maps, projections ---------------------------------------------------------------


VALUES = st.sampled_from([1, 2, 2.5, "a", "b", "1", True, False, "2024-01-02", ""])
RECORDS = st.lists(st.dictionaries(st.sampled_from("xyz"), VALUES), max_size=25)


@given(RECORDS, st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=2), st.booleans())
def test_a_catalogue_counts_like_a_loop(records, asked, negated):
    documents = [DocumentHeader(f"d{n}", "", record) for n, record in enumerate(records)]
    catalogue = FacetIndex(documents, len(documents))
    where = {"$not": asked} if negated else asked
    mask = catalogue.fitting(parse_filter(where))
    assert mask.tolist() == [matches(parse_filter(where), record) for record in records]
    for facet in catalogue.facets(asked):
        others = parse_filter({name: value for name, value in asked.items() if name != facet.field})
        inside = [r for r in records if matches(others, r) and facet.field in r]
        assert facet.documents == len(inside)
        if facet.kind == "values":
            same = {
                (type(v).__name__, v): sum(
                    type(r[facet.field]) is type(v) and r[facet.field] == v for r in inside
                )
                for v, _ in facet.values
            }
            assert {(type(v).__name__, v): count for v, count in facet.values} == same
            assert sum(count for _, count in facet.values) + facet.others == len(inside)


def test_kinds_of_facets():
    records = [
        {
            "lang": "de" if n % 3 else "fr",
            "year": 1990 + n,
            "day": f"2024-03-{n + 1:02d}T10:00:00",
            "path": f"/a/{n}",
            "same": 1,
            "sometimes": "yes",
            "$odd": n % 2,
        }
        for n in range(20)
    ]
    del records[0]["sometimes"]
    catalogue = FacetIndex([DocumentHeader(str(n), "", r) for n, r in enumerate(records)], 20)
    found = {one.field: one for one in catalogue.facets()}
    assert sorted(found) == ["day", "lang", "sometimes", "year"]
    assert (found["year"].kind, found["year"].low, found["year"].high) == ("numbers", 1990, 2009)
    assert (found["day"].kind, found["day"].low, found["day"].high) == (
        "dates",
        "2024-03-01",
        "2024-03-20",
    )
    assert found["lang"].values == (("de", 13), ("fr", 7))
    limited = {one.field: one for one in catalogue.facets({"lang": "fr", "year": {"$lt": 1995}})}
    assert limited["lang"].values == (("de", 3), ("fr", 2))  # not limited by itself
    assert (limited["year"].low, limited["year"].high) == (1990, 2008)


@given(st.sets(st.text(max_size=4), max_size=40), st.integers(1, 30), st.randoms())
def test_a_sample_depends_on_no_other_document(names, most, random):
    documents = [DocumentHeader(name, "", {}) for name in names]
    random.shuffle(documents)
    found, total = sample_by_id(documents, most)
    assert total == len(names)
    assert len(found) == min(most, len(names))
    left = [one for one in documents if one not in found]
    again, _ = sample_by_id([one for one in documents if one not in left[:5]], most)
    assert again == found  # without some that were not taken, the same ones are


def test_stores_outline_alike(tmp_path):
    base = helpers.kb(tmp_path)
    rng = np.random.default_rng(5)
    documents = [helpers.document(f"d{n}", rng, windows=1 + n % 3) for n in range(20)]
    loops = MemoryStore()
    for store in (base.store, loops):
        store.put(documents)
    for where in (None, parse_filter({"lang": "de"}), parse_filter({"year": {"$gte": 2000}})):
        for ids in (None, [f"d{n}" for n in range(0, 30, 3)]):
            found = [
                sorted(list_documents(s, where, ids), key=lambda o: o.id)
                for s in (base.store, loops)
            ]
            assert found[0] == found[1]
    names = [one.id for one in documents] + ["missing"]
    found = [sorted(summarize_documents(s, names), key=lambda p: p.id) for s in (base.store, loops)]
    assert [one.id for one in found[0]] == [one.id for one in found[1]] == sorted(names[:-1])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.vector, b.vector, atol=1e-6)


def clustered(rng, n, groups=6, width=32):
    centres = rng.standard_normal((groups, width))
    labels = rng.integers(0, groups, n)
    rows = centres[labels] + 0.25 * rng.standard_normal((n, width))
    return rows.astype(np.float32), labels


def test_principal_components_are_those_of_a_full_decomposition():
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((300, 40)) * np.geomspace(10, 0.1, 40)).astype(np.float32)
    centred = rows - rows.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    found = principal(rows, 3)
    expected = left[:, :3] * sizes[:3]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-2)
    assert (found[np.abs(found).argmax(axis=0), np.arange(3)] > 0).all()


def test_nearest_rows_are_those_of_a_loop():
    rows = np.random.default_rng(2).standard_normal((90, 5)).astype(np.float32)
    indices, distances = nearest_neighbours(rows, 7)
    exact = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    np.fill_diagonal(exact, np.inf)
    assert (indices == np.argsort(exact, axis=1, kind="stable")[:, :7]).all()
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :7], atol=1e-4)


def test_every_row_has_the_same_perplexity():
    rows = np.random.default_rng(3).standard_normal((60, 5)).astype(np.float32)
    weights = affinities(*nearest_neighbours(rows, 15)).weights * 2 * len(rows)
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)
    np.testing.assert_allclose(np.exp(entropy), 5, rtol=1e-3)
    assert weights.sum() == pytest.approx(len(rows))


@pytest.mark.parametrize(("n", "spread"), [(2, 1.0), (50, 1e-4), (400, 6.0), (1500, 20.0)])
def test_repulsion_on_the_grid_is_that_of_all_pairs(n, spread):
    places = np.random.default_rng(n).standard_normal((n, 2)) * spread
    grid, exact = repulsion(places), repulsion_exact(places)
    coarse = 0.25 if spread > 10 else 0.15
    assert np.linalg.norm(grid - exact) <= coarse * np.linalg.norm(exact) + 1e-9


def test_neighbours_stay_neighbours_on_the_map():
    rows, labels = clustered(np.random.default_rng(4), 240)
    places = project(rows)
    assert places.shape == (240, 2) and np.abs(places).max() == pytest.approx(1.0)
    indices, _ = nearest_neighbours(places, 8)
    assert (labels[indices] == labels[:, None]).mean() > 0.97
    np.testing.assert_array_equal(project(rows), places)


@pytest.mark.parametrize("n", range(9))
def test_maps_of_a_few_documents(n):
    rows = np.random.default_rng(n).standard_normal((n, 6)).astype(np.float32)
    assert project(rows).shape == (n, 2)
    same = project(np.ones((n, 6), np.float32))
    assert np.isfinite(same).all() and same.shape == (n, 2)


def test_a_map_of_a_sample_says_so(base):
    whole, part = draw_map(base.store), draw_map(base.store, 10)
    assert (len(whole.ids), whole.total) == (26, 26)
    assert (len(part.ids), part.total) == (10, 26)
    assert set(part.ids) <= set(whole.ids)
    assert sum(one.documents for one in whole.regions) + (whole.labels < 0).sum() == 26
    for number, region in enumerate(whole.regions):
        assert whole.labels[whole.ids.index(region.medoid)] == number
    nothing = draw_map(MemoryStore())
    assert (nothing.ids, nothing.regions, nothing.total) == ([], [], 0)


def test_the_map_tells_which_documents_fit(client):
    found = client.post("/map", json={"where": {"tenant": "acme"}}).json()
    assert len(found["ids"]) == 26
    fitting = {found["ids"][place] for place in found["fitting"]}
    assert fitting == {name for name in found["ids"] if name.startswith("acme/")}
    assert client.post("/map", json={}).json()["fitting"] is None


def test_what_is_dear_is_made_once(base, monkeypatch):
    made = []
    monkeypatch.setattr(desks, "draw_map", lambda store: made.append(1) or draw_map(store))
    with TestClient(kb_web.app(kb_web.desk(base))) as one:
        for _ in range(3):
            one.post("/map", json={"where": {"year": 2001}})
    assert made == [1]


# --- whole servers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """An index made by the model that servers load."""
    from opengte import Encoder
    from opengte.search.kb import KnowledgeBase

    folder = tmp_path_factory.mktemp("real") / "kb"
    return kb_web.fill(KnowledgeBase.create(folder, Encoder.load("minilm", threads=1)), count=3)


def test_beside_the_embedding_server(real, tmp_path):
    _, secret = KeyFile(tmp_path).create("acme", where=("tenant=acme",))
    chosen = ServerSettings(
        port=0,
        state_dir=str(tmp_path),
        kb=(f"notes={real.place}",),
        where=("year<2002",),
        threads=1,
    )
    with background(chosen, extend=kb_server.extend) as running:
        with httpx.Client(base_url=running.url, timeout=60) as one:
            assert one.get("/kb").headers["location"] == "kb/"
            assert one.get("/kb/").status_code == 200
            assert one.get("/kb/status").status_code == 401
            one.headers["authorization"] = f"Bearer {secret}"
            found = one.get("/kb/status").json()
            assert found["knowledge_bases"][0]["documents"] == 2
            assert found["links"] == {"Start": "../", "Search": "./", "API": "../docs"}
            hits = one.post("/kb/search", json={"query": "fish", "kb": "notes"}).json()["hits"]
            assert sorted(hit["id"] for hit in hits) == ["acme/0", "acme/1"]
            assert one.post("/v1/embeddings", json={"input": "a"}).status_code == 200
            paths = one.get("/openapi.json").json()
            assert paths["paths"]["/kb/search"]["post"]["security"]
            assert {"name": "Knowledge bases"} in paths["tags"]
            assert one.get("/page/state").json()["links"] == {"Search": "kb/"}
            metrics = one.get("/metrics").text
            assert 'opengte_requests_total{code="200",route="/kb/search"} 1.0' in metrics


@pytest.mark.slow
def test_several_workers_and_a_place_that_is_none(real, tmp_path):
    with server("--kb", real.place, "--workers", "2", "--threads", "1") as one:
        with one.client() as client:
            for _ in range(4):
                hits = client.post("/kb/search", json={"query": "fish"}).json()["hits"]
                assert hits
        assert one.stop() == 0
    with server("--kb", tmp_path / "nothing", wait=False) as one:
        assert one.process.wait(60) == 1
        one._reader.join(10)
        assert "is not an index" in "".join(one.other)


@pytest.mark.slow
def test_the_page_alone(real):
    process = subprocess.Popen(
        [sys.executable, "-c", "from opengte.cli import main; main()"]
        + ["ui", real.place, "--port", "0", "--where", "tenant=zeta", "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = process.stderr.readline().split()[0]
        assert url.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=url, timeout=60) as one:
            assert one.get("/").status_code == 200
            hits = one.post("/search", json={"query": "fish"}).json()["hits"]
            assert {hit["metadata"]["tenant"] for hit in hits} == {"zeta"}
            assert one.get("/status", headers={"host": "evil.example"}).status_code == 403
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stderr.close()
