"""Scores pairs with a late-interaction model: token vectors of both texts, then MaxSim."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from opengte.embedding_ops import deduplicate
from opengte.engine.maxsim import TokenVectors, maxsim
from opengte.serve.inference.in_flight import with_index
from opengte.serve.inference.late_chunking import InPool
from opengte.serve.inference.registry import ReadyModel
from opengte.serve.inference.types import InputResult
from opengte.serve.types import Call, InputFailure, ScoreAnswer, ScoreRequest
from opengte.types import Truncated

Indices = npt.NDArray[np.intp]
Results = Sequence[InputResult | None]


def scores_with(ready: ReadyModel) -> bool:
    """Return whether a model scores pairs by late interaction."""
    return ready.card.kind == "encoder" and ready.card.late is not None


async def score_pairs(
    ready: ReadyModel, request: ScoreRequest, call: Call, in_pool: InPool
) -> ScoreAnswer:
    """Answer a scoring request: a query, and a document, that recurs is computed once.

    With sigmoid, where others give a score from 0 to 1, a score is the mean over query tokens:
    1 if the document has each of them. Otherwise it is the model's own.
    """
    queries, of_query = deduplicate([query for query, _ in request.pairs])
    documents, of_document = deduplicate([document for _, document in request.pairs])
    run, options, partial = ready.runner.run, ready.options, request.partial
    asked = await run(
        options.token_options(request, "query"), queries, of_query.tolist(), call, partial=partial
    )
    read = await run(
        *(options.token_options(request, "document"), documents, of_document.tolist(), call),
        partial=partial,
    )
    late = ready.model.late
    mean = request.sigmoid or (late is not None and late.mean)
    scores: list[float | None] = [None] * len(request.pairs)
    await in_pool(_score, asked.results, read.results, of_query, of_document, mean, scores)
    pairs = list(zip(of_query.tolist(), of_document.tolist(), strict=True))
    failed = {
        i: asked.failures.get(q) or read.failures.get(d)
        for i, (q, d) in enumerate(pairs)
        if q in asked.failures or d in read.failures
    }
    first = {q: i for i, (q, _) in reversed(list(enumerate(pairs)))}
    return ScoreAnswer(
        model=ready.card,
        scores=scores,
        token_counts=[
            _length(read.results[d]) + (_length(asked.results[q]) if first[q] == i else 0)
            for i, (q, d) in enumerate(pairs)
        ],
        truncated=_truncated(asked.results, read.results, pairs),
        failures=tuple(
            InputFailure(i, with_index(i, error)) for i, error in failed.items() if error
        ),
        cached=asked.shared + read.shared,
        timing=read.timing,
    )


def _score(
    queries: Results,
    documents: Results,
    of_query: Indices,
    of_document: Indices,
    mean: bool,
    into: list[float | None],
) -> None:
    """Set the score of each pair whose texts were computed."""
    for q, query in enumerate(queries):
        found = [
            (i, document.tokens)
            for i in np.flatnonzero(of_query == q).tolist()
            if (document := documents[of_document[i]]) is not None and document.tokens is not None
        ]
        if query is None or query.tokens is None or not found:
            continue
        scores = maxsim(query.tokens, TokenVectors.of([rows for _, rows in found]), mean=mean)
        for (i, _), score in zip(found, scores.tolist(), strict=True):
            into[i] = score


def _length(result: InputResult | None) -> int:
    return 0 if result is None else result.length


def _truncated(
    queries: Results, documents: Results, pairs: Sequence[tuple[int, int]]
) -> tuple[Truncated, ...]:
    """Return a record of each pair of which either text lost tokens."""
    records = []
    for index, (q, d) in enumerate(pairs):
        both = [one for one in (queries[q], documents[d]) if one is not None]
        if any(one.original_length > one.length for one in both):
            found, kept = sum(one.original_length for one in both), sum(one.length for one in both)
            records.append(Truncated(index, found, kept, any(one.at_least for one in both)))
    return tuple(records)
