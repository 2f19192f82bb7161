"""MinHash signatures, which find texts that are nearly the same (Broder 1997).

The share of positions where two signatures agree estimates the Jaccard similarity of the texts'
three-word shingles, within about 0.05.
"""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

WORDS = re.compile(r"\w+")
SHINGLE_WORDS = 3  # words that are hashed together, so that their order counts
MAX_CHARACTERS = 200_000  # characters looked at
HASHES = 64
CHUNK = 4096  # runs that are hashed at once
BANDS = 16  # of four hashes: texts that share 0.8 agree in one of them, all but surely
NEAR = 0.8

_RANDOM = np.random.default_rng(20240811)  # the same in every process: signatures are kept
_FACTORS = _RANDOM.integers(1, 2**63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_SUMMANDS = _RANDOM.integers(0, 2**63, HASHES, dtype=np.uint64)


def signature(text: str) -> bytes:
    """Return the signature of a text, 128 bytes, empty for one without words."""
    words = WORDS.findall(text[:MAX_CHARACTERS].lower())
    if not words:
        return b""
    runs = {
        " ".join(words[i : i + SHINGLE_WORDS])
        for i in range(max(1, len(words) - SHINGLE_WORDS + 1))
    }
    hashes = np.fromiter(map(_hash, runs), np.uint64, len(runs))
    parts = (
        hashes[i : i + CHUNK, None] * _FACTORS + _SUMMANDS for i in range(0, len(hashes), CHUNK)
    )
    least = np.array([part.min(axis=0) for part in parts], np.uint64).min(axis=0)
    kept: bytes = (least >> np.uint64(24)).astype("<u2").tobytes()
    return kept


def _hash(run: str) -> int:
    data = run.encode("utf-8", "surrogatepass")
    return zlib.crc32(data) << 32 | zlib.crc32(data[::-1], 0x9E3779B9)


def signature_similarity(a: bytes, b: bytes) -> float:
    """Return the estimated Jaccard similarity of two texts, 0 to 1."""
    return float(np.mean(_numbers(a) == _numbers(b))) if a and b else 0.0


def first_near_duplicate(signature_: bytes, others: Sequence[bytes]) -> int | None:
    """Return the index of the first signature of a text that is nearly the same, or None."""
    there = [index for index, other in enumerate(others) if other]
    if not signature_ or not there:
        return None
    rows = _numbers(b"".join(others)).reshape(len(there), -1)
    found = np.flatnonzero((rows == _numbers(signature_)).mean(axis=1) >= NEAR)
    return there[found[0]] if len(found) else None


def near_duplicate_groups(signatures: Mapping[str, bytes]) -> list[list[str]]:
    """Return the groups of near-duplicates among named signatures, each of two names or more."""
    group: dict[str, list[str]] = {}  # of each name that has a near one; shared by its members
    for bucket in _buckets(signatures):
        rows = np.array([_numbers(signatures[name]) for name in bucket])
        for index, name in enumerate(bucket[:-1]):
            shares = (rows[index + 1 :] == rows[index]).mean(axis=1)
            for offset in np.flatnonzero(shares >= NEAR).tolist():
                _join(group, name, bucket[index + 1 + offset])
    distinct = {id(names): names for names in group.values()}
    return sorted(sorted(names) for names in distinct.values())


def _join(group: dict[str, list[str]], a: str, b: str) -> None:
    """Put two names, and those that are with them already, into one group."""
    mine, theirs = group.get(a, [a]), group.get(b, [b])
    if mine is theirs:
        return
    large, small = (mine, theirs) if len(mine) >= len(theirs) else (theirs, mine)
    large += small
    for name in (*small, a, b):
        group[name] = large


def _buckets(signatures: Mapping[str, bytes]) -> Iterable[list[str]]:
    """Yield names whose signatures agree in one band."""
    width = 2 * HASHES // BANDS
    for band in range(BANDS):
        table: dict[bytes, list[str]] = {}
        for name, value in signatures.items():
            if value:
                table.setdefault(value[band * width : (band + 1) * width], []).append(name)
        yield from (names for names in table.values() if len(names) > 1)


def _numbers(value: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    return np.frombuffer(value, dtype="<u2")
