"""Find duplicate texts: equal, nearly equal (MinHash), or with close vectors.

The first text of each group is kept. Letters in shapes: n rows, d width, k rows kept so far.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opengte.embedding_ops import l2_normalise
from opengte.errors import InputError
from opengte.search import minhash
from opengte.types import Floats

BLOCK = 1024  # rows that are compared together
KEPT = 4096  # kept rows that they are compared with at once

RowIndices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Duplicates:
    """For each row the one that is kept for it (n,), itself where it is kept, and how alike (n,).

    similarity is 1 for rows that are kept.
    """

    keeper: RowIndices
    similarity: Floats

    @property
    def kept(self) -> list[int]:
        """Return the rows to keep, in order."""
        rows: list[int] = np.flatnonzero(self.keeper == np.arange(len(self.keeper))).tolist()
        return rows

    @property
    def groups(self) -> list[list[int]]:
        """Return the rows of each group of two or more, the one that is kept first."""
        found: dict[int, list[int]] = {}
        for row, keeper in enumerate(self.keeper.tolist()):
            if row != keeper:
                found.setdefault(keeper, [keeper]).append(row)
        return [found[keeper] for keeper in sorted(found)]


def text_digest(text: str) -> bytes:
    """Return what two texts have in common that differ in nothing but white space."""
    plain = " ".join(text.split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def exact_duplicates(values: Iterable[object]) -> Duplicates:
    """Group rows of equal values, such as digests."""
    first: dict[object, int] = {}
    keeper = [first.setdefault(value, row) for row, value in enumerate(values)]
    return Duplicates(np.array(keeper, np.int64), np.ones(len(keeper), np.float32))


def near_duplicates(digests: Sequence[object], signatures: Sequence[bytes]) -> Duplicates:
    """Group rows that are equal, or share nearly all runs of three words: see `minhash`.

    Of three texts of which the first two and the last two are alike, all are in one group.
    """
    same = exact_duplicates(digests)
    alike = exact_duplicates(  # so that thousands of equal signatures are compared once
        [("row", int(same.keeper[row])) if not one else one for row, one in enumerate(signatures)]
    )
    distinct = {str(row): signatures[row] for row in alike.kept if signatures[row]}
    keeper = np.arange(len(signatures), dtype=np.int64)
    for group in minhash.near_duplicate_groups(distinct):
        rows = sorted(map(int, group))
        keeper[rows] = rows[0]
    found = keeper[alike.keeper]
    similarity = [
        1.0
        if digests[row] == digests[of]
        else minhash.signature_similarity(signatures[row], signatures[of])
        for row, of in enumerate(found.tolist())
    ]
    return Duplicates(found, np.array(similarity, np.float32))


def semantic_duplicates(vectors: Floats, threshold: float) -> Duplicates:
    """Group each row (n, d) with the kept row before it that is closest, from a cosine on.

    A row is kept where no kept row before it is that close; so every row that is not kept is close
    to the one that is, however long the chain. Never more than BLOCK times KEPT numbers are held
    beside the vectors.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold is {threshold}, expected a cosine above 0, up to 1")
    rows = l2_normalise(np.ascontiguousarray(vectors, dtype=np.float32))
    limit = np.float32(threshold - 1e-6)  # equal vectors differ in the last digit of their product
    keeper = np.arange(len(rows), dtype=np.int64)
    similarity = np.ones(len(rows), np.float32)
    kept = np.zeros(len(rows), np.int64)
    count = 0
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        best, of = _closest(block, rows, kept[:count])
        inside = block @ block.T
        fresh: list[int] = []  # of this block
        for i in range(len(block)):
            if fresh:
                value = inside[i, fresh]
                place = int(value.argmax())
                if value[place] > best[i]:
                    best[i], of[i] = value[place], start + fresh[place]
            if best[i] >= limit:
                keeper[start + i], similarity[start + i] = of[i], min(best[i], np.float32(1.0))
            else:
                fresh.append(i)
        kept[count : count + len(fresh)] = start + np.array(fresh, np.int64)
        count += len(fresh)
    return Duplicates(keeper, similarity)


def _closest(block: Floats, rows: Floats, kept: RowIndices) -> tuple[Floats, RowIndices]:
    """Return the highest cosine of each row of a block with kept rows, and with which."""
    best = np.full(len(block), -np.inf, np.float32)
    of = np.full(len(block), -1, np.int64)
    for start in range(0, len(kept), KEPT):
        part = kept[start : start + KEPT]
        with np.errstate(invalid="ignore"):  # BLAS may read, and not use, what is beside the rows
            found = block @ rows[part].T
        place = found.argmax(axis=1)
        value = found[np.arange(len(block)), place]
        better = value > best
        best[better], of[better] = value[better], part[place[better]]
    return best, of
