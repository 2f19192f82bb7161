"""A prepared data set, opened: its sources, and the rows of each, memory-mapped.

Letters in shapes: n rows, k requested texts, t tokens.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from opengte.data.arrays import Longs, ranges
from opengte.data.cleaning.report import Tally
from opengte.data.examples import Hashes, SourceKind
from opengte.data.shards.format import Shard, file_sha256, read_shard
from opengte.data.shards.query_groups import QueryGroups
from opengte.errors import InputError
from opengte.types import Floats, Ints, PackedBatch

FORMAT = "opengte-data 1"
MANIFEST, JOURNAL = "manifest.json", "journal.jsonl"  # the journal of an unfinished folder


@dataclass(frozen=True)
class SpecialTokenLayout:
    """The special tokens around every text of a data set: (id, token type) each."""

    head: tuple[tuple[int, int], ...]
    tail: tuple[tuple[int, int], ...]
    type: int

    @property
    def size(self) -> int:
        """Return the number of special tokens."""
        return len(self.head) + len(self.tail)


@dataclass(frozen=True, eq=False)
class TextRefs:
    """References to texts: the shard of each, and its text in that shard; both (k,) int64."""

    shards: Longs
    texts: Longs

    def __len__(self) -> int:
        """Return the number of uses."""
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class RowTexts:
    """The texts of n rows, row after row: one query each, positives, negatives."""

    queries: TextRefs
    positives: TextRefs
    negatives: TextRefs
    positive_counts: Longs  # (n,)
    negative_counts: Longs  # (n,)
    positive_scores: Floats | None
    negative_scores: Floats | None


@dataclass(frozen=True, eq=False)
class DatasetSource:
    """One source of a data set: its options, and its rows, numbered from 0 over all its shards."""

    name: str
    kind: SourceKind
    rows: int
    in_batch_negatives: bool
    instruction: str | None
    temperature: float | None
    weight: float
    labels: tuple[str, ...]
    files: tuple[str, ...]
    pool_from: dict[str, int]
    layout: SpecialTokenLayout
    shards: tuple[Shard, ...]

    @cached_property
    def starts(self) -> Longs:
        """The number of the first row of each shard, and the number of rows."""
        return np.cumsum([0, *map(len, self.shards)], dtype=np.int64)

    @cached_property
    def label_ids(self) -> Ints:
        """The label of each row, (n,); empty where rows have none."""
        return np.concatenate([shard.labels for shard in self.shards])

    @cached_property
    def longest(self) -> Ints:
        """The number of tokens of each row's longest text, (n,) int32."""
        return np.concatenate([_longest(shard) for shard in self.shards])

    def origin(self, row: int) -> tuple[str, int]:
        """Return the file and the row in it that a row came from."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        shard, own = self.shards[number], row - int(self.starts[number])
        return self.files[shard.files[own]], int(shard.places[own])

    @cached_property
    def siblings(self) -> QueryGroups:
        """The groups of rows with the same query."""
        own = (shard.hashes[shard.slots[shard.rows[:-1]]] for shard in self.shards)
        return QueryGroups(np.concatenate(list(own)))

    def get(self, rows: npt.ArrayLike) -> RowTexts:
        """Return the texts of rows (n,), in their order."""
        asked = np.asarray(rows, dtype=np.int64)
        home = np.searchsorted(self.starts, asked, side="right") - 1
        first, end = np.empty_like(asked), np.empty_like(asked)
        positives = np.empty_like(asked)
        for number in np.unique(home).tolist():
            here, shard = home == number, self.shards[number]
            own = asked[here] - self.starts[number]
            first[here], end[here] = shard.rows[own], shard.rows[own + 1]
            positives[here] = shard.positives[own]
        negatives = end - first - 1 - positives
        one = np.ones_like(asked)
        queries, _ = self._slots(home, first, one, scored=False)
        own, own_scores = self._slots(home, first + 1, positives)
        other, other_scores = self._slots(home, first + 1 + positives, negatives)
        return RowTexts(queries, own, other, positives, negatives, own_scores, other_scores)

    def hashes(self, slots: TextRefs) -> Hashes:
        """Return the hashes of texts, (k, 2) int64."""
        hashes = np.empty((len(slots), 2), dtype=np.int64)
        for number in np.unique(slots.shards).tolist():
            here = slots.shards == number
            hashes[here] = self.shards[number].hashes[slots.texts[here]]
        return hashes

    def lengths(self, slots: TextRefs) -> Longs:
        """Return the number of tokens of texts, special tokens included, (k,) int64."""
        return self._extents(slots)[1]

    def pack(self, slots: TextRefs, side: str, limit: int | None = None) -> PackedBatch:
        """Return texts as a packed batch, each truncated to `limit` tokens; special tokens stay."""
        starts, lengths = self._extents(slots)
        kept = lengths if limit is None else np.minimum(lengths, max(limit, self.layout.size + 1))
        cu_seqlens = np.zeros(len(slots) + 1, dtype=np.int32)
        np.cumsum(kept, out=cu_seqlens[1:])
        ids = np.empty(cu_seqlens[-1], dtype=np.int32)
        for number in np.unique(slots.shards).tolist():
            here = np.flatnonzero(slots.shards == number)
            source = ranges(starts[here], kept[here])
            everything = len(here) == len(slots)
            target = slice(None) if everything else ranges(cu_seqlens[here], kept[here])
            ids[target] = self.shards[number].ids[source]
        ends, cut = cu_seqlens[1:], kept < lengths
        for back, (token, _) in enumerate(reversed(self.layout.tail), 1):
            ids[ends[cut] - back] = token
        pool_from = np.minimum(self.pool_from.get(side, 0), np.maximum(kept - 1, 0))
        types = self._types(ids, cu_seqlens)
        return PackedBatch(ids, cu_seqlens, types, pool_from.astype(np.int32))

    def _types(self, ids: Ints, cu_seqlens: Ints) -> Ints:
        types = np.full_like(ids, self.layout.type)
        for index, (_, kind) in enumerate(self.layout.head):
            types[cu_seqlens[:-1] + index] = kind
        for back, (_, kind) in enumerate(reversed(self.layout.tail), 1):
            types[cu_seqlens[1:] - back] = kind
        return types

    def _extents(self, slots: TextRefs) -> tuple[Longs, Longs]:
        """Return where texts start in the ids of their shard, and their lengths, both (k,)."""
        starts, ends = np.empty_like(slots.texts), np.empty_like(slots.texts)
        for number in np.unique(slots.shards).tolist():
            here, offsets = slots.shards == number, self.shards[number].offsets
            starts[here] = offsets[slots.texts[here]]
            ends[here] = offsets[slots.texts[here] + 1]
        return starts, ends - starts

    def _slots(
        self, home: Longs, first: Longs, counts: Longs, scored: bool = True
    ) -> tuple[TextRefs, Floats | None]:
        """Return the texts of consecutive slots of each row, and their scores if there are any."""
        shard = np.repeat(home, counts)
        places = ranges(first, counts)
        texts = np.empty_like(places)
        has_scores = scored and any(len(one.scores) for one in self.shards)
        scores = np.full(len(places), np.nan, dtype=np.float32)
        for number in np.unique(home).tolist():
            here, own = shard == number, self.shards[number]
            texts[here] = own.slots[places[here]]
            if has_scores and len(own.scores):
                scores[here] = own.scores[places[here]]
        return TextRefs(shard, texts), scores if has_scores else None


@dataclass(frozen=True, eq=False)
class Dataset:
    r"""A folder that `prepare` or `gte data prepare` wrote.

    >>> from opengte import checkpoint
    >>> from opengte.data import SourceSpec, SourceTokenizer, prepare
    >>> _ = Path("faq.csv").write_text("query,answer\nhow,so\nwhy,because\n")
    >>> start = checkpoint.read_checkpoint(folder)
    >>> tokenizer = SourceTokenizer(start.tokenizer, start.prompts, 32, 32)
    >>> _ = prepare([SourceSpec("faq", (Path("faq.csv"),))], Path("data"), tokenizer)
    >>> dataset = Dataset.open("data", start.tokenizer.fingerprint)
    >>> dataset.rows, dataset.sources[0].kind
    (2, 'pairs')
    """

    folder: Path
    sources: tuple[DatasetSource, ...]
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, fingerprint: str | None = None) -> "Dataset":
        """Open a prepared folder.

        fingerprint, if given, must be that of the tokenizer that prepared it. Raises InputError if
        the folder is not a data set, is not finished, is damaged, or was made with another
        tokenizer.
        """
        folder = Path(folder)
        manifest = _manifest(folder)
        made_with = manifest["tokenizer"]["fingerprint"]
        if fingerprint is not None and fingerprint != made_with:
            raise InputError(
                f"`{folder}` was prepared with the tokenizer {made_with[:16]}…, and the model has "
                f"{fingerprint[:16]}…: its token ids mean something else. Prepare the data again "
                "with this model, or choose the model that they were made for."
            )
        try:
            layout = _layout(manifest["tokenizer"])
            sources = tuple(_source(folder, one, layout) for one in manifest["sources"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"`{folder / MANIFEST}` is damaged: {error!r}. Prepare again."
            ) from error
        return cls(folder, sources, manifest)

    @property
    def rows(self) -> int:
        """Return the number of rows of all sources."""
        return sum(source.rows for source in self.sources)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tokenizer, the sources, their options and the contents of all shards."""
        kept = {name: self.manifest[name] for name in ("format", "tokenizer", "sources")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    @property
    def tallies(self) -> dict[str, Tally]:
        """Return the counts of each source from when it was prepared."""
        return {name: Tally.of(record) for name, record in self.manifest["report"].items()}

    def check(self) -> None:
        """Compare every shard with its recorded SHA-256; InputError if one differs."""
        for source in self.manifest["sources"]:
            for one in source["shards"]:
                path = self.folder / one["shard"]
                if file_sha256(path) != one["sha256"]:
                    raise InputError(
                        f"`{path}` is not what was written: its SHA-256 differs from that in "
                        f"{MANIFEST}. Prepare the data again."
                    )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        unfinished = (folder / JOURNAL).exists()
        raise InputError(
            f"`{folder}` is not finished. Repeat the `gte data prepare` that made it."
            if unfinished
            else f"`{folder}` has no {MANIFEST}; expected a folder that `gte data prepare` made."
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}, expected {FORMAT!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"`{path}` cannot be read: {error}. Prepare the data again.") from error
    return manifest


def _layout(about: dict[str, Any]) -> SpecialTokenLayout:
    head, tail = (tuple((int(i), int(t)) for i, t in about[n]) for n in ("head", "tail"))
    return SpecialTokenLayout(head, tail, int(about["type"]))


def _source(folder: Path, about: dict[str, Any], layout: SpecialTokenLayout) -> DatasetSource:
    if about["kind"] not in get_args(SourceKind):
        raise ValueError(f"a source of the kind {about['kind']!r}")
    opened = []
    for one in about["shards"]:
        path = folder / one["shard"]
        shard = read_shard(path)
        if path.stat().st_size != one["bytes"] or len(shard) != one["rows"]:
            raise InputError(f"`{path}` is not what was written. Prepare the data again.")
        opened.append(shard)
    names = ("name", "kind", "rows", "in_batch_negatives", "instruction", "temperature", "weight")
    return DatasetSource(
        **{name: about[name] for name in names},
        labels=tuple(about["labels"]),
        files=tuple(about["files"]),
        pool_from=about["pool_from"],
        layout=layout,
        shards=tuple(opened),
    )


def _longest(shard: Shard) -> Ints:
    if len(shard) == 0:
        return np.empty(0, np.int32)
    lengths = np.diff(shard.offsets)[shard.slots]
    return np.maximum.reduceat(lengths, shard.rows[:-1]).astype(np.int32)
