"""BM25 over a pool in memory, in any language: what the index's own cannot be asked.

Documents of a pool are its whole collection: their words are counted in it alone.
"""

from collections import Counter, defaultdict
from collections.abc import MutableMapping, Sequence

import numpy as np

from opengte.search.segmentation import indexed_text
from opengte.search.stores.bm25 import K1, B, term_counts
from opengte.types import Floats

TermCache = MutableMapping[tuple[str | None, str], Counter[str]]


class WordIndex:
    """The words of documents, by language.

    >>> (WordIndex([("", "red cats"), ("", "a dog")], "English").scores("cat") > 0).tolist()
    [True, False]
    """

    def __init__(
        self,
        documents: Sequence[tuple[str, str]],
        language: str | None,
        cache: TermCache | None = None,
    ) -> None:
        """Count the words of documents, given as title and text."""
        self.language = language
        held: TermCache = {} if cache is None else cache
        counts = []
        for title, text in documents:
            whole = indexed_text(title, text)[0]
            if (language, whole) not in held:
                held[language, whole] = term_counts(whole, language)
            counts.append(held[language, whole])
        sizes = np.array([sum(one.values()) for one in counts], np.float64)
        norm = K1 * (1 - B + B * sizes / max(1.0, float(sizes.mean()) if len(sizes) else 1.0))
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, one in enumerate(counts):
            for term, often in one.items():
                postings[term].append((number, often))
        self._size = len(counts)
        self._postings = dict(postings)
        self._norm = norm

    def scores(self, query: str) -> Floats:
        """Return the BM25 score (n,) of each document; 0 where no word is shared."""
        total = np.zeros(self._size, np.float64)
        for term in term_counts(query, self.language):
            found = self._postings.get(term)
            if not found:
                continue
            places, often = np.array(found).T
            weight = np.log(1 + (self._size - len(places) + 0.5) / (len(places) + 0.5))
            total[places] += weight * often * (K1 + 1) / (often + self._norm[places])
        scores: Floats = total.astype(np.float32)
        return scores
