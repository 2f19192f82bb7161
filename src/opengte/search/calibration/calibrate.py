"""Learn how sure an answer is from questions with known answers, and measure how well that works.

Without labelled questions, some are generated from the words of the documents. People use other
words, so features that depend on the wording are left out: only how close a hit is, how far it
stands out from the other candidates, and whether the legs agree, is learned. Unanswerable questions
are of two kinds: those whose documents are hidden, and those about something else (`off_topic.txt`,
a sentence each about eighty subjects). All figures come from held-out folds; questions about the
same document are in the same fold.

Letters in shapes: n examples, f features.
"""

import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from opengte.errors import InputError
from opengte.search.calibration import confidence
from opengte.search.calibration.confidence import (
    Calibration,
    CalibrationAccuracy,
    LogisticModel,
    Values,
)
from opengte.search.calibration.logistic import (
    auc,
    best_threshold,
    fit_logistic,
    score_probabilities,
)
from opengte.search.calibration.questions import Question
from opengte.search.filters import Filter
from opengte.search.index import Index
from opengte.search.retrieval import search as query
from opengte.search.stores.base import ScoredIds, SparseVector, Store
from opengte.types import Floats

if TYPE_CHECKING:
    from opengte.encoder import LateInteraction, Reranker

FOLDS = 5
LEAST = 20  # questions to learn from
LEARNED = 5  # hits of a question that are examples
GENERATED = 300  # documents that questions are made of
WORDLESS = ("dense", "dense_z", "dense_margin", "lexical_z", "sparse_z", "agreement", "first")
CLOSENESS = ("dense", "dense_z", "dense_margin", "sparse_z")
OFF_TOPIC = "off_topic.txt"
LEAST_OFF_TOPIC = 10  # questions about something else, or none of them are used
READ = 3_000  # characters of a document that such a question is made of
SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\n+")
KEPT = 0.15, 0.6  # share of the words of a sentence that a question has
WORD = re.compile(r"\w")
STRETCH = 60  # words of a document, out of which a question about more than a sentence is made
WORDS = 2, 9  # of a generated question


@dataclass(frozen=True, eq=False)
class _Example:
    """One search: evidence (h, f), which hits are right, and whether a right one is there."""

    group: str
    rows: Values
    right: tuple[bool, ...]
    answerable: bool
    off_topic: bool = False


def calibrate(
    index: Index,
    questions: Sequence[Question] | None,
    *,
    generate: int = GENERATED,
    seed: int = 0,
    reranker: "Reranker | LateInteraction | None" = None,
    options: query.SearchOptions | None = None,
) -> Calibration:
    """Learn the confidence of an index's answers, and return it; nothing is kept here."""
    asked = options or query.SearchOptions(k=confidence.EVIDENCE_HITS)
    search = _Search(index, asked, reranker)
    if questions is None:
        examples = list(_generated(search, generate, seed))
    else:
        examples = list(_labelled(search, questions))
    if questions is None or all(one.relevant for one in questions):
        examples += _off_topic(search, examples, seed)
    _check(examples)
    kinds = _kinds(examples, seed, wordless=questions is None)
    accuracy = _accuracy(examples, kinds, seed)
    return Calibration(
        hit=kinds[0].fit(examples),
        there=kinds[1].fit(examples),
        accuracy=accuracy,
        way=confidence.search_configuration(asked, reranker),
        identity=confidence.scoring_settings(index.settings),
        learned_from="generated" if questions is None else "labelled",
        made=time.time(),
    )


# --- examples ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Search:
    index: Index
    options: query.SearchOptions
    reranker: "Reranker | LateInteraction | None"

    def __call__(
        self, question: Question, group: str, hidden: frozenset[str] = frozenset()
    ) -> tuple[_Example | None, query.SearchResult]:
        """Ask a question, some documents left out; None where nothing at all was found."""
        if not question.text.strip():
            return None, query.SearchResult((), {}, {})
        store = cast(Store, HidingStore(self.index.store, hidden)) if hidden else self.index.store
        answer = query.search(
            store, self.index.encode_query(question.text), self.options, self.reranker
        )
        if not answer.hits:
            return None, answer
        relevant = (question.relevant or {}).keys() - hidden
        right = tuple(bool(relevant & {hit.id, *hit.duplicates}) for hit in answer.hits)
        rows = confidence.hit_evidence(answer, question.text)
        return _Example(group, rows, right, bool(relevant)), answer


class HidingStore:
    """A store from which some documents are hidden: what it would answer if they were not there."""

    def __init__(self, store: Store, hidden: frozenset[str]) -> None:
        self._store = store
        self._hidden = hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def dense(
        self, query: Floats, k: int, where: Filter | None, *, exact: bool = False
    ) -> ScoredIds:
        """Search by vector, past what is hidden."""
        return self._seen(self._store.dense(query, k + len(self._hidden), where, exact=exact), k)

    def lexical(self, query: str, k: int, where: Filter | None) -> ScoredIds:
        """Search by words, past what is hidden."""
        return self._seen(self._store.lexical(query, k + len(self._hidden), where), k)

    def sparse(self, query: SparseVector, k: int, where: Filter | None) -> ScoredIds:
        """Search by learned weights, past what is hidden."""
        return self._seen(self._store.sparse(query, k + len(self._hidden), where), k)

    def _seen(self, found: ScoredIds, k: int) -> ScoredIds:
        return [one for one in found if one[0] not in self._hidden][:k]


def _labelled(search: _Search, questions: Sequence[Question]) -> Iterator[_Example]:
    """Yield an example for each question, and, unless some have no answer, one with it hidden."""
    hide = all(one.relevant for one in questions)
    for one in questions:
        if one.relevant is None:
            raise InputError(f"the question {one.text!r:.60} does not say what answers it")
        group = min(one.relevant, default=one.text)
        found, _ = search(one, group)
        if found:
            yield found
        if hide:
            found, _ = search(one, group, frozenset(one.relevant))
            if found:
                yield found


def _generated(search: _Search, count: int, seed: int) -> Iterator[_Example]:
    """Yield two examples for each of some documents: a question with it there, and with it hidden.

    Copies of the document are hidden with it.
    """
    chance = random.Random(seed)
    documents = search.index.store.sample(count)
    often = Counter(word for one in documents for word in query.content_stems(one.text))
    for document in documents:
        text = generate_question(document.text, often, chance)
        if text is None:
            continue
        question = Question(text, {document.id: 1.0})
        found, answer = search(question, document.id)
        copies = {document.id}
        for hit in answer.hits:
            same = {hit.id, *hit.duplicates}
            copies |= same if document.id in same else set()
        if found:
            yield found
        found, _ = search(question, document.id, frozenset(copies))
        if found:
            yield found


def _off_topic(search: _Search, examples: Sequence[_Example], seed: int) -> list[_Example]:
    """Return questions about something else, as answerable ones are made.

    Those that are closer than half of the answerable ones are left out: the index is about that.
    """
    chance, found = random.Random(seed), []
    text = resources.files("opengte.search.calibration").joinpath(OFF_TOPIC).read_text("utf-8")
    for line in text.splitlines():
        made = generate_question(line, {}, chance)
        if made is not None:
            example, _ = search(Question(made, {}), line)
            found += [replace(example, off_topic=True)] if example else []
    dense = confidence.FEATURES.index("dense")
    usual = np.median([one.rows[0, dense] for one in examples if one.answerable] or [np.inf])
    far = [one for one in found if one.rows[:, dense].max() < usual]
    return far if len(far) >= LEAST_OFF_TOPIC else []


def generate_question(text: str, often: Mapping[str, int], chance: random.Random) -> str | None:
    """Return a question in words of a text: of a sentence, or of more; None if it has none.

    A whole sentence would be found too easily, so most words are left out. A question about more
    than a sentence has words that are in many documents, as told by `often`, rather than rare ones.
    """
    if chance.random() < 0.5:
        sentences = [one for one in SENTENCE.split(text) if _content(one)]
        words = _content(chance.choice(sentences)) if sentences else []
        count = round(chance.uniform(*KEPT) * len(words))
        value = [chance.random() for _ in words]
    else:
        words = _content(text[:READ])
        start = chance.randrange(max(1, len(words) - STRETCH))
        words = words[start : start + STRETCH]
        count = chance.randint(*WORDS)
        value = [chance.random() ** (1 / _weight(word, often)) for word in words]
    if not words:
        return None
    count = min(len(words), WORDS[1], max(WORDS[0], count))
    kept = sorted(range(len(words)), key=lambda i: -value[i])[:count]
    return " ".join(words[i] for i in sorted(kept))


def _weight(word: str, often: Mapping[str, int]) -> float:
    documents = sum(often.get(stem, 0) for stem in query.content_stems(word))
    return 0.2 + math.sqrt(documents)


def _content(sentence: str) -> list[str]:
    """Return the words of a sentence that say something; none of one that is too short."""
    words = query.WORDS.findall(sentence)
    if len(words) < WORDS[0] and len(sentence) >= 16:  # written without spaces
        pieces = (sentence[i : i + 4].strip() for i in range(0, min(len(sentence), 64), 4))
        return [piece for piece in pieces if WORD.search(piece)]
    kept = [word for word in words if word.lower() not in query.STOPWORDS and len(word) > 1]
    return kept if len(kept) >= WORDS[0] else []


# --- learning ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Kind:
    """What is learned: evidence (n, f) and right (n,) of examples, and which features count."""

    rows: Callable[[Sequence[_Example]], tuple[Values, Values]]
    used: npt.NDArray[np.bool_]

    def fit(self, examples: Sequence[_Example]) -> LogisticModel:
        return fit_logistic(*self.rows(examples), self.used)


def _kinds(examples: Sequence[_Example], seed: int, *, wordless: bool) -> tuple[_Kind, _Kind]:
    """Return the two kinds: a hit is right; a right hit is there.

    The second uses several features or one, whichever loses least to the best of them at either
    sort of unanswerable questions, on held-out folds. Generated questions share rare words with
    their documents, so of them only closeness counts there, where there are cosines.
    """
    maxima = [confidence.FEATURES[i] for i in confidence.MAXIMA]
    used = np.array([not wordless or name in WORDLESS for name in confidence.FEATURES])
    every = np.concatenate([used, [not wordless or name in CLOSENESS for name in maxima]])
    close = np.array([name in CLOSENESS for name in (*confidence.FEATURES, *maxima)])
    rows = _overall(examples)[0]
    if wordless and rows[:, close].std() > 0:
        every = close
    first = close & (np.arange(len(close)) < len(used))  # without the maxima
    alone = [np.arange(len(every)) == i for i in np.flatnonzero(every & (rows.std(axis=0) > 0))]
    kinds = [_Kind(_overall, chosen) for chosen in (every, first, *alone)]
    told = np.array([_told(examples, _held_out(examples, kind, seed)) for kind in kinds])
    best = int(np.argmax((told - told.max(axis=0)).min(axis=1)))
    return _Kind(_hits, used), kinds[best]


def _told(examples: Sequence[_Example], p: Values) -> list[float]:
    """Return the AUC of probabilities (n,) for each sort of unanswerable questions."""
    right = _overall(examples)[1]
    found = []
    for off_topic in (False, True):
        sort = [not one.answerable and one.off_topic == off_topic for one in examples]
        chosen = (right > 0) | np.array(sort)
        found.append(auc(p[chosen], right[chosen]))
    return [0.0 if value is None else value for value in found]


def _held_out(examples: Sequence[_Example], kind: _Kind, seed: int) -> Values:
    """Return the probability of each row of all examples, by a model of the other folds."""
    groups = sorted({one.group for one in examples})
    random.Random(seed).shuffle(groups)
    fold = {group: number % FOLDS for number, group in enumerate(groups)}
    parts: dict[int, Values] = {}
    for number in range(FOLDS):
        learned = [one for one in examples if fold[one.group] != number]
        held = [i for i, one in enumerate(examples) if fold[one.group] == number]
        if held and learned:
            model = kind.fit(learned)
            parts |= {i: model(kind.rows([examples[i]])[0]) for i in held}
    return np.concatenate([parts[i] for i in range(len(examples))])


def _hits(examples: Sequence[_Example]) -> tuple[Values, Values]:
    """Return the evidence (n, f) for the first hits of each question, and which are right."""
    rows = np.concatenate([one.rows[:LEARNED] for one in examples])
    return rows, np.array([right for one in examples for right in one.right[:LEARNED]], np.float64)


def _overall(examples: Sequence[_Example]) -> tuple[Values, Values]:
    """Return the evidence (n, f) for an answer being there, and whether one is."""
    rows = np.array([confidence.answer_evidence(one.rows) for one in examples])
    return rows, np.array([any(one.right) for one in examples], np.float64)


def _check(examples: Sequence[_Example]) -> None:
    """Raise InputError where there is too little to learn from."""
    answered = [one for one in examples if not one.off_topic]
    if len(answered) < LEAST:
        raise InputError(
            f"{len(answered)} questions found anything: expected at least {LEAST} to learn from"
        )
    for what, right in (("the hits", _hits(answered)[1]), ("the answers", _overall(answered)[1])):
        if right.min() == right.max():
            all_are = "right" if right[0] else "wrong"
            raise InputError(
                f"{what} to all {len(answered)} questions are {all_are}: expected both"
            )


def _accuracy(
    examples: Sequence[_Example], kinds: tuple[_Kind, _Kind], seed: int
) -> CalibrationAccuracy:
    """Return how well held-out folds are predicted.

    The threshold is between what is answered and what is off topic, if there is such.
    """
    hits, there = (_held_out(examples, kind, seed) for kind in kinds)
    right = _overall(examples)[1]
    other = np.array([one.off_topic for one in examples])
    chosen = (right > 0) | other if other.any() else np.ones(len(right), bool)
    threshold, missed, passed = best_threshold(there[chosen], right[chosen])
    hidden, off_topic = _told(examples, there)
    return CalibrationAccuracy(
        questions=len(examples) - int(other.sum()),
        unanswerable=sum(not (one.answerable or one.off_topic) for one in examples),
        hit=score_probabilities(hits, _hits(examples)[1]),
        there=score_probabilities(there, right),
        threshold=threshold,
        missed=missed,
        passed=passed,
        off_topic=int(other.sum()),
        auc_off_topic=off_topic if other.any() else None,
        auc_hidden=hidden,
    )
