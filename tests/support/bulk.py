"""What tests of bulk embedding share: files of rows, a pool without processes, the rows written."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opengte.bulk.shards import driver
from opengte.bulk.shards.columns import VectorColumns
from opengte.bulk.shards.plan import BulkOptions, BulkPlan, shard_file
from opengte.bulk.shards.planner import plan_run
from opengte.bulk.shards.pools import WorkerEnded
from opengte.bulk.shards.worker import ShardWorker, WorkerSettings
from tests.support.kb import WORDS, WordEncoder


class CountingEncoder(WordEncoder):
    """The encoder of words, and every text that it computed."""

    texts: list[str]

    @classmethod
    def load(cls, model, **settings):
        found = super().load(model, **settings)
        cls.texts = []
        return found

    def embed(self, texts, **options):
        found = super().embed(texts, **options)
        type(self).texts += texts
        return found


def load_words(model, **settings):
    return WordEncoder.load(model, **settings)


def write_inputs(folder: Path, seed: int = 0, rows: int = 90) -> dict[str, tuple[str, int]]:
    """Write rows into one file of each format; return text and year by id."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(rows * 2 // 3)]
    made = [
        {"id": f"r{n}", "text": texts[rng.integers(len(texts))], "title": f"t{n % 3}", "year": n}
        for n in range(rows)
    ]
    third = rows // 3
    table = pa.Table.from_pylist(made[:third])
    pq.write_table(table, folder / "a.parquet", row_group_size=7)
    lines = [json.dumps(row) for row in made[third : 2 * third]]
    (folder / "b.jsonl").write_text("\n\n".join(lines) + "\n")
    with (folder / "c.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "title", "year"])
        writer.writeheader()
        for row in made[2 * third :]:
            row["text"] += '\na "second" line, é'
            writer.writerow(row)
    return {row["id"]: (row["text"], row["year"]) for row in made}


def plan(source: Path | str, output: Path | str, encoder=None, columns=VectorColumns, **options):
    chosen = BulkOptions(**{"model": "minilm", "shard_tokens": 60, **options})
    encoder = encoder or WordEncoder.load("minilm")
    return plan_run(encoder, str(source), str(output), chosen, columns=columns)


def settings(made: BulkPlan, load=load_words, columns=VectorColumns) -> WorkerSettings:
    return WorkerSettings(made.place.url, made.options, columns, load=load)


class InlinePool:
    """Computes shards in this process; `ends` says of which tasks the worker would have ended."""

    size = 2

    def __init__(self, found: WorkerSettings, ends=lambda task: False) -> None:
        self._worker, self._ends = ShardWorker(found), ends
        self._tasks = []

    def submit(self, task):
        self._tasks.append(task)

    def outcomes(self, seconds):
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            if self._ends(task):
                yield task, WorkerEnded("signal 9")
                continue
            try:
                yield task, self._worker.run(task)
            except Exception as error:
                yield task, error

    def close(self):
        pass


def run(made: BulkPlan, load=load_words, ends=lambda task: False, columns=VectorColumns, **options):
    pool = lambda: InlinePool(settings(made, load, columns), ends)  # noqa: E731
    return driver.run_plan(made, pool, **options)


def written(made: BulkPlan) -> pa.Table:
    """Return the rows of all shards, in order."""
    names = [made.place.path(shard_file(one.number)) for one in made.shards()]
    return pa.concat_tables([pq.read_table(name) for name in names], promote_options="default")


def contents(made: BulkPlan) -> dict[str, bytes]:
    """Return the bytes of every file of shards."""
    root = Path(made.place.root)
    files = [path for kind in ("shards", "shared", "failed") for path in root.glob(f"{kind}/*/*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}
