"""The shard format: one file of tokenised rows, written atomically, memory-mapped to read.

A shard begins with eight bytes (the length of its header), then the header (JSON: a format name,
and for each array its dtype, shape and offset), then the arrays, little-endian, each at a multiple
of 64 bytes. docs/guides/training-data.md lists the arrays. Letters in shapes: n rows, s slots (uses
of texts), m texts, t tokens.
"""

import hashlib
import json
import mmap
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opengte.atomic_files import atomic_write
from opengte.data.arrays import Longs
from opengte.data.examples import Hashes, hashes_to_array
from opengte.errors import InputError
from opengte.types import Ints

FORMAT = "opengte-shard 1"
ALIGNED = 64
MAX_HEADER = 2**16  # bytes
CHUNK = 2**22  # bytes that are hashed at once
NAMES = {
    "ids": ("<u2", "<u4"),
    "offsets": ("<i8",),
    "hashes": ("<i8",),
    "rows": ("<i8",),
    "slots": ("<i4",),
    "positives": ("<i4",),
    "labels": ("<i4",),
    "scores": ("<f4",),
    "files": ("<i4",),
    "places": ("<i8",),
    "seen": ("<i8",),
}

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Shard:
    """The memory-mapped arrays of a shard.

    Text j has the tokens ids[offsets[j]:offsets[j + 1]], special tokens included, and the hash
    hashes[j] (m, 2). Row i uses the texts slots[rows[i]:rows[i + 1]]: its query, then positives[i]
    positives, then its negatives. scores (s,) is NaN where a text has none, or empty; labels (n,)
    is empty unless rows are labelled. Row i was row places[i] of file files[i]. seen (k, 2) holds
    the hashes of all rows read for the shard, dropped ones included, for deduplication.
    """

    ids: Array
    offsets: Longs
    hashes: Hashes
    rows: Longs
    slots: Ints
    positives: Ints
    labels: Ints
    scores: npt.NDArray[np.float32]
    files: Ints
    places: Longs
    seen: Hashes

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows) - 1

    def text_ids(self, text: int) -> Array:
        """Return the token ids of a text."""
        return self.ids[self.offsets[text] : self.offsets[text + 1]]


class ShardBuilder:
    """Collects rows, storing each text of one role once, and writes them as a shard."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}  # side and hash of the text as it is -> number
        self.ids: list[Ints] = []
        self.lengths, self.hashes = array("i"), list[bytes]()
        self.counts, self.slots, self.positives = array("i"), array("i"), array("i")
        self.labels, self.scores = array("i"), array("f")
        self.files, self.places = array("i"), array("q")
        self.seen: list[bytes] = []
        self.tokens = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.counts)

    def text(self, key: bytes, ids: Ints, own: bytes) -> int:
        """Add a new text, and return its number."""
        number = self.numbers[key] = len(self.hashes)
        self.ids.append(ids)
        self.lengths.append(len(ids))
        self.hashes.append(own)
        self.tokens += len(ids)
        return number

    def row(
        self,
        texts: Sequence[int],
        positives: int,
        scores: Sequence[float] | None,
        label: int | None,
        place: tuple[int, int],
    ) -> None:
        """Add a row by the numbers of its texts: query, positives, negatives."""
        self.counts.append(len(texts))
        self.slots.extend(texts)
        self.positives.append(positives)
        own = [float("nan")] * (len(texts) - 1) if scores is None else scores
        self.scores.extend([float("nan"), *own])
        if label is not None:
            self.labels.append(label)
        self.files.append(place[0])
        self.places.append(place[1])

    def write(self, path: Path, vocabulary: int) -> str:
        """Write the shard durably, and return its SHA-256."""
        ids = np.concatenate(self.ids) if self.ids else np.empty(0, np.int32)
        scores = np.array(self.scores, dtype=np.float32)
        arrays = {
            "ids": ids.astype("<u2" if vocabulary <= 2**16 else "<u4"),
            "offsets": _offsets(self.lengths),
            "hashes": hashes_to_array(self.hashes),
            "rows": _offsets(self.counts),
            "slots": np.array(self.slots, dtype=np.int32),
            "positives": np.array(self.positives, dtype=np.int32),
            "labels": np.array(self.labels, dtype=np.int32),
            "scores": scores[:0] if np.isnan(scores).all() else scores,
            "files": np.array(self.files, dtype=np.int32),
            "places": np.array(self.places, dtype=np.int64),
            "seen": hashes_to_array(self.seen),
        }
        return _write(path, arrays)


def read_shard(path: Path) -> Shard:
    """Memory-map a shard; InputError if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return Shard(**dict(_arrays(mapped)))
    except FileNotFoundError as error:
        raise InputError(f"`{path}` is missing. Prepare the data again.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"`{path}` is not a whole shard: {error}. Prepare it again.") from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _offsets(lengths: "array[int]") -> Longs:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.array(lengths, dtype=np.int64), out=offsets[1:])
    return offsets


def _write(path: Path, arrays: dict[str, Array]) -> str:
    little = {
        name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()
    }
    place, table = 0, {}
    for name, values in little.items():
        table[name] = {"dtype": values.dtype.str, "shape": values.shape, "at": place}
        place += -(-values.nbytes // ALIGNED) * ALIGNED
    header = json.dumps({"format": FORMAT, "arrays": table}).encode()
    header += b" " * (-(8 + len(header)) % ALIGNED)
    digest = hashlib.sha256()
    with atomic_write(path) as part, part.open("wb") as file:
        for chunk in (len(header).to_bytes(8, "little"), header, *_padded(little)):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _padded(arrays: dict[str, Array]) -> Iterator[bytes | memoryview]:
    for values in arrays.values():
        if values.nbytes:
            yield values.reshape(-1).view(np.uint8).data
            yield bytes(-values.nbytes % ALIGNED)


def _arrays(mapped: mmap.mmap) -> Iterator[tuple[str, Array]]:
    """Yield the arrays of a mapped file, checked against its size."""
    size = int.from_bytes(mapped[:8], "little")
    if size > MAX_HEADER or 8 + size > len(mapped):
        raise ValueError("its header is cut off")
    header = json.loads(mapped[8 : 8 + size])
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}, expected {FORMAT!r}")
    for name, kinds in NAMES.items():
        about = header["arrays"][name]
        if about["dtype"] not in kinds:
            raise ValueError(f"{name} has the type {about['dtype']}")
        shape = tuple(map(int, about["shape"]))
        count, start = int(np.prod(shape)), 8 + size + int(about["at"])
        if min((*shape, about["at"])) < 0:
            raise ValueError(f"{name} has the shape {shape} at {about['at']}")
        if start + count * np.dtype(about["dtype"]).itemsize > len(mapped) and count:
            raise ValueError(f"{name} is cut off")
        flat = np.frombuffer(mapped, about["dtype"], count, start if count else 0)
        yield name, flat.reshape(shape)
