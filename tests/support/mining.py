"""A slow search for hard negatives, and embeddings and rows to search."""

from collections import Counter

import numpy as np

from opengte.data.examples import Example, Origin, normalised_text


def number(text: str) -> float:
    return sum(float(word) for word in text.split() if word[-1].isdigit())


def vector(text: str) -> np.ndarray:
    """Embed a text as whole numbers: scores are exact however they are computed, with many ties."""
    twice = int(2 * number(text))
    return np.array([twice % 10 - 3, twice // 10 % 10 - 4, 1 + twice // 100], dtype=np.float32)


def embed(texts) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def score(query: str, texts) -> np.ndarray:
    """Rerank by letters in common."""
    return np.array([len(set(query) & set(text)) for text in texts], dtype=np.float32)


def slow_candidates(rows, query, options, rerank=None) -> tuple[list[str], Counter]:
    """Return the candidates of a query, and what became of the other texts."""
    counts: Counter[str] = Counter()
    corpus = list(dict.fromkeys(normalised_text(t) for row in rows for t in row.documents))
    original = {normalised_text(t): t for row in reversed(rows) for t in row.documents[::-1]}
    answers = {
        normalised_text(text)
        for row in rows
        if normalised_text(row.query) == normalised_text(query)
        for text in row.positives
    }
    values = {text: float(vector(query) @ vector(original[text])) for text in corpus}
    best, mean = max(values[text] for text in answers), float(np.mean(list(values.values())))
    highest = np.inf if options.margin is None else best - (1 - options.margin) * abs(best - mean)
    ranked = sorted(corpus, key=lambda text: (-values[text], corpus.index(text)))
    rank, kept = 0, []
    for text in ranked:
        if text in answers or text == normalised_text(query):
            continue
        rank += 1
        if rank < options.first or rank > options.last:
            continue
        if values[text] > highest:
            counts["too near for the margin"] += 1
            continue
        kept.append(text)
    if rerank is not None and kept:
        limit = max(rerank(query, [original[t] for t in answers])) - options.reranker_margin
        good = [text for text in kept if rerank(query, [original[text]])[0] < limit]
        counts["refused by the reranker"] += len(kept) - len(good)
        kept = good
    return kept, counts


def random_rows(seed: int, count: int) -> list[Example]:
    random = np.random.default_rng(seed)

    def text(kind: str) -> str:
        return f"{kind} {random.integers(0, 99) + random.integers(0, 2) / 2}"

    rows = []
    for i in range(count):
        query = text("Ask" if random.random() < 0.5 else "ask")
        positives = tuple({normalised_text(t): t for t in [text("p"), text("P")]}.values())
        texts = {normalised_text(t): t for t in [text("n"), query if i % 7 == 0 else text("p")]}
        others = tuple(t for n, t in texts.items() if n not in map(normalised_text, positives))
        rows.append(Example(Origin("f", i), query, positives, others))
    return rows
