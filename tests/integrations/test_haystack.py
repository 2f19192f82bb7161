"""The Haystack adapter: the roles, pipelines from end to end, and back from their files."""

import asyncio
import os
import warnings

import numpy as np
import pytest

from opengte.errors import InputError
from opengte.search.kb import KnowledgeBase
from tests.support import fake_models
from tests.support import kb as helpers
from tests.support.installed import needs

needs("lancedb", "haystack")
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
TEXTS = {"cat": "the cat sleeps", "dog": "a dog runs", "tax": "tax law of the river house"}


@pytest.fixture(scope="module", autouse=True)
def framework():
    """Import Haystack when the first test runs: it takes a second."""
    global Document, Pipeline, InMemoryEmbeddingRetriever, InMemoryDocumentStore
    global OpenGTEDocumentEmbedder, OpenGTERanker, OpenGTERetriever, OpenGTETextEmbedder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from haystack import Document, Pipeline
        from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
        from haystack.document_stores.in_memory import InMemoryDocumentStore

        from opengte.integrations.haystack import (
            OpenGTEDocumentEmbedder,
            OpenGTERanker,
            OpenGTERetriever,
            OpenGTETextEmbedder,
        )


@pytest.fixture
def base(tmp_path):
    made = KnowledgeBase.create(tmp_path / "kb", helpers.encoder())
    made.add(TEXTS.values(), TEXTS, metadata=[{"year": 2000 + n} for n in range(3)])
    return made


def test_questions_and_documents_are_embedded_in_their_roles():
    encoder = helpers.encoder()
    asked = OpenGTETextEmbedder(encoder).run("a cat")["embedding"]
    np.testing.assert_allclose(asked, encoder.embed(["a cat"], role="query").dense[0], rtol=1e-6)
    document = Document(content="a cat", meta={"title": "red", "none": None})
    embedder = OpenGTEDocumentEmbedder(encoder, meta_fields_to_embed=["title", "none", "other"])
    (kept,) = embedder.run([document])["documents"]
    expected = encoder.embed(["red\na cat"], role="document").dense[0]
    np.testing.assert_allclose(kept.embedding, expected, rtol=1e-6)
    assert document.embedding is None and kept.content == "a cat"
    assert asyncio.run(OpenGTETextEmbedder(encoder).run_async("a cat"))["embedding"] == asked
    assert embedder.run([])["documents"] == []


def test_a_document_is_no_question_and_a_question_no_document():
    with pytest.raises(TypeError, match="OpenGTEDocumentEmbedder"):
        OpenGTETextEmbedder(helpers.encoder()).run([Document(content="x")])
    with pytest.raises(TypeError, match="OpenGTETextEmbedder"):
        OpenGTEDocumentEmbedder(helpers.encoder()).run("x")


def test_pipelines_index_and_search_with_the_real_model():
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    settings = {"threads": 1}
    embedder = OpenGTEDocumentEmbedder("minilm", settings=settings)
    documents = [Document(id=name, content=text) for name, text in TEXTS.items()]
    store.write_documents(embedder.run(documents)["documents"])
    pipeline = Pipeline()
    pipeline.add_component("ask", OpenGTETextEmbedder("minilm", settings=settings))
    pipeline.add_component("find", InMemoryEmbeddingRetriever(store, top_k=2))
    pipeline.add_component("rank", OpenGTERanker(fake_models.FakeReranker(), top_k=1))
    pipeline.connect("ask.embedding", "find.query_embedding")
    pipeline.connect("find.documents", "rank.documents")
    question = "what does a kitten do at night? sleeps"
    found = pipeline.run({"ask": {"text": question}, "rank": {"query": question}})
    assert [one.id for one in found["rank"]["documents"]] == ["cat"]


def test_a_knowledge_base_in_a_pipeline(base):
    pipeline = Pipeline()
    pipeline.add_component("find", OpenGTERetriever(base, top_k=2))
    (best, _) = pipeline.run({"find": {"query": "the cat sleeps"}})["find"]["documents"]
    assert (best.content, best.meta["id"], best.id) == ("the cat sleeps", "cat", "cat:0")
    found = asyncio.run(OpenGTERetriever(base).run_async("cat", top_k=1))
    assert len(found["documents"]) == 1


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"field": "meta.year", "operator": ">=", "value": 2001}, {"dog", "tax"}),
        ({"field": "year", "operator": "in", "value": [2000, 2002]}, {"cat", "tax"}),
        (
            {
                "operator": "NOT",
                "conditions": [{"field": "meta.year", "operator": "==", "value": 2000}],
            },
            {"dog", "tax"},
        ),
        (
            {
                "operator": "OR",
                "conditions": [
                    {"field": "meta.year", "operator": "==", "value": 2000},
                    {"field": "meta.year", "operator": "not in", "value": [2000, 2001]},
                ],
            },
            {"cat", "tax"},
        ),
    ],
)
def test_filters_of_haystack(base, filters, expected):
    found = OpenGTERetriever(base, content="document").run("cat dog law", filters)["documents"]
    assert {one.id for one in found} == expected
    both = OpenGTERetriever(base, filters=filters, content="document")
    narrow = {"field": "meta.year", "operator": "<", "value": 2002}
    assert {one.id for one in both.run("cat", narrow)["documents"]} == expected - {"tax"}


@pytest.mark.parametrize("filters", [{"field": "x"}, {"operator": "XOR", "conditions": []}])
def test_a_filter_that_is_none_is_an_error(base, filters):
    with pytest.raises(InputError, match="the filter"):
        OpenGTERetriever(base).run("cat", filters)


def test_components_go_through_the_file_of_a_pipeline(base):
    pipeline = Pipeline()
    settings = {"threads": 1}
    asking = OpenGTETextEmbedder("minilm", dimensions=4, settings=settings)
    pipeline.add_component("ask", asking)
    pipeline.add_component("embed", OpenGTEDocumentEmbedder("minilm", embedding_separator=" "))
    pipeline.add_component("find", OpenGTERetriever(base, top_k=3, options={"exact": True}))
    pipeline.add_component("rank", OpenGTERanker("a/reranker", top_k=2))
    trusted = ["opengte.integrations.haystack"]
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=trusted)
    assert again.get_component("ask").to_dict() == asking.to_dict()
    assert again.get_component("embed").embedding_separator == " "
    assert again.get_component("find").kb == base.place
    assert again.get_component("find").options == {"exact": True}
    assert again.get_component("rank").model == "a/reranker"
