"""The pages of models: facts by a schema, the catalogue, and what a page holds."""

import dataclasses
import re
from html import unescape
from importlib import resources

import pytest

from opengte.published_models import PUBLISHED_MODELS
from opengte.serve.console.catalog import catalog, find_entry, selected
from opengte.serve.console.facts import all_facts, facts_of
from opengte.serve.observability.metric_store import metric_memory
from opengte.serve.observability.metrics import Metrics
from tests.support.serve_fakes import ENCODER, FakeService

ATTACK = "<script>alert(1)</script>"
LARGEST_PAGE = 150_000


@pytest.fixture
def client(site):
    return lambda **options: site(**options).browser()


def text_of(answer):
    """Return what a reader of the page sees."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", answer.text)))


def test_every_published_model_has_facts_and_every_rival_is_known():
    facts = all_facts()
    assert set(facts) == {model.id for model in PUBLISHED_MODELS}
    for each in facts.values():
        assert set(each.rivals) <= set(facts), each.id
        for month in (each.published, each.updated):
            assert month is None or re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", month), each.id
        for figure in each.benchmarks:
            assert 0 < figure.score < 100
            assert figure.source
            assert re.fullmatch(r"20\d\d-\d\d", figure.date)
        assert len(each.best_for) >= 1


def test_one_file_a_model():
    folder = resources.files("opengte.serve.console").joinpath("model_facts")
    names = {file.name.removesuffix(".toml") for file in folder.iterdir()}
    assert names == {model.id.split("/")[1] for model in PUBLISHED_MODELS}


def test_the_page_of_gte_qwen2(client):
    with client() as one:
        answer = one.get("/models/Alibaba-NLP/gte-Qwen2-7B-instruct")
    page = text_of(answer)
    for part in (
        *("gte-Qwen2-7B-instruct", "published 2024-06", "updated 2025-03"),
        "first on MTEB in English and Chinese on 2024-06-16",
        *("text embedding", "decoder only", "Qwen/Qwen2-7B", "bidirectional attention"),
        *("7.1 billion", "3,584", "32,768 tokens", "32,000 tokens", "query side only"),
        *("retrieval, classification, clustering and similarity", "2308.03281", "Apache-2.0"),
        *("70.24", "72.05", "68.25", "67.86", "69.32", "67.34", "69.52", "66.63", "60.81"),
        *("fp32 28 GB", "bf16 14 GB", "int8 7.1 GB", "Best for", "Not for", "web queries"),
        "What is new against its predecessor?",
        "Why does the instruction go to queries only?",
        "model card of gte-Qwen2-7B-instruct, 2024-06",
    ):
        assert part in page, part


def test_a_served_model_without_a_file_has_a_page_from_its_checkpoint(client):
    with client() as one:
        page = text_of(one.get("/models/fake"))
    for part in ("read from the checkpoint", "words, 2 layers", "Measured here", "MIT"):
        assert part.replace("2 layers", f"{ENCODER.layers} layers") in page
    assert "Code to copy" in page
    assert "nothing computed yet" in page


def test_speed_and_cost_are_those_of_the_metrics(client):
    metrics = Metrics(["fake"], [], metric_memory(1))
    for _ in range(4):
        metrics.batch("fake", 10, 1000, 4096, 0.5)
    with client(metrics=metrics, hourly_cost=3.6, currency="EUR", price=("fake=0.02",)) as one:
        page = text_of(one.get("/models/fake"))
    assert "2,000 tokens a second" in page
    assert "0.5000 EUR per million tokens, at full load" in page  # 3.6 / (2,000 x 3,600) x 1e6
    assert "0.02 EUR per million tokens" in page


def test_list_filters_and_order():
    entries = catalog(FakeService().models(), lambda name: None)
    assert [entry.name for entry in entries[:2]] == ["fake", "fake-reranker"]
    assert len(entries) == len(PUBLISHED_MODELS) + 2

    def names(**query):
        return [entry.name for entry in selected(entries, query)]

    assert names(q="qwen2 7b") == ["Alibaba-NLP/gte-Qwen2-7B-instruct"]
    assert all("rerank" in name.lower() for name in names(task="reranker"))
    assert names(served="1") == ["fake", "fake-reranker"]
    best = names(sort="MTEB English v1 (56 tasks)")[:2]
    assert best == ["Alibaba-NLP/gte-Qwen2-7B-instruct", "nvidia/NV-Embed-v1"]
    small = selected(entries, {"size": "50", "sort": "parameters"})
    assert [e.parameters for e in small] == sorted(e.parameters for e in small)
    assert all(entry.parameters <= 50 for entry in small)
    assert "thenlper/gte-base-zh" in names(language="Chinese")
    long = set(names(licence="MIT", length="8192", dimension="1024"))
    static = {one.id for one in PUBLISHED_MODELS if one.architecture == "static"}
    assert long - static == {"BAAI/bge-m3"}
    assert len(names(length="²", size="-1", dimension="9" * 30, sort="nonsense")) == len(entries)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("fake", "fake"),
        ("FAKE", "fake"),
        ("gte-small", "thenlper/gte-small"),
        ("thenlper/GTE-small", "thenlper/gte-small"),
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2"),
        ("other/gte-small", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_names(asked, found):
    entry = find_entry(catalog(FakeService().models(), lambda name: None), asked)
    assert (entry and entry.name) == found


def test_every_page_is_small_and_runs_nothing_from_elsewhere(client):
    with client() as one:
        paths = ["/models", "/models/fake", *(f"/models/{m.id}" for m in PUBLISHED_MODELS)]
        for path in paths:
            answer = one.get(path)
            assert answer.status_code == 200, path
            assert len(answer.content) < LARGEST_PAGE
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", answer.text), path
            assert not re.findall(r'(?:src|href)="(?:https?:)?//', answer.text), path


@pytest.mark.parametrize(
    "path", ["/models", "/models/", "/models/fake", "/models/thenlper/gte-small"]
)
def test_relative_links_lead_to_the_assets(client, path):
    with client() as one:
        page = one.get(path)
        for link in re.findall(r'(?:src|href)="([^"]*assets/[^"]+)"', page.text):
            assert one.get(str(page.url.join(link))).status_code == 200, link


def test_stored_scripts_stay_text(client):
    card = dataclasses.replace(ENCODER, name=ATTACK, architecture=ATTACK, licence=ATTACK)
    with client(service=FakeService(card)) as one:
        for path in ("/models", f"/models/{ATTACK}", f"/models?q={ATTACK}&sort={ATTACK}"):
            answer = one.get(path)
            assert answer.status_code == 200
            assert ATTACK not in answer.text
        assert ATTACK not in one.get(f"/models/no{ATTACK}").text


def test_clients_get_json_and_browsers_a_page(client):
    with client() as one:
        assert one.get("/models").headers["content-type"].startswith("text/html")
        listed = one.get("/models", headers={"accept": "application/json"}).json()
        assert [model["id"] for model in listed["data"]] == ["fake", "fake-reranker"]


def test_unknown_model(client):
    with client() as one:
        answer = one.get("/models/nothing/here")
    assert answer.status_code == 404
    assert "nothing/here" in answer.text


def test_facts_of_a_short_name():
    assert facts_of("minilm").id == "sentence-transformers/all-MiniLM-L6-v2"
    assert facts_of("nothing") is None
    assert facts_of(None) is None
