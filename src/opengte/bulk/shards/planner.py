"""Make a plan: cut files into shards by tokens, find equal contents, measure a rate."""

import hashlib
import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from opengte.bulk.parquet import require_pyarrow
from opengte.bulk.shards import plan as plans
from opengte.bulk.shards.columns import ColumnMaker, Content, ContentColumns, VectorColumns
from opengte.bulk.shards.duplicates import ContentJoin, Records, content_hash
from opengte.bulk.shards.inputs import (
    InputRow,
    RowRange,
    RowsDigest,
    input_kind,
    list_inputs,
    read_range,
    row_fields,
)
from opengte.bulk.shards.places import Place
from opengte.bulk.shards.plan import BulkOptions, BulkPlan, BulkShard, Totals
from opengte.bulk.shards.worker import ContentTable
from opengte.bulk.types import InvalidRow

if TYPE_CHECKING:
    from opengte.encoder import Encoder

COUNTED = 1024  # texts that are tokenised at once
SAMPLE, SAMPLE_TOKENS = 512, 2**14  # texts and tokens by which the rate is measured
RATED = 128  # of them at once


def plan_run(
    encoder: "Encoder",
    source: str,
    output: str,
    options: BulkOptions,
    *,
    columns: ColumnMaker = VectorColumns,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> BulkPlan:
    """Plan how the rows of files become vectors, and write the plan below an output.

    source is a file, a folder or a pattern, and output a folder, both on any file system of fsspec.
    columns makes what is computed of a content. Reads every row once. A plan of the same inputs and
    options that is there already is kept. Raises InputError for inputs or options that are wrong.
    """
    files = list_inputs(source)
    fields = row_fields(
        files, options.text_field, options.id_field, options.title_field, options.keep
    )
    options = plans.with_model(options, encoder.card)
    options = replace(options, text_field=fields.text)
    made = columns(encoder, options)
    base = Place(output) / f"{_plain(options.model)}-{options.key()}"
    with tempfile.TemporaryDirectory(prefix="gte-bulk-") as name:
        folder = Path(name)
        scan = _Scan(encoder, options, folder)
        for file in files:
            scan.read(file)
            on_progress(scan.totals.rows)
        digest = plans.digest_of([options.key(), fields, scan.digest.hexdigest()])
        place = base / digest[:12]
        if place.read(plans.PLAN) is None:
            options = replace(options, kept_types=scan.kept_types())
            rate = scan.rate(made)
            _write(BulkPlan(place, digest, source, options, Totals(), rate), scan, base, folder)
        found = BulkPlan.open(place.url)
    plans.choose_plan(Place(output), found)
    return found


def _plain(model: str) -> str:
    """Return a model's name as one for a folder."""
    return re.sub(r"[^\w.-]+", "-", model.rstrip("/").rpartition("/")[2])


def _write(plan: BulkPlan, scan: "_Scan", base: Place, folder: Path) -> None:
    """Find equal contents, of earlier runs too, and write the plan."""
    earlier = list(_earlier(scan.duplicates, base))
    scan.duplicates.join()
    found = scan.duplicates
    totals = replace(
        scan.totals,
        distinct=found.distinct,
        earlier=found.earlier,
        to_compute=found.to_compute,
    )
    own = plan.place.url.rpartition("/")[2]
    shards = _linked(scan.shards(), scan.duplicates, earlier, own)
    plans.write_plan(replace(plan, totals=totals), shards, str(folder / "plan"))


def _earlier(duplicates: ContentJoin, base: Place) -> Iterator[str]:
    """Add the contents of the shards that earlier runs published; yield their files."""
    arrow = require_pyarrow("bulk embedding")
    count = 0
    for run in sorted(base.sizes()):
        for folder in sorted(base.sizes(f"{run}/shards")):
            for name in sorted(base.sizes(f"{run}/shards/{folder}")):
                if not name.endswith(".parquet"):
                    continue
                file = f"{run}/shards/{folder}/{name}"
                with base.open(file) as stream:
                    table = arrow.parquet.read_table(stream, columns=["content_hash", "row"])
                count += 1
                hashes = table["content_hash"].to_pylist()
                duplicates.add(hashes, -count, table["row"].to_numpy(), 0)
                yield file


def _linked(
    shards: Iterator[BulkShard], duplicates: ContentJoin, earlier: list[str], own: str
) -> Iterator[BulkShard]:
    """Yield shards with what they compute for others, and what they take from files."""
    for folder, group in groupby(shards, lambda shard: shard.number // plans.FOLDER):
        links = duplicates.links(folder)
        for shard in group:
            mine = links[links["shard"] == shard.number]
            yield _with_links(shard, mine, earlier, own)


def _with_links(shard: BulkShard, links: Records, earlier: list[str], own: str) -> BulkShard:
    shared = links["row"][links["source"] == shard.number]
    numbers: dict[int, int] = {}
    borrowed = [
        (int(row), numbers.setdefault(int(source), len(numbers)), int(place))
        for _, row, source, place in links.tolist()
    ]
    sources = (
        earlier[-source - 1] if source < 0 else f"{own}/{plans.shard_file(source, 'shared')}"
        for source in numbers
    )
    return replace(
        shard, shared=tuple(shared.tolist()), sources=tuple(sources), borrowed=tuple(borrowed)
    )


@dataclass
class _Cut:
    """A shard that is being filled: its contents are hash, row and tokens."""

    span: RowRange
    digest: RowsDigest = field(default_factory=RowsDigest)
    rows: int = 0
    tokens: int = 0
    contents: list[tuple[bytes, int, int]] = field(default_factory=list)


class _Scan:
    """One pass over all rows: shards, totals, a sample; contents go to `duplicates`."""

    def __init__(self, encoder: "Encoder", options: BulkOptions, folder: Path) -> None:
        self._options, self._fields = options, options.fields
        self._tokenizer, self._most = encoder.tokenizer, encoder.card.max_length
        self._windows = "passages" in options.outputs  # which read texts to their ends
        role = "document" if self._windows else options.role
        self._prompt = encoder.card.prompts.get(role or "", "")
        self._path = folder / "shards.jsonl"
        self._sample: list[Content] = []
        self._random = random.Random(0)
        self._seen = Counter[str]()
        self._kinds: dict[str, set[type]] = {name: set() for name in self._fields.keep}
        self.duplicates = ContentJoin(folder)
        self.digest = hashlib.blake2b(digest_size=16)

    @property
    def totals(self) -> Totals:
        """Return what was counted."""
        return Totals(**self._seen)

    def kept_types(self) -> tuple[str, ...]:
        """Return the Arrow type that fits all values of each column that is kept."""
        return tuple(_common_type(self._kinds[name]) for name in self._fields.keep)

    def shards(self) -> Iterator[BulkShard]:
        """Yield the shards as they were cut."""
        with self._path.open() as file:
            for number, line in enumerate(file):
                span, tokens, digest = json.loads(line)
                yield BulkShard(number, RowRange(*span), tokens, digest)

    def read(self, file: str) -> None:
        """Cut one file into shards."""
        cut: _Cut | None = None
        header: tuple[int, int] | None = None
        for start, row, tokens in self._counted(file):
            if header is None:
                is_table = input_kind(file) in ("csv", "tsv")
                header = (start, row.number - 1) if is_table else (0, 0)
            if cut is not None and self._is_full(cut, tokens):
                self._close(cut)
                cut = None
            cut = cut or _Cut(RowRange(file, start, row.number, *header))
            self._take(cut, row, tokens)
        if cut is not None:
            self._close(cut)
        self._add(files=1)

    def _counted(self, file: str) -> Iterator[tuple[int, InputRow | InvalidRow, int]]:
        """Yield where each row begins, the row, and the tokens of its text."""
        rows = read_range(RowRange(file), self._fields)
        while batch := list(islice(rows, COUNTED)):
            texts = [row.text for _, row in batch if isinstance(row, InputRow)]
            counts = iter(self._tokenizer.count(texts, prompt=self._prompt) if texts else ())
            for start, row in batch:
                yield start, row, int(next(counts)) if isinstance(row, InputRow) else 0

    def _is_full(self, cut: _Cut, tokens: int) -> bool:
        most = self._options.shard_tokens
        return cut.rows >= self._options.shard_rows or cut.tokens + self._cost(tokens) > most

    def _cost(self, tokens: int) -> int:
        return tokens if self._windows else min(tokens, self._most)

    def _take(self, cut: _Cut, row: InputRow | InvalidRow, tokens: int) -> None:
        cut.digest.add(row)
        if isinstance(row, InputRow):
            cost = self._cost(tokens)
            cut.contents.append((content_hash(row.title, row.text), cut.rows, cost))
            cut.tokens += cost
            self._add(tokens=cost, truncated=int(cost < tokens))
            for name, value in row.kept.items():
                self._kinds[name].add(type(value))
            self._draw((row.title, row.text))
        else:
            self._add(invalid=1)
        cut.rows += 1
        self._add(rows=1)

    def _close(self, cut: _Cut) -> None:
        span, number = replace(cut.span, rows=cut.rows), self._seen["shards"]
        digest = cut.digest.hexdigest()
        with self._path.open("a") as file:
            file.write(json.dumps([astuple(span), cut.tokens, digest]) + "\n")
        self.digest.update(digest.encode())
        if cut.contents:
            hashes, rows, tokens = zip(*cut.contents, strict=True)
            self.duplicates.add(list(hashes), number, rows, tokens)
        self._add(shards=1)

    def _add(self, **counts: int) -> None:
        for name, count in counts.items():
            self._seen[name] += count

    def _draw(self, content: Content) -> None:
        """Keep a fair sample of all contents."""
        texts = self._seen["rows"] - self._seen["invalid"]
        if len(self._sample) < SAMPLE:
            self._sample.append(content)
        elif (place := self._random.randrange(texts + 1)) < SAMPLE:
            self._sample[place] = content

    def rate(self, columns: ContentColumns) -> float:
        """Return the tokens that are computed here in a second; 0.0 without texts."""
        ContentTable(columns).compute(self._sample[:16])  # the first call has more to do
        table, start = ContentTable(columns), time.perf_counter()
        for place in range(0, len(self._sample), RATED):
            table.compute(self._sample[place : place + RATED])
            if table.tokens >= SAMPLE_TOKENS:
                break
        return table.tokens / (time.perf_counter() - start)


def _common_type(kinds: set[type]) -> str:
    """Return the Arrow type of a column; what is neither number nor boolean becomes a string."""
    found = kinds - {type(None)}
    if found == {bool}:
        return "bool"
    if found and found <= {int, float}:
        return "int64" if found == {int} else "double"
    return "string"
