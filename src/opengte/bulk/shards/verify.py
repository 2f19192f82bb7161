"""Check what a run wrote: digests, nulls, lengths, ids; and vectors, embedded again in fp32."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from opengte.bulk.parquet import require_pyarrow
from opengte.bulk.shards.columns import dense_vectors
from opengte.bulk.shards.duplicates import ContentJoin, content_hash
from opengte.bulk.shards.inputs import InputRow, read_range
from opengte.bulk.shards.plan import BulkPlan, BulkShard, shard_file
from opengte.bulk.shards.worker import (
    ShardTask,
    WorkerSettings,
    check_digest,
    finished,
    load_encoder,
)
from opengte.embedding_ops import l2_normalise
from opengte.types import Floats

LEAST = 64  # rows that are embedded again, where there are so many


@dataclass
class VerifyReport:
    """What was found. Norms are the least and the greatest length of a dense vector.

    missing and damaged are shards; duplicates are rows whose id an earlier row has; cosines are of
    `sampled` rows with their vectors in fp32.
    """

    shards: int = 0
    rows: int = 0
    missing: list[int] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    nulls: int = 0
    duplicates: int = 0
    norms: tuple[float, float] | None = None
    sampled: int = 0
    cosine_mean: float | None = None
    cosine_least: float | None = None

    @property
    def sound(self) -> bool:
        """Whether every shard is there and whole, and no vector is missing."""
        return not (self.missing or self.damaged or self.nulls)


def verify_run(
    plan: BulkPlan,
    settings: WorkerSettings,
    *,
    one_in: int = 10_000,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> VerifyReport:
    """Read every shard of a run, and embed one row in `one_in` again, in fp32, or at least 64."""
    one_in = max(1, min(one_in, plan.totals.rows // LEAST))
    options = replace(settings.options, precision="fp32", dtype="float32")
    exact = replace(settings, options=options)
    columns = settings.columns(load_encoder(exact), exact.options)
    report, cosines, norms = VerifyReport(), list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="gte-bulk-") as folder:
        ids = ContentJoin(Path(folder))
        for shard in plan.shards():
            on_progress(shard.rows)
            report.shards += 1
            table = _sound_table(plan, shard, report)
            if table is None:
                continue
            names = [content_hash("", name) for name in table["id"].to_pylist()]
            ids.add(names, shard.number, np.arange(len(names)), 0)
            report.rows += len(table)
            made = [name for name in ("dense", "windows", "sparse") if name in table.column_names]
            report.nulls += sum(table[name].null_count for name in made)
            vectors = _vectors(table, plan, plan.options.dtype)
            if vectors is not None and len(vectors):
                lengths = np.linalg.norm(vectors, axis=1)
                norms += [float(lengths.min()), float(lengths.max())]
                cosines += _cosines(plan, shard, table, vectors, columns, one_in)
        ids.join()
    report.duplicates = report.rows - ids.distinct
    report.norms = (min(norms), max(norms)) if norms else None
    report.sampled = len(cosines)
    if cosines:
        report.cosine_mean, report.cosine_least = float(np.mean(cosines)), min(cosines)
    return report


def _sound_table(plan: BulkPlan, shard: BulkShard, report: VerifyReport) -> Any:
    """Return the rows of a shard's file; None if it is not as it was written."""
    arrow, name = require_pyarrow("verifying"), shard_file(shard.number)
    if not plan.place.exists(name):
        report.missing.append(shard.number)
        return None
    with plan.place.open(name) as stream:
        whole = finished(plan.place, ShardTask(shard)) is not None and check_digest(stream)
    if not whole:
        report.damaged.append(shard.number)
        return None
    with plan.place.open(name) as stream:
        return arrow.parquet.read_table(stream)


def _vectors(table: Any, plan: BulkPlan, dtype: str) -> Floats | None:
    """Return a vector (d,) of each row: the dense one, or that of the first window."""
    if "dense" in table.column_names:
        return dense_vectors(table, plan.options.dimension, dtype)
    if "windows" in table.column_names:
        first = [windows[0]["vector"] for windows in table["windows"].to_pylist() if windows]
        return np.array(first, np.float32).reshape(len(first), -1)
    return None


def _cosines(
    plan: BulkPlan, shard: BulkShard, table: Any, vectors: Floats, columns: Any, one_in: int
) -> Iterator[float]:
    """Yield the cosines of sampled rows with vectors that are computed now."""
    hashes = table["content_hash"].to_pylist()
    places = [n for n, one in enumerate(hashes) if int.from_bytes(one[:8], "big") % one_in == 0]
    if not places:
        return
    numbers = table["row"].to_numpy()[places].tolist()
    rows = {n: row for n, (_, row) in enumerate(read_range(shard.span, plan.options.fields))}
    found = [rows[number] for number in numbers]
    contents = [(row.title, row.text) for row in found if isinstance(row, InputRow)]
    again = _vectors(columns.table(contents), plan, "float32")
    assert again is not None
    pairs = l2_normalise(vectors[places]) * l2_normalise(again)
    yield from (float(one) for one in pairs.sum(axis=1))
