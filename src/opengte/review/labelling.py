"""Which queries to label next: those whose label would move the decision most."""

from collections.abc import Sequence
from dataclasses import dataclass

from opengte.review.attribution import Attribution
from opengte.review.judgments import JudgedQuery
from opengte.review.replay import Found, Replay

ASKED = 40  # labels that are asked for
CONTENDERS = 5  # arms whose answers are compared
PERSISTENCE = 0.8  # of a reader who goes from one result to the next
SHOWN = 5  # documents of each side that a labeller sees


@dataclass(frozen=True)
class LabelRequest:
    """A query to label: how differently the contenders answer it, and which documents to judge."""

    text: str
    count: int
    difference: float
    documents: tuple[str, ...]


def queries_to_label(
    replay: Replay, found: Attribution, queries: Sequence[JudgedQuery], most: int = ASKED
) -> list[LabelRequest]:
    """Return the queries without judgment on which the best arms differ most from the live answers.

    A query that all arms answer alike tells nothing of them, whatever its label.
    """
    pipelines = [one.arm.change(found.live) for one in found.arms if not one.early][:CONTENDERS]
    asked = []
    for query in queries:
        if query.origin == "labels":
            continue
        now = replay.found(found.live, query.text)
        others = [replay.found(one, query.text) for one in pipelines]
        apart = max((1 - rank_overlap(now, other) for other in others), default=0.0)
        names = dict.fromkeys(group[0] for one in (now, *others) for group in one[:SHOWN])
        asked.append(LabelRequest(query.text, query.count, apart, tuple(names)))
    asked.sort(key=lambda one: (-one.difference * min(one.count, 10), one.text))
    return [one for one in asked[:most] if one.difference > 0]


def rank_overlap(a: Found, b: Found, depth: int = 10) -> float:
    """Return how alike the tops of two rankings are, 0 to 1 (rank-biased overlap, Webber 2010).

    >>> rank_overlap((("a",), ("b",)), (("a",), ("b",)))
    1.0
    """
    left, right = ([group[0] for group in one[:depth]] for one in (a, b))
    if not left and not right:
        return 1.0
    total = weight = 0.0
    for place in range(1, max(len(left), len(right)) + 1):
        share = len(set(left[:place]) & set(right[:place])) / place
        total += PERSISTENCE ** (place - 1) * share
        weight += PERSISTENCE ** (place - 1)
    return total / weight
