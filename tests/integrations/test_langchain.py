"""The LangChain adapter: LangChain's own suites, the roles, and a chain from end to end."""

import warnings

import numpy as np
import pytest

from opengte.errors import InputError, TruncationWarning
from opengte.search.kb import KnowledgeBase
from tests.support import fake_models
from tests.support import kb as helpers
from tests.support.installed import needs

needs("lancedb")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("langchain_tests")
    from langchain_core.documents import Document
    from langchain_core.language_models import FakeListChatModel
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnablePassthrough
    from langchain_tests.integration_tests import (
        EmbeddingsIntegrationTests,
        RetrieversIntegrationTests,
        VectorStoreIntegrationTests,
    )
    from langchain_tests.unit_tests import EmbeddingsUnitTests

    from opengte.integrations.langchain import (
        OpenGTEEmbeddings,
        OpenGTEReranker,
        OpenGTERetriever,
        OpenGTEVectorStore,
    )

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def base(tmp_path):
    made = KnowledgeBase.create(tmp_path / "kb", helpers.encoder())
    texts = ["the cat sleeps", "a dog runs", "tax law of the river house", "red stone"]
    metadata = [{"year": 2000 + n} for n in range(4)]
    made.add(texts, ["cat", "dog", "tax", "stone"], metadata=metadata)
    return made


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return OpenGTEEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": helpers.encoder()}


class TestEmbeddings(EmbeddingsIntegrationTests):
    """With the real model."""

    @property
    def embeddings_class(self):
        return OpenGTEEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": "minilm", "threads": 1}


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        return OpenGTEVectorStore(KnowledgeBase.create(tmp_path / "kb", helpers.encoder()))


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _opened(self, base):
        self.base = base

    @property
    def retriever_constructor(self):
        return OpenGTERetriever

    @property
    def retriever_constructor_params(self):
        return {"kb": self.base}

    @property
    def retriever_query_example(self):
        return "the cat and the dog run to the red house"


def test_questions_and_documents_are_embedded_in_their_roles():
    encoder = helpers.encoder()
    made = OpenGTEEmbeddings(encoder)
    for role, vector in (
        ("query", made.embed_query("a cat")),
        ("document", made.embed_documents(["a cat"])[0]),
    ):
        expected = encoder.embed(["a cat"], role=role).dense[0]
        np.testing.assert_allclose(vector, expected, rtol=1e-6)
    assert made.embed_documents([]) == []
    assert len(OpenGTEEmbeddings(encoder, dimensions=4).embed_query("a cat")) == 4


def test_an_instruction_goes_before_questions_only():
    seen = []

    class Watched(helpers.WordEncoder):
        def embed(self, texts, **options):
            seen.append((options["role"], options.get("instruction")))
            return super().embed(texts, **options)

    made = OpenGTEEmbeddings(Watched.load("minilm"), instruction="Find duplicates")
    made.embed_query("a cat")
    made.embed_documents(["a cat"])
    assert seen == [("query", "Find duplicates"), ("document", None)]


def test_lost_tokens_are_told():
    with pytest.warns(TruncationWarning, match="1 of 1 texts lost tokens"):
        OpenGTEEmbeddings(helpers.encoder()).embed_query("cat " * 40)


def test_a_filter_of_a_call_narrows_that_of_the_retriever(base):
    retriever = OpenGTERetriever(kb=base, where={"year": {"$gte": 2001}})
    assert {one.id for one in retriever.invoke("cat")} == {"dog", "tax", "stone"}
    found = retriever.invoke("cat", where={"year": {"$lte": 2001}})
    assert [one.id for one in found] == ["dog"]
    assert found[0].metadata["characters"] == [0, 10] and found[0].metadata["year"] == 2001
    assert [one.id for one in retriever.invoke("dog", legs=("lexical",))] == ["dog"]


def test_vectors_are_searched_under_a_filter_and_for_variety(base):
    store = OpenGTEVectorStore(base)
    scored = store.similarity_search_with_score("the cat", 4)
    assert [score for _, score in scored] == sorted((s for _, s in scored), reverse=True)
    vector = base.current.encode_query("the cat").vector.tolist()
    assert store.similarity_search_by_vector(vector, 4) == [one for one, _ in scored]
    (one,) = store.similarity_search("cat", 4, filter={"year": 2002})
    assert one.id == "tax"
    assert all(0 <= s <= 1 for _, s in store.similarity_search_with_relevance_scores("cat", 4))
    varied = store.max_marginal_relevance_search("the cat", 3, 4, 1.0)
    assert varied == [one for one, _ in scored][:3]
    assert len(store.max_marginal_relevance_search("the cat", 2, 4, 0.1)) == 2
    with pytest.raises(InputError, match="all zeros"):
        store.similarity_search_by_vector([0.0] * fake_models.WIDTH)


def test_a_store_is_made_of_texts(tmp_path):
    made = OpenGTEVectorStore.from_texts(
        ["the cat", "a dog"],
        OpenGTEEmbeddings(helpers.encoder()),
        [{"n": 1}, {"n": 2, "tags": ["x", "y"]}],
        ids=["c", "d"],
        place=str(tmp_path / "kb"),
    )
    found = made.get_by_ids(["d", "none", "c"])
    assert [one.page_content for one in found] == ["a dog", "the cat"]
    assert found[0].metadata == {"n": 2, "tags": ["x", "y"]}
    with pytest.raises(InputError, match=r"texts\[1\] is empty"):
        made.add_texts(["good", " "])
    with pytest.raises(InputError, match="expected OpenGTEEmbeddings"):
        OpenGTEVectorStore.from_texts(["x"], OpenGTEEmbeddings(helpers.encoder()))
    with pytest.raises(InputError, match="ids is None"):
        made.delete()


def test_a_reranker_orders_documents():
    reranker = OpenGTEReranker(reranker=fake_models.FakeReranker(), top_n=2)
    documents = [Document(page_content=text) for text in ("a dog", "the red cat", "a cat")]
    found = reranker.compress_documents(documents, "the red cat")
    assert [one.page_content for one in found] == ["the red cat", "a cat"]
    assert found[0].metadata == {"relevance_score": 3.0} and documents[1].metadata == {}


def test_a_chain_from_question_to_answer(base):
    retriever = OpenGTERetriever(kb=base, k=1)
    prompt = ChatPromptTemplate.from_template("{context}\n\nQuestion: {question}")
    model = FakeListChatModel(responses=["It sleeps."])
    seen = []

    def look(value):
        seen.append(value.to_string())
        return value

    chain = (
        {
            "context": retriever | (lambda found: "\n".join(one.page_content for one in found)),
            "question": RunnablePassthrough(),
        }
        | prompt
        | look
        | model
        | StrOutputParser()
    )
    assert chain.invoke("the cat sleeps") == "It sleeps."
    assert "the cat sleeps\n\nQuestion: the cat sleeps" in seen[0]
