"""Haystack: embedders of texts and documents, a retriever and a ranker.

>>> from opengte.integrations.haystack import OpenGTERetriever  # doctest: +SKIP
>>> pipeline.add_component("retriever", OpenGTERetriever("kb"))  # doctest: +SKIP
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opengte.errors import InputError, MissingExtraError
from opengte.integrations import common
from opengte.integrations.common import ResultContent
from opengte.search.filters import And, Condition, Filter, Not, Or
from opengte.search.kb import KnowledgeBase

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError:
    raise MissingExtraError("haystack-ai", "haystack", "The Haystack adapter") from None

if TYPE_CHECKING:
    from opengte.encoder import Encoder, Reranker

SIGNS: dict[str, Any] = {
    "==": "=",
    "!=": "!=",
    ">": ">",
    ">=": ">=",
    "<": "<",
    "<=": "<=",
    "in": "in",
    "not in": "not in",
}


class _Embedder:
    """What both embedders have: a model that is loaded by `warm_up`, or when first needed."""

    def __init__(
        self,
        model: "Encoder | str",
        dimensions: int | None,
        settings: Mapping[str, Any] | None,
    ) -> None:
        self.model = model
        self.dimensions = dimensions
        self.settings = dict(settings or {})
        self._encoder: Encoder | None = None

    def warm_up(self) -> None:
        """Load the model."""
        if self._encoder is None:
            self._encoder = common.encoder_of(self.model, self.settings)

    @property
    def encoder(self) -> "Encoder":
        """The model, loaded when first needed."""
        self.warm_up()
        assert self._encoder is not None
        return self._encoder

    def _written(self, **values: Any) -> dict[str, Any]:
        written: dict[str, Any] = default_to_dict(
            self,
            model=_name(self.model),
            dimensions=self.dimensions,
            settings=self.settings,
            **values,
        )
        return written


@component
class OpenGTETextEmbedder(_Embedder):
    """Embeds a question, with the model's prompt for queries or an instruction."""

    def __init__(
        self,
        model: "Encoder | str" = "minilm",
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        _Embedder.__init__(self, model, dimensions, settings)  # `component` makes another class
        self.instruction = instruction

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Return the vector of a question."""
        if not isinstance(text, str):
            raise TypeError(
                f"text is a {type(text).__name__}, expected a str; documents are embedded by "
                "OpenGTEDocumentEmbedder"
            )
        vectors = common.embed_queries(self.encoder, [text], self.instruction, self.dimensions)
        return {"embedding": vectors[0].tolist(), "meta": {"model": self.encoder.card.name}}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Return the vector of a question, computed in a thread."""
        return await asyncio.to_thread(self.run, text)

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline's file keeps of this."""
        return self._written(instruction=self.instruction)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "OpenGTETextEmbedder":
        """Make one of what `to_dict` returned."""
        made: OpenGTETextEmbedder = default_from_dict(cls, data)
        return made


@component
class OpenGTEDocumentEmbedder(_Embedder):
    """Embeds documents, each with the metadata named in front of its text."""

    def __init__(
        self,
        model: "Encoder | str" = "minilm",
        *,
        dimensions: int | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        _Embedder.__init__(self, model, dimensions, settings)  # `component` makes another class
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return the documents with their vectors."""
        _check(documents)
        vectors = common.embed_documents(
            self.encoder, [*map(self._text, documents)], self.dimensions
        )
        embedded = [
            replace(one, embedding=vector)
            for one, vector in zip(documents, vectors.tolist(), strict=True)
        ]
        return {"documents": embedded, "meta": {"model": self.encoder.card.name}}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Return the documents with their vectors, computed in a thread."""
        return await asyncio.to_thread(self.run, documents)

    def _text(self, one: Document) -> str:
        named = (one.meta.get(name) for name in self.meta_fields_to_embed)
        parts = [str(value) for value in named if value is not None]
        return self.embedding_separator.join([*parts, one.content or ""])

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline's file keeps of this."""
        return self._written(
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "OpenGTEDocumentEmbedder":
        """Make one of what `to_dict` returned."""
        made: OpenGTEDocumentEmbedder = default_from_dict(cls, data)
        return made


@component
class OpenGTERetriever:
    """Searches a knowledge base by meaning and words; options are those of SearchOptions.

    A document's score is the reranker's where there is one; else it orders and means nothing else.
    """

    def __init__(
        self,
        kb: KnowledgeBase | str,
        *,
        top_k: int = 10,
        filters: Mapping[str, Any] | None = None,
        reranker: "Reranker | str | None" = None,
        content: ResultContent = "passage",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.kb = kb
        self.top_k = top_k
        self.filters = filters
        self.reranker = reranker
        self.content = content
        self.options = dict(options or {})
        self._opened: tuple[KnowledgeBase, Reranker | None] | None = None

    def warm_up(self) -> None:
        """Open the knowledge base and load the reranker."""
        if self._opened is None:
            base = KnowledgeBase.open(self.kb) if isinstance(self.kb, str) else self.kb
            reader = None if self.reranker is None else common.reranker_of(self.reranker, {})
            self._opened = base, reader

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """Return the best documents; filters are Haystack's, and narrow those of the component."""
        self.warm_up()
        assert self._opened is not None
        base, reader = self._opened
        where = tuple(_filter(one) for one in (self.filters, filters) if one)
        answer = base.search(
            query,
            self.top_k if top_k is None else top_k,
            where=And(where) if where else None,
            reranker=reader,
            **self.options,
        )
        texts = common.hit_texts(base, answer.hits, self.content)
        found = []
        for text, hit in zip(texts, answer.hits, strict=True):
            name = hit.id if self.content == "document" else f"{hit.id}:{hit.passage.start}"
            score = hit.score if hit.rerank is None else hit.rerank
            found.append(
                Document(id=name, content=text, meta=common.hit_metadata(hit), score=score)
            )
        return {"documents": found}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """Return the best documents, found in a thread."""
        return await asyncio.to_thread(self.run, query, filters, top_k)

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline's file keeps of this."""
        written: dict[str, Any] = default_to_dict(
            self,
            kb=self.kb if isinstance(self.kb, str) else self.kb.place,
            top_k=self.top_k,
            filters=self.filters,
            reranker=None if self.reranker is None else _name(self.reranker),
            content=self.content,
            options=self.options,
        )
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "OpenGTERetriever":
        """Make one of what `to_dict` returned."""
        made: OpenGTERetriever = default_from_dict(cls, data)
        return made


@component
class OpenGTERanker:
    """Orders documents by how a reranker reads them beside the question."""

    def __init__(
        self,
        model: "Reranker | str",
        *,
        top_k: int | None = 10,
        instruction: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.top_k = top_k
        self.instruction = instruction
        self.settings = dict(settings or {})
        self._reranker: Reranker | None = None

    def warm_up(self) -> None:
        """Load the model."""
        if self._reranker is None:
            self._reranker = common.reranker_of(self.model, self.settings)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, Any]:
        """Return the documents from best to worst, with the reranker's scores."""
        self.warm_up()
        assert self._reranker is not None
        _check(documents)
        texts = [one.content or "" for one in documents]
        most = self.top_k if top_k is None else top_k
        ranked = self._reranker.rank(query, texts, most, instruction=self.instruction)
        return {"documents": [replace(documents[one.index], score=one.score) for one in ranked]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, Any]:
        """Return the documents from best to worst, scored in a thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline's file keeps of this."""
        written: dict[str, Any] = default_to_dict(
            self,
            model=_name(self.model),
            top_k=self.top_k,
            instruction=self.instruction,
            settings=self.settings,
        )
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "OpenGTERanker":
        """Make one of what `to_dict` returned."""
        made: OpenGTERanker = default_from_dict(cls, data)
        return made


def _filter(given: Mapping[str, Any]) -> Filter:
    """Return Haystack's filter {"operator": "AND", "conditions": [...]} as one of ours."""
    sign = given.get("operator")
    if "conditions" in given:
        parts = tuple(_filter(one) for one in given["conditions"])
        joined: dict[Any, Filter] = {"AND": And(parts), "OR": Or(parts), "NOT": Not(And(parts))}
        if sign in joined:
            return joined[sign]
        raise InputError(f"the filter's operator is {sign!r}, expected AND, OR or NOT")
    if sign not in SIGNS or "field" not in given or "value" not in given:
        raise InputError(
            f"the filter is {dict(given)!r:.200}, expected a field, a value and an operator: "
            f"{' '.join(SIGNS)}"
        )
    value = given["value"]
    several = tuple(value) if isinstance(value, list | tuple | set) else value
    return Condition(str(given["field"]).removeprefix("meta."), SIGNS[sign], several)


def _check(documents: Any) -> None:
    if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
        raise TypeError(
            "documents is no list of Documents; a text is embedded by OpenGTETextEmbedder"
        )


def _name(model: Any) -> str:
    return model if isinstance(model, str) else str(model.card.name)
