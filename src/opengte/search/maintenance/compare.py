"""Compare how two indexes of the same documents answer the same questions.

Letters in shapes: n documents that either of two rankings has.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from opengte.ranking_metrics import ndcg
from opengte.search.calibration.questions import Question
from opengte.search.index import Index
from opengte.search.retrieval import search

AMONG = 10  # documents of a ranking that are compared


@dataclass(frozen=True)
class RankingChange:
    """One question: what the old and the new index found, and how alike that is.

    overlap is the share of the best 10 that both have; correlation Kendall's tau-b over all that
    either has, those that one has not at its end; values nDCG@10, None where nobody knows.
    """

    question: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    overlap: float
    correlation: float
    values: tuple[float, float] | None


@dataclass(frozen=True)
class IndexComparison:
    """All questions, the most changed first."""

    changes: tuple[RankingChange, ...]

    @property
    def overlap(self) -> float:
        """Return the mean overlap of the best 10."""
        return float(np.mean([one.overlap for one in self.changes]))

    @property
    def correlation(self) -> float:
        """Return the mean rank correlation."""
        return float(np.mean([one.correlation for one in self.changes]))

    @property
    def same_first(self) -> float:
        """Return the share of questions with the same first document."""
        return float(np.mean([one.old[:1] == one.new[:1] for one in self.changes]))

    @property
    def values(self) -> tuple[list[float], list[float]] | None:
        """Return nDCG@10 of the old and of the new index by question, None without right answers.

        Questions that nothing answers are not in it: they have no ranking to be right.
        """
        known = [one.values for one in self.changes if one.values is not None]
        return ([a for a, _ in known], [b for _, b in known]) if known else None


def compare_indexes(old: Index, new: Index, questions: Sequence[Question]) -> IndexComparison:
    """Ask two indexes; the rankings are those that a search returns by default."""
    changes = [
        ranking_change(one, ranking(old, one.text), ranking(new, one.text)) for one in questions
    ]
    return IndexComparison(tuple(sorted(changes, key=lambda one: (one.overlap, one.correlation))))


def ranking(index: Index, text: str) -> tuple[str, ...]:
    """Return the ids of the best documents for a query, best first."""
    # near-duplicates stay apart: which of them stands for the others is no difference of models
    options = search.SearchOptions(k=AMONG, collapse=False)
    return tuple(
        hit.id for hit in search.search(index.store, index.encode_query(text), options).hits
    )


def ranking_change(question: Question, old: tuple[str, ...], new: tuple[str, ...]) -> RankingChange:
    """Return how a ranking changed: overlap, rank correlation, and nDCG where it is known."""
    longest = max(len(old), len(new))
    overlap = len(set(old) & set(new)) / longest if longest else 1.0
    values = None
    if question.relevant:
        values = _ndcg(old, question.relevant), _ndcg(new, question.relevant)
    return RankingChange(question.text, old, new, overlap, kendall_tau(old, new), values)


def _ndcg(ranking: Sequence[str], relevant: Mapping[str, float]) -> float:
    gains = [relevant.get(name, 0.0) for name in ranking]
    return float(ndcg(gains, list(relevant.values()), AMONG))


def kendall_tau(a: Sequence[str], b: Sequence[str]) -> float:
    """Return Kendall's tau-b of two rankings; what one of them has not is tied at its end."""
    names = list(dict.fromkeys([*a, *b]))
    if len(names) < 2:
        return 1.0 if list(a) == list(b) else 0.0
    places = [{name: rank for rank, name in enumerate(one)} for one in (a, b)]
    x, y = (np.array([one.get(name, len(names)) for name in names]) for one in places)
    i, j = np.triu_indices(len(names), 1)
    left, right = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
    scale = math.sqrt(float(np.count_nonzero(left)) * float(np.count_nonzero(right)))
    return float((left * right).sum() / scale) if scale else 0.0
