"""The i-th element of a random permutation, computed on its own: nothing is stored.

A Feistel network permutes the smallest domain of 4^b numbers that holds 0 ... n - 1; a number that
leaves 0 ... n - 1 is permuted again until it is back inside (cycle walking), which yields a
permutation of 0 ... n - 1.
"""

import numpy as np
import numpy.typing as npt

from opengte.data.arrays import Longs
from opengte.errors import InputError

Words = npt.NDArray[np.uint64]

ROUNDS = 8
GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK = 2**64 - 1


def mix(*parts: "int | Words") -> Words:
    """Return a 64-bit hash of numbers; arrays give one word for each element."""
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):  # words wrap around
        for part in parts:
            word = part if isinstance(part, np.ndarray) else np.uint64(part & MASK)
            state = _finish((state + np.uint64(GOLDEN)) ^ _finish(word + np.uint64(GOLDEN)))
    return state


def permuted(places: npt.ArrayLike, n: int, key: "int | Words") -> Longs:
    """Return the elements at the places (k,) of a permutation of 0 ... n - 1 chosen by the key.

    Raises InputError for places outside 0 ... n - 1.

    >>> sorted(permuted(np.arange(5), 5, 7).tolist())
    [0, 1, 2, 3, 4]
    """
    values = np.asarray(places, dtype=np.int64)
    if n < 1 or (len(values) and not 0 <= values.min() <= values.max() < n):
        raise InputError(f"places must be among the {n} numbers from 0; they are not")
    bits = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    keys = mix(key, np.arange(ROUNDS, dtype=np.uint64))
    result = _feistel(values.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(result >= n)
    while len(outside):
        result[outside] = _feistel(result[outside], bits, keys)
        outside = outside[result[outside] >= n]
    return result.astype(np.int64)


def _feistel(values: Words, bits: int, keys: Words) -> Words:
    """Permute the numbers below 4^bits, with a key for each round."""
    low = np.uint64(2**bits - 1)
    left, right = values >> np.uint64(bits), values & low
    with np.errstate(over="ignore"):  # words wrap around
        for key in keys:
            left, right = right, left ^ (_finish(right + key) & low)
    return left << np.uint64(bits) | right


def _finish(word: "Words | np.uint64") -> Words:
    """Scramble the bits of a word (the finaliser of SplitMix64)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(FIRST)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(SECOND)
    return np.asarray(word ^ (word >> np.uint64(31)), dtype=np.uint64)
