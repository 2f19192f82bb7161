"""Which of these documents answer the query? A document is as good as its best passage.

Documents are cut into passages, embedded in windows and compared with the query as they come, so
that memory holds one window and the best passages, however large the folder is.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opengte.search.adhoc.exact import Best, merge, nothing
from opengte.search.adhoc.files import Document
from opengte.search.ingest.splitter import Count, Passage, split

if TYPE_CHECKING:
    from opengte.encoder import Encoder

WINDOW = 256  # passages that are embedded together
PASSAGE_TOKENS = 512  # of a passage, where the model takes more: a hit should be a place to look at


@dataclass(frozen=True)
class Hit:
    """A document in the order of the results, and its best passage."""

    score: float
    document: Document
    passage: Passage


@dataclass(frozen=True)
class Found:
    """The hits, best first, and how much was looked at."""

    hits: tuple[Hit, ...]
    documents: int
    passages: int
    truncated: int


@dataclass(frozen=True)
class _Candidate:
    number: int  # of the passage, over all documents
    group: int  # number of the document
    document: Document
    passage: Passage


def search(
    encoder: "Encoder",
    query: str,
    documents: Iterable[Document],
    *,
    k: int = 10,
    instruction: str | None = None,
    passage_tokens: int | None = None,
    advance: Callable[[int], object] = lambda passages: None,
) -> Found:
    """Return the k documents whose best passage is closest to the query."""
    asked = encoder.embed([query], role="query", instruction=instruction)
    assert asked.dense is not None
    truncated, seen, groups = len(asked.truncated), 0, itertools.count()
    best, kept = nothing(1), dict[int, _Candidate]()
    numbered = zip(documents, groups, strict=False)
    for window in _windows(_candidates(numbered, *_budget(encoder, passage_tokens))):
        vectors = encoder.embed([_text(one) for one in window], role="document", progress=False)
        assert vectors.dense is not None
        numbers = np.array([(one.number, one.group) for one in window])
        best = merge(best, asked.dense, vectors.dense, numbers[:, 0], numbers[:, 1], k)
        kept = _keep(best, itertools.chain(kept.values(), window))
        truncated, seen = truncated + len(vectors.truncated), seen + len(window)
        advance(len(window))
    return Found(_hits(best, kept), next(groups), seen, truncated)


def _candidates(
    documents: Iterable[tuple[Document, int]], count: Count, limit: int
) -> Iterator[_Candidate]:
    numbers = itertools.count()
    for document, group in documents:
        for passage in split(document.text, count, limit):
            yield _Candidate(next(numbers), group, document, passage)


def _windows(candidates: Iterable[_Candidate]) -> Iterator[list[_Candidate]]:
    stream = iter(candidates)
    while window := list(itertools.islice(stream, WINDOW)):
        yield window


def _text(candidate: _Candidate) -> str:
    passage = candidate.passage
    return candidate.document.text[passage.start : passage.end]


def _keep(best: Best, candidates: Iterable[_Candidate]) -> dict[int, _Candidate]:
    """Let go of all documents but those among the best."""
    rows = set(best.rows[0].tolist())
    return {one.number: one for one in candidates if one.number in rows}


def _hits(best: Best, kept: dict[int, _Candidate]) -> tuple[Hit, ...]:
    pairs = zip(best.scores[0].tolist(), best.rows[0].tolist(), strict=True)
    return tuple(Hit(score, kept[row].document, kept[row].passage) for score, row in pairs)


def _budget(encoder: "Encoder", passage_tokens: int | None) -> tuple[Count, int]:
    """Return a count of tokens without special ones, and how many of them a passage may have."""
    tokenizer, card = encoder.tokenizer, encoder.card
    special = int(tokenizer.count([""])[0])
    taken = int(tokenizer.count([""], prompt=card.prompts.get("document", ""))[0])
    limit = min(card.max_length - taken, passage_tokens or PASSAGE_TOKENS)
    return lambda texts: [int(n) - special for n in tokenizer.count(texts)], limit
