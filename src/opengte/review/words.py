"""BM25 over a pool in memory, in any language: what the index's own cannot be asked.

Documents of a pool are its whole collection: their words are counted in it alone.
"""

from collections import Counter, defaultdict
from collections.abc import MutableMapping, Sequence

import numpy as np
import numpy.typing as npt

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
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, one in enumerate(counts):
            for term, often in one.items():
                self._postings[term].append((number, often))
        self._size, self._norm = len(counts), norm
        self._parts: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = {}

    def scores(self, query: str) -> Floats:
        """Return the BM25 score (n,) of each document; 0 where no word is shared."""
        total = np.zeros(self._size, np.float64)
        for term in term_counts(query, self.language):
            if term in self._postings:
                places, scores = self._part(term)
                total[places] += scores
        found: Floats = total.astype(np.float32)
        return found

    def _part(self, term: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the documents of a term, and what it adds to their scores."""
        if term not in self._parts:
            places, often = np.array(self._postings[term], np.int64).T
            weight = np.log(1 + (self._size - len(places) + 0.5) / (len(places) + 0.5))
            self._parts[term] = places, weight * often * (K1 + 1) / (often + self._norm[places])
        return self._parts[term]
