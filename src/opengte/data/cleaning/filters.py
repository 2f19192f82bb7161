"""Filters and deduplication of single examples; each rule has a name.

If one of several documents breaks a rule, that document is removed; the row is dropped if its query
or its last positive breaks one.
"""

import struct
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

from opengte.data.examples import Example, joint_hash, text_hash
from opengte.errors import InputError

Side = Literal["query", "positive", "negative"]

EMPTY = "empty text"
SAME = "query equals positive"
EXCLUDED = "in the excluded texts"
SHORT = "too short"
LONG = "too long"
DUPLICATE = "duplicate row"
INCONSISTENT = "positive ranks too low"
BAD = "unusable row"


@dataclass(frozen=True)
class LengthLimits:
    """Lengths of texts, in characters and in tokens, special tokens included.

    Raises InputError if a maximum is below its minimum.
    """

    min_characters: int = 1
    max_characters: int | None = None
    min_tokens: int = 0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        """Check that something is between the limits."""
        for what in ("characters", "tokens"):
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if most is not None and most < least:
                raise InputError(f"max_{what}={most} is less than min_{what}={least}")

    def characters(self, text: str) -> str | None:
        """Return the rule that a text breaks by its characters, None if it breaks none."""
        return _outside(len(text), self.min_characters, self.max_characters)

    def tokens(self, count: int) -> str | None:
        """Return the rule that a number of tokens breaks, None if it breaks none."""
        return _outside(count, self.min_tokens, self.max_tokens)


def _outside(count: int, least: int, most: int | None) -> str | None:
    if count < least:
        return SHORT
    return LONG if most is not None and count > most else None


@dataclass(frozen=True)
class FilterRules:
    """The rules for the texts of an example: length limits, and texts excluded from training."""

    limits: LengthLimits = LengthLimits()
    excluded: Collection[bytes] = frozenset()  # hashes of texts, such as those of a benchmark

    def apply(
        self, example: Example, hashed: "ExampleHashes", counts: Counter[str]
    ) -> tuple[Example, "ExampleHashes"] | str:
        """Return the example without the texts that break a rule, or the rule that drops it.

        counts is incremented for each positive or negative that is removed.
        """
        if rule := self._text(example.query, hashed.query):
            return rule
        if example.label is not None or not example.positives:
            return example, hashed
        known = {hashed.query: SAME}  # texts that must not come again in this row, and why
        kept: list[int] = []
        reasons: list[str] = []
        for index, text in enumerate(example.documents):
            positive = index < len(example.positives)
            own = hashed.documents[index]
            rule = self._text(text, own) or known.get(own)
            if rule is None:
                kept.append(index)
                known[own] = "equals a positive" if positive else "twice in its row"
                continue
            reasons.append(rule)
            side = "positive" if positive else "negative"
            counts[f"{side}: {_role(rule, side)}"] += 1
        positives = sum(index < len(example.positives) for index in kept)
        if positives == 0:
            for index, rule in enumerate(reasons):  # the row is counted, not its texts
                side = "positive" if index < len(example.positives) else "negative"
                counts[f"{side}: {_role(rule, side)}"] -= 1
            return reasons[0]
        return (
            (example, hashed) if not reasons else select_documents(example, hashed, kept, positives)
        )

    def _text(self, text: str, own: bytes) -> str | None:
        if not text:
            return EMPTY
        if rule := self.limits.characters(text):
            return rule
        return EXCLUDED if own in self.excluded else None


@dataclass(frozen=True, slots=True)
class ExampleHashes:
    """The hashes of an example's texts."""

    query: bytes
    documents: tuple[bytes, ...]

    @classmethod
    def of(cls, example: Example) -> "ExampleHashes":
        """Hash the texts of an example."""
        return cls(text_hash(example.query), tuple(map(text_hash, example.documents)))

    def key(self, example: Example) -> bytes:
        """Return a hash that is equal for duplicate rows, whatever the order of their documents."""
        split = len(example.positives)
        scores = example.scores or [0.0] * len(self.documents)
        texts = [
            own + struct.pack("<d", score)
            for own, score in zip(self.documents, scores, strict=True)
        ]
        label = repr(example.label).encode("utf-8", "surrogatepass")
        return joint_hash([self.query, *sorted(texts[:split]), b"|", *sorted(texts[split:]), label])


def select_documents(
    example: Example, hashed: ExampleHashes, kept: list[int], positives: int
) -> tuple[Example, ExampleHashes]:
    """Return an example with only the given documents, of which the first are positives."""
    documents = [example.documents[index] for index in kept]
    scores = example.scores
    smaller = replace(
        example,
        positives=tuple(documents[:positives]),
        negatives=tuple(documents[positives:]),
        scores=None if scores is None else tuple(scores[index] for index in kept),
    )
    return smaller, ExampleHashes(hashed.query, tuple(hashed.documents[index] for index in kept))


def clean_example(example: Example, clean: Callable[[str], str]) -> Example:
    """Return an example with cleaned texts."""
    return replace(
        example,
        query=clean(example.query),
        positives=tuple(map(clean, example.positives)),
        negatives=tuple(map(clean, example.negatives)),
    )


def _role(rule: str, side: str) -> str:
    return "equals the query" if rule == SAME and side == "negative" else rule
