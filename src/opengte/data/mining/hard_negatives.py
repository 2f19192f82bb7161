"""Hard-negative mining: texts that are near a query and do not answer it.

For each query an encoder ranks the corpus, exactly. Known answers (the positives of all rows of the
query) and the query itself are left out. Of the rest, texts within a window of ranks are
candidates. Likely false negatives, which score too near the best positive, are removed; a reranker
may reject more; and `count` of the rest are drawn for each row.

What is near depends on the model: cosines of unrelated texts are near 0 in one and near 0.8 in
another. A score is therefore measured from the query's mean score over the corpus, as a share of
the way from there to the best positive; `margin` is the greatest share that a negative may have.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from opengte.data.arrays import Longs
from opengte.data.cleaning.filters import ExampleHashes
from opengte.data.examples import Example, joint_hash, text_hash
from opengte.data.mining import disk_store
from opengte.data.mining.exact_search import nearest_rows
from opengte.errors import InputError, OpenGTEWarning
from opengte.types import Floats

QUERIES = 512  # that are compared at once
CORPUS = 16384  # vectors of a block

EmbedTexts = Callable[[Sequence[str]], Floats]
ScoreDocuments = Callable[[str, Sequence[str]], Floats]  # a query and documents -> scores
SearchCorpus = Callable[[Floats, Iterable[Floats], int], tuple[Floats, Longs]]

POSITIVE = "answers the query"
QUERY = "is the query"
WINDOW = "outside the ranks"
MARGIN = "too near for the margin"
REFUSED = "refused by the reranker"
SURPLUS = "not drawn"
TAKEN = "taken"


@dataclass(frozen=True)
class MiningSettings:
    """Which candidates become negatives.

    first and last bound the rank, counted from 1 without known answers; margin is the highest
    score that a negative may have, as a share of the way from the query's mean score over the
    corpus to that of the best positive (None: no limit); reranker_margin is how far below the best
    positive the reranker must score it; draw takes random candidates or the nearest ("top"); with
    only_missing, rows that have negatives get no others. Raises InputError for impossible values.

    >>> MiningSettings(count=4, first=10, last=50).margin
    0.95
    """

    count: int = 8
    first: int = 2
    last: int = 100
    margin: float | None = 0.95
    reranker_margin: float = 0.0
    draw: Literal["random", "top"] = "random"
    seed: int = 0
    only_missing: bool = False

    def __post_init__(self) -> None:
        """Check that there can be a candidate."""
        if self.count < 1 or not 1 <= self.first <= self.last:
            raise InputError(
                f"count={self.count}, first={self.first}, last={self.last}; expected a count of at "
                "least 1 and ranks with 1 <= first <= last"
            )
        if self.margin is not None and not 0 < self.margin <= 1:
            raise InputError(f"margin={self.margin}; expected a number in (0, 1], or None")
        if self.margin is not None and self.margin < 0.5:
            warnings.warn(
                f"margin={self.margin:g} leaves out nearly every candidate: it is the highest "
                "score of a negative, where 0 is the query's mean over the corpus and 1 that of "
                f"its positive, not a distance. For {self.margin:g} below the positive, "
                f"pass {1 - self.margin:g}",
                OpenGTEWarning,
                stacklevel=3,
            )


@dataclass(frozen=True)
class Candidate:
    """A text of the corpus: its number, its rank without known answers, its score and hash."""

    number: int
    rank: int
    score: float
    hash: bytes


@dataclass
class MiningReport:
    """Counts of candidates by rule, of rows, and of rows by their number of negatives."""

    rows: int = 0
    queries: int = 0
    corpus: int = 0
    candidates: Counter[str] = field(default_factory=Counter)
    negatives: Counter[int] = field(default_factory=Counter)  # found for a row -> rows
    dropped: Counter[str] = field(default_factory=Counter)  # rule -> rows that could not be used

    def shortage(self, settings: MiningSettings) -> str:
        """Say what is missing if fewer than half of the wanted negatives were found, else ""."""
        wanted, found = settings.count * self.rows, sum(n * c for n, c in self.negatives.items())
        if 2 * found >= wanted:
            return ""
        reasons = ", ".join(
            f"{self.candidates[rule]:,} {rule}"
            for rule in (MARGIN, WINDOW, REFUSED)
            if self.candidates[rule]
        )
        margin = "no limit" if settings.margin is None else f"margin {settings.margin:g}"
        return (
            f"found {found:,} of {wanted:,} wanted negatives; {self.negatives[0]:,} of "
            f"{self.rows:,} rows have none. Candidates left out: {reasons or 'none'} ({margin}, "
            f"ranks {settings.first} to {settings.last}). Raise the margin towards 1, give more "
            "texts, or mine with another model."
        )

    def record(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "rows": self.rows,
            "queries": self.queries,
            "corpus": self.corpus,
            "candidates": dict(sorted(self.candidates.items())),
            "dropped": dict(sorted(self.dropped.items())),
            "rows_by_negatives": {str(n): c for n, c in sorted(self.negatives.items())},
        }


class MiningCorpus:
    """The queries, the answers of each, and the distinct texts that may be negatives."""

    def __init__(self, folder: Path) -> None:
        self.queries, self.corpus = (
            disk_store.TextStore(folder / f"{n}.txt") for n in ("queries", "corpus")
        )
        self.query_numbers: dict[bytes, int] = {}
        self.corpus_numbers: dict[bytes, int] = {}
        self.answers: list[set[int]] = []  # corpus numbers of each query's positives

    def add(self, example: Example) -> None:
        """Add a row: its query, and its positives and negatives to the corpus."""
        hashed = ExampleHashes.of(example)
        query = self.query_numbers.get(hashed.query)
        if query is None:
            query = self.query_numbers[hashed.query] = len(self.queries)
            self.queries.append(example.query)
            self.answers.append(set())
        for index, (text, own) in enumerate(zip(example.documents, hashed.documents, strict=True)):
            number = self.add_text(text, own)
            if index < len(example.positives):
                self.answers[query].add(number)

    def add_text(self, text: str, own: bytes | None = None) -> int:
        """Add a text to the corpus, once, and return its number."""
        own = text_hash(text) if own is None else own
        number = self.corpus_numbers.get(own)
        if number is None:
            number = self.corpus_numbers[own] = len(self.corpus)
            self.corpus.append(text)
        return number

    def identity(self, model: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the vectors of the queries, and of the corpus, depend on."""
        both = (self.query_numbers, self.corpus_numbers)
        first, second = ({**model, "texts": joint_hash(b).hex()} for b in both)
        return first, second

    def close(self) -> None:
        """Close the files."""
        self.queries.close()
        self.corpus.close()


def mine_candidates(
    collection: MiningCorpus,
    queries: Floats,
    corpus: Floats,
    settings: MiningSettings,
    mined: MiningReport,
    score: ScoreDocuments | None = None,
    search: SearchCorpus = nearest_rows,
) -> Iterator[tuple[int, float, list[Candidate]]]:
    """Yield each query's number, its best positive's score and its candidates, nearest first.

    queries (q, d) and corpus (m, d) float32 are the vectors of the texts in `collection`.
    """
    hashes = list(collection.corpus_numbers)
    mined.queries, mined.corpus = len(queries), len(corpus)
    centre = mean_vector(corpus)
    for start in range(0, len(queries), QUERIES):
        block = np.asarray(queries[start : start + QUERIES])
        answers = collection.answers[start : start + QUERIES]
        most = max(map(len, answers), default=0)
        # known answers and the query itself take no rank
        scores, rows = search(
            block, disk_store.row_blocks(corpus, CORPUS), settings.last + most + 1
        )
        for index, (own_scores, own_rows) in enumerate(
            zip(scores.tolist(), rows.tolist(), strict=True)
        ):
            number = start + index
            best = _best(block[index], corpus, answers[index])
            ranked = zip(own_rows, own_scores, strict=True)
            itself = collection.corpus_numbers.get(_nth(collection, number))
            candidates = [
                Candidate(row, rank, value, hashes[row])
                for rank, (row, value) in enumerate(
                    _others(ranked, answers[index], itself, mined.candidates), 1
                )
            ]
            limit = max_negative_score(best, settings.margin, float(block[index] @ centre))
            kept = list(_allowed(candidates, settings, limit, mined.candidates))
            if score is not None and kept:
                kept = _judged(collection, number, kept, settings, score, mined.candidates)
            yield number, best, kept


def _nth(collection: MiningCorpus, number: int) -> bytes:
    """Return the hash of a query."""
    return text_hash(collection.queries[number])


def _best(query: Floats, corpus: Floats, answers: set[int]) -> float:
    """Return the highest score of a known answer."""
    if not answers:
        return -np.inf
    return float((np.asarray(corpus[sorted(answers)]) @ query).max())


def _others(
    ranked: Iterable[tuple[int, float]],
    answers: set[int],
    itself: int | None,
    counts: Counter[str],
) -> Iterator[tuple[int, float]]:
    """Yield the texts that are neither the query nor known answers."""
    for row, value in ranked:
        if row in answers:
            counts[POSITIVE] += 1
        elif row == itself:
            counts[QUERY] += 1
        else:
            yield row, value


def _allowed(
    found: Iterable[Candidate], settings: MiningSettings, limit: float, counts: Counter[str]
) -> Iterator[Candidate]:
    """Yield the candidates within the limits of rank and score."""
    for one in found:
        if one.rank > settings.last:
            return
        if one.rank < settings.first:
            counts[WINDOW] += 1
        elif one.score > limit:
            counts[MARGIN] += 1
        else:
            yield one


def mean_vector(corpus: Floats) -> Floats:
    """Return the mean of a corpus' vectors: its product with a query is the query's mean score."""
    total = np.zeros(corpus.shape[1], np.float64)
    for start in range(0, len(corpus), CORPUS):
        total += np.asarray(corpus[start : start + CORPUS]).sum(axis=0, dtype=np.float64)
    mean: Floats = (total / max(1, len(corpus))).astype(np.float32)
    return mean


def max_negative_score(best: float, margin: float | None, mean: float) -> float:
    """Return the highest score that a negative may have, below the best also if that is poor."""
    if margin is None or not np.isfinite(best):
        return float(np.inf)
    return best - (1 - margin) * abs(best - mean)


def _judged(
    collection: MiningCorpus,
    query: int,
    kept: list[Candidate],
    settings: MiningSettings,
    score: ScoreDocuments,
    counts: Counter[str],
) -> list[Candidate]:
    """Return the candidates that the reranker scores below the best known answer."""
    answers = sorted(collection.answers[query])
    texts = [collection.corpus[number] for number in (*answers, *(one.number for one in kept))]
    values = score(collection.queries[query], texts)
    if not answers:
        return kept
    limit = float(values[: len(answers)].max()) - settings.reranker_margin
    good = [
        one
        for one, value in zip(kept, values[len(answers) :].tolist(), strict=True)
        if value < limit
    ]
    counts[REFUSED] += len(kept) - len(good)
    return good


def draw_negatives(
    example: Example,
    candidates: Sequence[tuple[int, bytes]],
    settings: MiningSettings,
    mined: MiningReport,
) -> list[int]:
    """Return the numbers of the candidates drawn as a row's further negatives, nearest first.

    candidates are (number, hash), nearest first.
    """
    hashed = ExampleHashes.of(example)
    own = {hashed.query, *hashed.documents}
    free = [place for place, (_, one) in enumerate(candidates) if one not in own]
    chosen = free
    if settings.draw == "random":
        key = joint_hash([settings.seed.to_bytes(8, "little", signed=True), hashed.key(example)])
        luck = {
            p: hashlib.blake2b(candidates[p][1], key=key, digest_size=16).digest() for p in free
        }
        chosen = sorted(free, key=luck.__getitem__)
    chosen = sorted(chosen[: settings.count])
    mined.rows += 1
    mined.negatives[len(chosen)] += 1
    mined.candidates[TAKEN] += len(chosen)
    mined.candidates[SURPLUS] += len(free) - len(chosen)
    return [candidates[place][0] for place in chosen]
