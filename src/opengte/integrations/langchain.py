"""LangChain: embeddings, a retriever, a vector store and a reranker.

>>> from opengte.integrations.langchain import OpenGTERetriever  # doctest: +SKIP
>>> OpenGTERetriever(kb=KnowledgeBase.open("kb"), k=4).invoke("parental leave")  # doctest: +SKIP
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from opengte.embedding_ops import l2_normalise
from opengte.errors import InputError, MissingExtraError
from opengte.integrations import common
from opengte.integrations.common import ResultContent
from opengte.search.index import Index
from opengte.search.kb import KnowledgeBase
from opengte.search.retrieval import search as searching
from opengte.search.retrieval.mmr import mmr
from opengte.search.retrieval.search import EncodedQuery
from opengte.types import Floats

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore
    from pydantic import ConfigDict
except ImportError:
    raise MissingExtraError("langchain-core", "langchain", "The LangChain adapter") from None

if TYPE_CHECKING:
    from opengte.encoder import Encoder

Where = Mapping[str, Any]


class OpenGTEEmbeddings(Embeddings):
    """Embeddings of a model: `embed_query` with its prompt for queries, `embed_documents` without.

    model is a name or a loaded Encoder; settings are those of Encoder.load.
    """

    def __init__(
        self,
        model: "Encoder | str" = "minilm",
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        **settings: Any,
    ) -> None:
        self.encoder = common.encoder_of(model, settings)
        self.instruction = instruction
        self.dimensions = dimensions

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each document."""
        vectors: list[list[float]] = common.embed_documents(
            self.encoder, texts, self.dimensions
        ).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        vectors = common.embed_queries(self.encoder, [text], self.instruction, self.dimensions)
        vector: list[float] = vectors[0].tolist()
        return vector


class OpenGTERetriever(BaseRetriever):
    """Searches a knowledge base by meaning and words; `options` are those of SearchOptions.

    content says what a result's text is: the passage that answers, or the whole document.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    kb: Any
    k: int = 4
    where: dict[str, Any] | None = None
    reranker: Any = None
    content: ResultContent = "passage"
    options: dict[str, Any] = {}

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        where: Where | None = None,
        **options: Any,
    ) -> list[Document]:
        answer = self.kb.search(
            query,
            self.k if k is None else k,
            where=_both(self.where, where),
            reranker=self.reranker,
            **{**self.options, **options},
        )
        texts = common.hit_texts(self.kb, answer.hits, self.content)
        return [
            Document(page_content=text, metadata=common.hit_metadata(hit), id=hit.id)
            for text, hit in zip(texts, answer.hits, strict=True)
        ]


def _both(fixed: Where | None, given: Where | None) -> Where | None:
    """Join the retriever's own filter with one of a call, which can only narrow it."""
    filters = [dict(one) for one in (fixed, given) if one]
    return {"$and": filters} if filters else None


class OpenGTEReranker(BaseDocumentCompressor):
    """Orders documents by how a reranker reads them beside the question; keeps the `top_n` best."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reranker: Any
    top_n: int | None = 3
    instruction: str | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> Sequence[Document]:
        """Return the best documents, each with `relevance_score` in its metadata."""
        ranked = self.reranker.rank(
            query,
            [one.page_content for one in documents],
            self.top_n,
            instruction=self.instruction,
        )
        return [
            documents[one.index].model_copy(
                update={"metadata": {**documents[one.index].metadata, "relevance_score": one.score}}
            )
            for one in ranked
        ]


class OpenGTEVectorStore(VectorStore):
    """A knowledge base as a vector store: whole texts, searched by vector.

    `filter` is a filter of the knowledge base, such as {"year": {"$gte": 2020}}. Scores are
    cosines. For hybrid search and passages take OpenGTERetriever.
    """

    def __init__(self, kb: KnowledgeBase) -> None:
        self.kb = kb

    @property
    def embeddings(self) -> OpenGTEEmbeddings:
        """The model of the knowledge base."""
        base = self.kb.latest()
        return OpenGTEEmbeddings(base.encoder, instruction=base.identity.instruction)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        place: str | None = None,
        **settings: Any,
    ) -> "OpenGTEVectorStore":
        """Make a knowledge base at a place out of texts; settings are those of its `create`."""
        if not isinstance(embedding, OpenGTEEmbeddings) or place is None:
            raise InputError(
                f"embedding is a {type(embedding).__name__} and place {place!r}: expected "
                "OpenGTEEmbeddings, and the folder or URL of the new index"
            )
        settings.setdefault("instruction", embedding.instruction)
        made = cls(KnowledgeBase.create(place, embedding.encoder, **settings))
        made.add_texts(texts, metadatas, ids=ids)
        return made

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **values: Any,
    ) -> list[str]:
        """Add texts, in place of those with the same ids; return the ids."""
        texts = list(texts)
        empty = [number for number, text in enumerate(texts) if not text.strip()]
        if empty:
            raise InputError(f"texts[{empty[0]}] is empty, expected some words; nothing was added")
        given: list[str | None] = [*ids] if ids else [None] * len(texts)
        names = [name or str(uuid.uuid4()) for name in given]
        self.kb.add(texts, names, metadata=metadatas)
        return names

    def delete(self, ids: list[str] | None = None, **values: Any) -> bool | None:
        """Remove documents by id."""
        if ids is None:
            raise InputError("ids is None, expected the ids of the documents to remove")
        self.kb.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return those documents that are there, in the order of the ids."""
        found = self.kb.latest().store.fetch(ids)
        return [_whole(found[name]) for name in ids if name in found]

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """Return the k documents closest to a question."""
        return [one for one, _ in self.similarity_search_with_score(query, k, **options)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Where | None = None, **options: Any
    ) -> list[tuple[Document, float]]:
        """Return documents and cosines, best first."""
        base = self.kb.latest()
        return self._closest(base, base.encode_query(query).vector, k, filter, options)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Where | None = None, **options: Any
    ) -> list[Document]:
        """Return the k documents closest to a vector."""
        vector = np.asarray(embedding, dtype=np.float32)
        found = self._closest(self.kb.latest(), vector, k, filter, options)
        return [one for one, _ in found]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Where | None = None,
        **options: Any,
    ) -> list[Document]:
        """Return k of the fetch_k closest documents that differ from each other."""
        vector = self.kb.latest().encode_query(query).vector.tolist()
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, filter=filter, **options
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Where | None = None,
        **options: Any,
    ) -> list[Document]:
        """Return k of the fetch_k documents closest to a vector that differ from each other."""
        index = self.kb.latest()
        vector = np.asarray(embedding, dtype=np.float32)
        ranking, _ = _dense(index, vector, max(k, fetch_k), filter, options)
        found = index.store.fetch([name for name, _ in ranking])
        ranking = [(name, score) for name, score in ranking if name in found]
        means = [
            np.mean([window.vector for window in found[name].windows], axis=0)
            for name, _ in ranking
        ]
        vectors = l2_normalise(np.array(means, dtype=np.float32).reshape(len(means), len(vector)))
        chosen = mmr([score for _, score in ranking], vectors, k, 1.0 - lambda_mult)
        return [_whole(found[ranking[number][0]]) for number in chosen]

    def _closest(
        self,
        index: Index,
        vector: Floats,
        k: int,
        where: Where | None,
        options: Mapping[str, Any],
    ) -> list[tuple[Document, float]]:
        ranking, _ = _dense(index, vector, k, where, options)
        found = index.store.fetch([name for name, _ in ranking])
        return [(_whole(found[name]), score) for name, score in ranking if name in found]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: (1.0 + cosine) / 2.0


def _dense(
    index: Index, vector: Floats, k: int, where: Where | None, options: Mapping[str, Any]
) -> tuple[Any, bool]:
    if not np.linalg.norm(vector) > 0:
        raise InputError("embedding is all zeros, expected a vector with a direction")
    unit = l2_normalise(vector[None])[0]
    chosen = searching.SearchOptions(k=k, where=index.filter(where), **options)
    return searching.dense_leg(index.store, EncodedQuery("", unit).vector, k, chosen)


def _whole(one: Any) -> Document:
    return Document(page_content=one.text, metadata=dict(one.metadata), id=one.id)
