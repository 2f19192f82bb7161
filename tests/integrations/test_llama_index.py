"""The LlamaIndex adapter: the roles, and a query engine from end to end."""

import asyncio
import warnings

import numpy as np
import pytest

from opengte.errors import InputError
from opengte.search.kb import KnowledgeBase
from tests.support import fake_models
from tests.support import kb as helpers
from tests.support.installed import needs

needs("lancedb", "llama_index")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
TEXTS = {"cat": "the cat sleeps", "dog": "a dog runs", "tax": "tax law of the river house"}


@pytest.fixture(scope="module", autouse=True)
def framework():
    """Import LlamaIndex when the first test runs: it takes seconds."""
    global Settings, VectorStoreIndex, MockLLM, RetrieverQueryEngine, NodeWithScore, TextNode
    global OpenGTEEmbedding, OpenGTERerank, OpenGTERetriever
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from llama_index.core import Settings, VectorStoreIndex
        from llama_index.core.llms import MockLLM
        from llama_index.core.query_engine import RetrieverQueryEngine
        from llama_index.core.schema import NodeWithScore, TextNode

        from opengte.integrations.llama_index import (
            OpenGTEEmbedding,
            OpenGTERerank,
            OpenGTERetriever,
        )


@pytest.fixture
def base(tmp_path):
    made = KnowledgeBase.create(tmp_path / "kb", helpers.encoder())
    made.add(TEXTS.values(), TEXTS, metadata=[{"year": 2000 + n} for n in range(3)])
    return made


def test_questions_and_documents_are_embedded_in_their_roles():
    encoder = helpers.encoder()
    made = OpenGTEEmbedding(encoder)
    asked = encoder.embed(["a cat"], role="query").dense[0]
    kept = encoder.embed(["a cat"], role="document").dense[0]
    np.testing.assert_allclose(made.get_query_embedding("a cat"), asked, rtol=1e-6)
    np.testing.assert_allclose(made.get_text_embedding("a cat"), kept, rtol=1e-6)
    np.testing.assert_allclose(made.get_text_embedding_batch(["a cat"])[0], kept, rtol=1e-6)
    found = asyncio.run(made.aget_query_embedding("a cat"))
    np.testing.assert_allclose(found, asked, rtol=1e-6)
    (found,) = asyncio.run(made.aget_text_embedding_batch(["a cat"]))
    np.testing.assert_allclose(found, kept, rtol=1e-6)
    assert made.to_dict()["model_name"] == "fake"
    assert len(OpenGTEEmbedding(encoder, dimensions=4).get_query_embedding("a cat")) == 4


def test_an_index_of_llama_index_finds_with_the_real_model():
    embedding = OpenGTEEmbedding("minilm", settings={"threads": 1})
    nodes = [TextNode(text=text, id_=name) for name, text in TEXTS.items()]
    index = VectorStoreIndex(nodes, embed_model=embedding)
    (best,) = index.as_retriever(similarity_top_k=1).retrieve("what does a kitten do at night?")
    assert best.node.node_id == "cat"


def test_a_query_engine_over_a_knowledge_base(base):
    retriever = OpenGTERetriever(base, 3)
    rerank = OpenGTERerank(fake_models.FakeReranker(), top_n=1)
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM(), node_postprocessors=[rerank])
    answer = engine.query("the cat sleeps")
    (source,) = answer.source_nodes
    assert source.node.metadata["id"] == "cat" and source.score == 3.0
    assert "the cat sleeps" in str(answer)  # the model repeats what it was asked
    assert "year" not in str(answer)
    (found, *_) = asyncio.run(retriever.aretrieve("the cat sleeps"))
    assert found.node.node_id == "cat:0"


def test_filters_and_whole_documents(base):
    found = OpenGTERetriever(base, 3, where={"year": 2002}, content="document").retrieve("cat")
    assert [(one.node.node_id, one.node.text) for one in found] == [("tax", TEXTS["tax"])]
    found = OpenGTERetriever(base, 3, reranker=Scoring()).retrieve("the cat sleeps")
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


class Scoring(fake_models.FakeReranker):
    def score(self, query, documents):
        asked = set(query.split())
        return np.array([len(asked & set(text.split())) for text in documents], np.float32)


def test_nodes_are_ranked_for_a_question():
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS.values()]
    rerank = OpenGTERerank(fake_models.FakeReranker(), top_n=2)
    found = rerank.postprocess_nodes(nodes, query_str="a dog runs")
    assert [one.node.text for one in found][0] == "a dog runs" and len(found) == 2
    with pytest.raises(InputError, match="query_bundle is None"):
        rerank.postprocess_nodes(nodes)
    assert Settings is not None
