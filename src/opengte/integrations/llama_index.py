"""LlamaIndex: an embedding model, a retriever and a node postprocessor.

>>> from opengte.integrations.llama_index import OpenGTEEmbedding  # doctest: +SKIP
>>> VectorStoreIndex(nodes, embed_model=OpenGTEEmbedding("minilm"))  # doctest: +SKIP
"""

import asyncio
from typing import TYPE_CHECKING, Any

from opengte.errors import InputError, MissingExtraError
from opengte.integrations import common
from opengte.integrations.common import ResultContent

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
except ImportError:
    raise MissingExtraError("llama-index-core", "llama-index", "The LlamaIndex adapter") from None

if TYPE_CHECKING:
    from opengte.encoder import Encoder, Reranker
    from opengte.search.kb import KnowledgeBase


class OpenGTEEmbedding(BaseEmbedding):
    """An embedding model: queries with the model's prompt or your instruction, texts without.

    model is a name or a loaded Encoder; settings are those of Encoder.load.
    """

    instruction: str | None = None
    dimensions: int | None = None
    _encoder: Any = PrivateAttr()

    def __init__(
        self,
        model: "Encoder | str" = "minilm",
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        embed_batch_size: int = 256,
        settings: dict[str, Any] | None = None,
        **values: Any,
    ) -> None:
        encoder = common.encoder_of(model, settings or {})
        own: dict[str, Any] = {"instruction": instruction, "dimensions": dimensions}
        super().__init__(
            model_name=encoder.card.name, embed_batch_size=embed_batch_size, **own, **values
        )
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex writes this down."""
        return "OpenGTEEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        vectors = common.embed_queries(self._encoder, [query], self.instruction, self.dimensions)
        vector: list[float] = vectors[0].tolist()
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = common.embed_documents(
            self._encoder, texts, self.dimensions
        ).tolist()
        return vectors

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class OpenGTERetriever(BaseRetriever):
    """Searches a knowledge base by meaning and words; options are those of SearchOptions.

    content says what the text of a node is: the passage that answers, or the whole document. A
    node's score is the reranker's where there is one; else it orders and means nothing else.
    """

    def __init__(
        self,
        kb: "KnowledgeBase",
        similarity_top_k: int = 4,
        *,
        where: dict[str, Any] | None = None,
        reranker: "Reranker | None" = None,
        content: ResultContent = "passage",
        **options: Any,
    ) -> None:
        self.kb = kb
        self.similarity_top_k = similarity_top_k
        self.where = where
        self.reranker = reranker
        self.content = content
        self.options = options
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        answer = self.kb.search(
            query_bundle.query_str,
            self.similarity_top_k,
            where=self.where,
            reranker=self.reranker,
            **self.options,
        )
        texts = common.hit_texts(self.kb, answer.hits, self.content)
        nodes = []
        for text, hit in zip(texts, answer.hits, strict=True):
            told = common.hit_metadata(hit)
            silent = [name for name in told if name not in ("title", "heading")]
            node = TextNode(
                text=text,
                id_=_node_id(hit.id, hit.passage.start, self.content),
                metadata=told,
                excluded_llm_metadata_keys=silent,
                excluded_embed_metadata_keys=silent,
            )
            nodes.append(NodeWithScore(node=node, score=_score(hit)))
        return nodes

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node_id(document: str, start: int, content: ResultContent) -> str:
    return document if content == "document" else f"{document}:{start}"


def _score(hit: Any) -> float:
    return float(hit.score if hit.rerank is None else hit.rerank)


class OpenGTERerank(BaseNodePostprocessor):
    """Orders nodes by how a reranker reads them beside the question; keeps the `top_n` best."""

    top_n: int | None = 3
    instruction: str | None = None
    _reranker: Any = PrivateAttr()

    def __init__(
        self,
        reranker: "Reranker | str",
        *,
        top_n: int | None = 3,
        instruction: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        own: dict[str, Any] = {"top_n": top_n, "instruction": instruction}
        super().__init__(**own)
        self._reranker = common.reranker_of(reranker, settings or {})

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex writes this down."""
        return "OpenGTERerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("query_bundle is None, expected the question to rank nodes for")
        texts = [one.node.get_content(metadata_mode=MetadataMode.EMBED) for one in nodes]
        ranked = self._reranker.rank(
            query_bundle.query_str, texts, self.top_n, instruction=self.instruction
        )
        return [NodeWithScore(node=nodes[one.index].node, score=one.score) for one in ranked]
