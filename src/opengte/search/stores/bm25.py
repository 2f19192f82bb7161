"""BM25: its parameters, and the terms of a text for stores without a full-text index of their own.

Terms are lower-case words without accents and endings. PostgreSQL scores them in SQL
(`postgres/store.py`), the store in memory in Python; LanceDB and Qdrant have their own BM25.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from opengte.errors import InputError, MissingExtraError
from opengte.search.segmentation import with_terms

K1, B = 1.2, 0.75  # of BM25
LONGEST = 64  # characters of a word that are kept
VOICING = 8  # combining class of what makes kana other kana, and is no accent
_WORDS = re.compile(r"\w+")


def term_counts(text: str, language: str | None) -> Counter[str]:
    """Return how often each word of a text, and each further term, is in it.

    language None keeps the endings of words.
    """
    stem = stemmer(language)
    return Counter(stem(word[:LONGEST]) for word in _WORDS.findall(_folded(with_terms(text))))


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.lower())
    kept = (c for c in parts if unicodedata.combining(c) in (0, VOICING))
    return unicodedata.normalize("NFC", "".join(kept))


@lru_cache(maxsize=8)
def stemmer(language: str | None) -> Callable[[str], str]:
    """Return what takes the ending off a word; InputError for a language that is not known."""
    if language is None:
        return lambda word: word
    try:
        import snowballstemmer
    except ImportError:
        raise MissingExtraError("snowballstemmer", "postgres", "Searching words") from None
    try:
        made = snowballstemmer.stemmer(language.lower())
    except KeyError:
        known = ", ".join(sorted(snowballstemmer.algorithms()))
        raise InputError(f"language is {language!r}, expected one of {known}, or none") from None
    cached: Callable[[str], str] = lru_cache(maxsize=2**17)(made.stemWord)
    return cached
