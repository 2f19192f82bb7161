"""Equal contents of many shards, found in bounded memory: an external join on disk.

Each content is a record of 28 bytes with its hash. Records go to files by the first byte of the
hash, so that equal ones meet, and each file is sorted alone; what each shard must know of it goes
to files by shard. Nothing grows with the number of rows but these files.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opengte.bulk.shards.plan import FOLDER

Records = npt.NDArray[Any]
Key = Callable[[Records], npt.NDArray[np.int64]]

HELD = 2**20  # records in memory before they go to files
CONTENT = np.dtype([("hash", ">u8", 2), ("source", "i8"), ("row", "i4"), ("tokens", "i4")])
LINK = np.dtype([("shard", "i8"), ("row", "i4"), ("source", "i8"), ("place", "i4")])


def content_hash(title: str, text: str) -> bytes:
    """Return the 16 bytes by which equal contents are known."""
    joined = f"{len(title)}:{title}{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).digest()


class Spill:
    """Records that are sorted into files by a key, when memory holds too many of them."""

    def __init__(self, folder: Path, dtype: Any, key: Key) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._dtype, self._key = folder, dtype, key
        self._held: list[Records] = []
        self._count = 0

    def add(self, records: Records) -> None:
        """Add records."""
        self._held.append(records)
        self._count += len(records)
        if self._count >= HELD:
            self._write()

    def parts(self) -> Iterator[tuple[int, Records]]:
        """Yield each key in order, with its records in the order in which they came."""
        self._write()
        for path in sorted(self._folder.iterdir(), key=lambda path: int(path.name)):
            yield int(path.name), np.fromfile(path, self._dtype)

    def part(self, key: int) -> Records:
        """Return the records of one key."""
        self._write()
        path = self._folder / str(key)
        return np.fromfile(path, self._dtype) if path.exists() else np.zeros(0, self._dtype)

    def _write(self) -> None:
        if not self._count:
            return
        records = np.concatenate(self._held)
        self._held, self._count = [], 0
        keys = self._key(records)
        order = np.argsort(keys, kind="stable")
        records, keys = records[order], keys[order]
        edges = np.flatnonzero(np.diff(keys)) + 1
        for part, own in zip(np.split(records, edges), np.split(keys, edges), strict=True):
            with (self._folder / str(own[0])).open("ab") as file:
                part.tofile(file)


class ContentJoin:
    """Finds which shard computes a content that several have.

    Sources that are negative are files of earlier runs: what they have is not computed again.
    After `join`, `distinct`, `earlier` and `to_compute` count contents and tokens.
    """

    def __init__(self, folder: Path) -> None:
        self._contents = Spill(folder / "contents", CONTENT, _first_byte)
        self._links = Spill(folder / "links", LINK, _folder_of)
        self.distinct = self.earlier = self.to_compute = 0

    def add(self, hashes: list[bytes], source: int, rows: Any, tokens: Any) -> None:
        """Add contents of a shard, or of an earlier file."""
        records = np.zeros(len(hashes), CONTENT)
        records["hash"] = np.frombuffer(b"".join(hashes), ">u8").reshape(-1, 2)
        records["source"], records["row"], records["tokens"] = source, rows, tokens
        self._contents.add(records)

    def join(self) -> None:
        """Find equal contents; `links` then has what shards must know."""
        for _, records in self._contents.parts():
            self._join(records)

    def links(self, folder: int) -> Records:
        """Return (shard, row, source, place) for the shards of one folder, in order.

        The content of a row is at row `place` of a source. Where the source is the shard itself,
        the shard computes it for others.
        """
        found = self._links.part(folder)
        return found[np.lexsort((found["row"], found["shard"]))]

    def _join(self, records: Records) -> None:
        high, low = records["hash"][:, 0], records["hash"][:, 1]
        records = records[np.lexsort((records["row"], records["source"], low, high))]
        hashes, source = records["hash"], records["source"]
        new = np.r_[True, (hashes[1:] != hashes[:-1]).any(axis=1)]
        group = np.cumsum(new) - 1
        owner = records[new][group]  # of each record: the first of its content
        ours = source >= 0
        fresh = ours & new
        self.distinct += int(len(np.unique(group[ours])))
        self.to_compute += int(records["tokens"][fresh].sum())
        # the first of a content in each shard, where another file is the owner, or takes from it
        first = np.r_[True, (np.diff(group) != 0) | (np.diff(source) != 0)] & ours
        files = np.bincount(group[first | (new & ~ours)], minlength=new.sum())
        self.earlier += int(len(np.unique(group[ours & (owner["source"] < 0)])))
        wanted = first & (files[group] > 1)
        links = np.zeros(int(wanted.sum()), LINK)
        links["shard"], links["row"] = source[wanted], records["row"][wanted]
        links["source"], links["place"] = owner["source"][wanted], owner["row"][wanted]
        self._links.add(links)


def _first_byte(records: Records) -> npt.NDArray[np.int64]:
    return (records["hash"][:, 0] >> np.uint64(56)).astype(np.int64)


def _folder_of(records: Records) -> npt.NDArray[np.int64]:
    return np.asarray(records["shard"] // FOLDER, np.int64)
