"""Shared by the adapters: queries are embedded as queries, documents as documents."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from opengte.errors import TruncationWarning
from opengte.types import Floats

if TYPE_CHECKING:
    from opengte.encoder import Encoder, Reranker
    from opengte.search.kb import KnowledgeBase
    from opengte.search.retrieval.search import SearchHit

ResultContent = Literal["passage", "document"]  # what a result's text is


def encoder_of(model: "Encoder | str", settings: Mapping[str, Any]) -> "Encoder":
    """Return an encoder, loaded where it is a name; settings are those of Encoder.load."""
    if not isinstance(model, str):
        return model
    import opengte

    return opengte.Encoder.load(model, **settings)


def reranker_of(model: "Reranker | str", settings: Mapping[str, Any]) -> "Reranker":
    """Return a reranker, loaded where it is a name; settings are those of Reranker.load."""
    if not isinstance(model, str):
        return model
    import opengte

    return opengte.Reranker.load(model, **settings)


def embed_queries(
    encoder: "Encoder",
    texts: Sequence[str],
    instruction: str | None = None,
    dimensions: int | None = None,
) -> Floats:
    """Return vectors (n, d) of questions, with the model's prompt or the instruction."""
    return _embedded(
        encoder, texts, role="query", instruction=instruction, dimensions=dimensions, progress=False
    )


def embed_documents(
    encoder: "Encoder", texts: Sequence[str], dimensions: int | None = None
) -> Floats:
    """Return vectors (n, d) of documents; an instruction is never before these."""
    return _embedded(encoder, texts, role="document", dimensions=dimensions, progress=False)


def _embedded(encoder: "Encoder", texts: Sequence[str], **options: Any) -> Floats:
    result = encoder.embed(list(texts), **options)
    if result.truncated:
        warnings.warn(
            f"{len(result.truncated)} of {len(result)} texts lost tokens beyond max_length = "
            f"{encoder.card.max_length}, the first at index {result.truncated[0].index}",
            TruncationWarning,
            stacklevel=4,
        )
    assert result.dense is not None
    return result.dense


def hit_texts(
    kb: "KnowledgeBase", hits: Sequence["SearchHit"], content: ResultContent
) -> list[str]:
    """Return the text of each hit: its passage, or all of its document."""
    if content == "passage":
        return [hit.passage.text for hit in hits]
    found = kb.latest().store.fetch([hit.id for hit in hits])
    return [found[hit.id].text if hit.id in found else hit.passage.text for hit in hits]


def hit_metadata(hit: "SearchHit") -> dict[str, Any]:
    """Return the metadata of a hit: those of its document, where it is, and what found it."""
    own: dict[str, Any] = {
        "id": hit.id,
        "title": hit.title,
        "heading": hit.passage.heading,
        "characters": [hit.passage.start, hit.passage.end],
        "legs": {name: {"rank": leg.rank, "score": leg.score} for name, leg in hit.legs.items()},
    }
    if hit.rerank is not None:
        own["relevance_score"] = hit.rerank
    return {**hit.metadata, **own}
