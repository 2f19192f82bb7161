"""Search documents without an index. A document scores as its best passage.

Documents are cut into passages, embedded in windows and compared with the query as they come, so
that memory holds one window and the best passages, however large the folder is.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opengte.search.adhoc.exact import TopK, empty_top_k, merge_top_k
from opengte.search.adhoc.files import FileText
from opengte.search.ingest.splitter import TextSpan, TokenCounter, split_text

if TYPE_CHECKING:
    from opengte.encoder import Encoder

WINDOW = 256  # passages that are embedded together
PASSAGE_TOKENS = 512  # of a passage, where the model takes more: a hit should be a place to look at


@dataclass(frozen=True)
class FileHit:
    """A document in the order of the results, and its best passage."""

    score: float
    document: FileText
    passage: TextSpan


@dataclass(frozen=True)
class FileSearchResult:
    """The hits, best first, and how much was looked at."""

    hits: tuple[FileHit, ...]
    documents: int
    passages: int
    truncated: int


@dataclass(frozen=True)
class _Candidate:
    number: int  # of the passage, over all documents
    group: int  # number of the document
    document: FileText
    passage: TextSpan


def search_files(
    encoder: "Encoder",
    query: str,
    documents: Iterable[FileText],
    *,
    k: int = 10,
    instruction: str | None = None,
    passage_tokens: int | None = None,
    advance: Callable[[int], object] = lambda passages: None,
) -> FileSearchResult:
    """Return the k documents whose best passage is closest to the query."""
    asked = encoder.embed([query], role="query", instruction=instruction)
    assert asked.dense is not None
    truncated, seen, groups = len(asked.truncated), 0, itertools.count()
    best, kept = empty_top_k(1), dict[int, _Candidate]()
    numbered = zip(documents, groups, strict=False)
    for window in _windows(_candidates(numbered, *_budget(encoder, passage_tokens))):
        vectors = encoder.embed([_text(one) for one in window], role="document", progress=False)
        assert vectors.dense is not None
        numbers = np.array([(one.number, one.group) for one in window])
        best = merge_top_k(best, asked.dense, vectors.dense, numbers[:, 0], numbers[:, 1], k)
        kept = keep_best(best, itertools.chain(kept.values(), window))
        truncated, seen = truncated + len(vectors.truncated), seen + len(window)
        advance(len(window))
    return FileSearchResult(_hits(best, kept), next(groups), seen, truncated)


def _candidates(
    documents: Iterable[tuple[FileText, int]], count: TokenCounter, limit: int
) -> Iterator[_Candidate]:
    numbers = itertools.count()
    for document, group in documents:
        for passage in split_text(document.text, count, limit):
            yield _Candidate(next(numbers), group, document, passage)


def _windows(candidates: Iterable[_Candidate]) -> Iterator[list[_Candidate]]:
    stream = iter(candidates)
    while window := list(itertools.islice(stream, WINDOW)):
        yield window


def _text(candidate: _Candidate) -> str:
    passage = candidate.passage
    return candidate.document.text[passage.start : passage.end]


def keep_best(best: TopK, candidates: Iterable[_Candidate]) -> dict[int, _Candidate]:
    """Let go of all documents but those among the best."""
    rows = set(best.rows[0].tolist())
    return {one.number: one for one in candidates if one.number in rows}


def _hits(best: TopK, kept: dict[int, _Candidate]) -> tuple[FileHit, ...]:
    pairs = zip(best.scores[0].tolist(), best.rows[0].tolist(), strict=True)
    return tuple(FileHit(score, kept[row].document, kept[row].passage) for score, row in pairs)


def _budget(encoder: "Encoder", passage_tokens: int | None) -> tuple[TokenCounter, int]:
    """Return a count of tokens without special ones, and how many of them a passage may have."""
    tokenizer, card = encoder.tokenizer, encoder.card
    special = int(tokenizer.count([""])[0])
    taken = int(tokenizer.count([""], prompt=card.prompts.get("document", ""))[0])
    limit = min(card.max_length - taken, passage_tokens or PASSAGE_TOKENS)
    return lambda texts: [int(n) - special for n in tokenizer.count(texts)], limit
