"""The plan of a run: one Parquet file with its options and its shards, read a part at a time."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import Any, Literal

from opengte.bulk.parquet import require_pyarrow
from opengte.bulk.shards.inputs import InputFields, RowRange
from opengte.bulk.shards.places import Place
from opengte.errors import InputError

PLAN, LATEST = "plan.parquet", "latest.json"
FOLDER = 1000  # shards in one folder
KEY = b"opengte.plan"
FORMAT = 1

Dtype = Literal["float32", "float16", "int8", "binary"]


@dataclass(frozen=True)
class BulkOptions:
    """Everything but the inputs that the bytes of a run depend on.

    dtype is that of dense vectors; texts of one shard have `shard_tokens` tokens and `shard_rows`
    rows at most, one row excepted. kept_types are the Arrow types of the columns of `keep`.
    """

    model: str
    revision: str | None = None
    engine: str = "auto"
    precision: str = "auto"
    max_length: int | None = None
    offline: bool | None = None
    fingerprint: str = ""
    dimension: int = 0
    role: str | None = None
    instruction: str | None = None
    dimensions: int | None = None
    truncation: str = "right"
    outputs: tuple[str, ...] = ("dense",)
    dtype: Dtype = "float32"
    text_field: str | None = None
    id_field: str | None = None
    title_field: str | None = None
    keep: tuple[str, ...] = ()
    kept_types: tuple[str, ...] = ()
    shard_tokens: int = 2**21
    shard_rows: int = 2**15

    @property
    def fields(self) -> InputFields:
        """Return the fields that are read of a row."""
        assert self.text_field is not None
        return InputFields(self.text_field, self.id_field, self.title_field, self.keep)

    def key(self) -> str:
        """Return a digest of everything that a vector depends on, besides its text."""
        row = (
            "text_field",
            "id_field",
            "title_field",
            "keep",
            "kept_types",
            "shard_tokens",
            "shard_rows",
        )
        left = (*row, "offline", "model", "revision")
        return digest_of({k: v for k, v in asdict(self).items() if k not in left})[:12]


@dataclass(frozen=True)
class BulkShard:
    """Rows of one file that are computed and published together.

    digest is that of their ids and contents. Contents that several shards have are computed first:
    shared are the rows of this shard whose contents are computed for the others. borrowed are
    (row, source, row there): contents whose vectors are in another file of the run, or of an
    earlier one; sources are these files. Rows count from 0.
    """

    number: int
    span: RowRange
    tokens: int
    digest: str
    shared: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()
    borrowed: tuple[tuple[int, int, int], ...] = ()

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return self.span.rows or 0


@dataclass(frozen=True)
class Totals:
    """What a plan counted: rows, those that cannot be read, and contents.

    distinct are contents that no other row has, earlier those of an earlier run; tokens are of all
    rows, to_compute of what is left; truncated are rows with more tokens than the model reads.
    """

    files: int = 0
    shards: int = 0
    rows: int = 0
    invalid: int = 0
    tokens: int = 0
    truncated: int = 0
    distinct: int = 0
    earlier: int = 0
    to_compute: int = 0


@dataclass(frozen=True)
class BulkPlan:
    """A plan that is on disk. folder is that of the run, below the output."""

    place: Place
    digest: str
    input: str
    options: BulkOptions
    totals: Totals
    rate: float

    @classmethod
    def open(cls, place: str) -> "BulkPlan":
        """Open the plan of a run, or the latest plan of an output; InputError if there is none."""
        folder = Place(place)
        if (latest := folder.read(LATEST)) is not None:
            folder = folder / json.loads(latest)["run"]
        with _opened(folder, place) as table:
            found = json.loads(table.schema_arrow.metadata[KEY])
        if found["format"] != FORMAT:
            raise InputError(f"`{folder.url}` was planned by another version: plan again")
        options = found["options"]
        lists = ("outputs", "keep", "kept_types")
        options = BulkOptions(**options | {name: tuple(options[name]) for name in lists})
        return cls(
            folder,
            found["digest"],
            found["input"],
            options,
            Totals(**found["totals"]),
            found["rate"],
        )

    def shards(self, first: int = 0) -> Iterator[BulkShard]:
        """Yield all shards, a folder of them at a time: from one on, then those before it."""
        with _opened(self.place, self.place.url) as table:
            groups = table.num_row_groups
            for number in range(groups):
                group = (number + first // FOLDER) % groups
                for row in table.read_row_group(group).to_pylist():
                    yield _shard(row)

    @property
    def base(self) -> Place:
        """Return the folder of this model's runs, to which the sources of shards are relative."""
        return Place(self.place.url.rpartition("/")[0])


def shard_file(number: int, folder: str = "shards", suffix: str = ".parquet") -> str:
    """Return the name of a file of a shard in the folder of a run.

    >>> shard_file(12345)
    'shards/0012/012345.parquet'
    """
    return f"{folder}/{number // FOLDER:04}/{number:06}{suffix}"


def digest_of(value: Any) -> str:
    """Return the digest of a value of JSON."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@contextmanager
def _opened(folder: Place, asked: str) -> Iterator[Any]:
    arrow = require_pyarrow("bulk embedding")
    try:
        stream = folder.open(PLAN)
    except FileNotFoundError:
        raise InputError(
            f"`{asked}` has no plan; make one: gte bulk plan INPUT {asked} --model MODEL"
        ) from None
    with stream:
        try:
            yield arrow.parquet.ParquetFile(stream)
        except arrow.ArrowException as error:
            raise InputError(f"`{folder.path(PLAN)}` is damaged: {error}. Plan again") from error


def plan_schema(metadata: dict[str, Any]) -> Any:
    """Return the columns of a plan."""
    pa = require_pyarrow("bulk embedding")
    numbers = pa.list_(pa.int32())
    columns = {
        "number": pa.int32(),
        "file": pa.string(),
        "start": pa.int64(),
        "line": pa.int64(),
        "header": pa.int64(),
        "header_lines": pa.int32(),
        "rows": pa.int32(),
        "tokens": pa.int64(),
        "digest": pa.string(),
        "shared": numbers,
        "sources": pa.list_(pa.string()),
        "borrowed_row": numbers,
        "borrowed_source": numbers,
        "borrowed_place": numbers,
    }
    return pa.schema(list(columns.items()), metadata={KEY: json.dumps(metadata)})


def shard_row(shard: BulkShard) -> dict[str, Any]:
    """Return a shard as a row of a plan."""
    kinds = zip(*shard.borrowed, strict=True) if shard.borrowed else ((), (), ())
    names = ("borrowed_row", "borrowed_source", "borrowed_place")
    return {
        "number": shard.number,
        **asdict(shard.span),
        "tokens": shard.tokens,
        "digest": shard.digest,
        "shared": list(shard.shared),
        "sources": list(shard.sources),
        **{name: list(values) for name, values in zip(names, kinds, strict=True)},
    }


def _shard(row: dict[str, Any]) -> BulkShard:
    span = RowRange(**{field.name: row[field.name] for field in fields(RowRange)})
    borrowed = (row["borrowed_row"], row["borrowed_source"], row["borrowed_place"])
    return BulkShard(
        row["number"],
        span,
        row["tokens"],
        row["digest"],
        tuple(row["shared"]),
        tuple(row["sources"]),
        tuple(zip(*borrowed, strict=True)),
    )


def write_plan(plan: BulkPlan, shards: Iterator[BulkShard], scratch: str) -> None:
    """Write a plan, a folder of shards at a time; scratch is a local file for the meantime."""
    arrow = require_pyarrow("bulk embedding")
    metadata = {
        "format": FORMAT,
        "digest": plan.digest,
        "input": plan.input,
        "options": asdict(plan.options),
        "totals": asdict(plan.totals),
        "rate": plan.rate,
    }
    schema = plan_schema(metadata)
    with arrow.parquet.ParquetWriter(scratch, schema, compression="zstd") as writer:
        while held := [shard_row(shard) for shard in islice(shards, FOLDER)]:
            writer.write_table(arrow.Table.from_pylist(held, schema))
    plan.place.publish_file(PLAN, scratch)


def choose_plan(output: Place, plan: BulkPlan) -> None:
    """Make a plan the one that commands on its output mean."""
    run = plan.place.url.removeprefix(output.url).strip("/")
    output.publish(LATEST, json.dumps({"run": run}).encode(), replace=True)


def with_model(options: BulkOptions, card: Any) -> BulkOptions:
    """Return options with what a loaded model made of them."""
    return replace(
        options,
        fingerprint=card.fingerprint,
        engine=card.engine,
        precision=card.precision,
        max_length=card.max_length,
        dimension=options.dimensions or card.dimension,
    )
