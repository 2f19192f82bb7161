"""How far a run came, from what its files say; no run needs to be going on."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from opengte.bulk.shards.driver import published
from opengte.bulk.shards.plan import FOLDER, BulkPlan

ALIVE = 60.0  # seconds after which a driver that says nothing is taken to be gone
REASONS = 10
REASON_CHARACTERS = 100


@dataclass(frozen=True)
class RunStatus:
    """The state of a run: what is done, how fast, at what cost, and why rows failed.

    rate is in tokens a second of all drivers that run, or of the last one; seconds_left is None
    where nothing runs. cost is in the currency of `--price`, None without one.
    """

    state: str
    shards: int
    shards_done: int
    rows: int
    rows_done: int
    rows_failed: int
    reasons: tuple[tuple[str, int], ...]
    drivers: int
    workers: int
    ended_workers: int
    rate: float
    rate_of_worker: float
    seconds_left: float | None
    cost: float | None


def run_status(plan: BulkPlan) -> RunStatus:
    """Return the state of a run."""
    shards = rows = tokens = 0
    for folder, group in groupby(plan.shards(), lambda shard: shard.number // FOLDER):
        there = published(plan, folder)
        for shard in group:
            if f"{shard.number:06}.parquet" in there:
                shards, rows, tokens = shards + 1, rows + shard.rows, tokens + shard.tokens
    reasons = Counter(reason[:REASON_CHARACTERS] for reason in failure_reasons(plan))
    notes = list(_notes(plan))
    alive = [note for note in notes if not note["ended"] and time.time() - note["updated"] < ALIVE]
    timed = alive or notes[-1:]
    rate = sum(note["tokens"] / max(1e-3, note["updated"] - note["started"]) for note in timed)
    workers = sum(note["workers"] for note in timed)
    totals, complete = plan.totals, shards == plan.totals.shards
    left = (totals.tokens - tokens) * (totals.to_compute / max(1, totals.tokens))
    return RunStatus(
        state="complete" if complete else "running" if alive else "stopped" if notes else "planned",
        shards=totals.shards,
        shards_done=shards,
        rows=totals.rows,
        rows_done=rows,
        rows_failed=sum(reasons.values()),
        reasons=tuple(reasons.most_common(REASONS)),
        drivers=len(alive),
        workers=workers,
        ended_workers=sum(note["ended_workers"] for note in notes),
        rate=rate,
        rate_of_worker=rate / max(1, workers),
        seconds_left=left / rate if alive and rate else None,
        cost=_cost(notes),
    )


def failure_reasons(plan: BulkPlan) -> Iterator[str]:
    """Yield the reason of each row that was set aside."""
    for folder in sorted(plan.place.sizes("failed")):
        for name in sorted(plan.place.sizes(f"failed/{folder}")):
            if name.endswith(".jsonl"):
                with plan.place.open(f"failed/{folder}/{name}") as file:
                    for line in file:
                        yield json.loads(line)["reason"]


def _notes(plan: BulkPlan) -> Iterator[dict[str, Any]]:
    """Yield what each driver said last, the one that said it last at the end."""
    found = [plan.place.read(f"drivers/{name}") for name in plan.place.sizes("drivers")]
    notes = [json.loads(note) for note in found if note is not None]
    yield from sorted(notes, key=lambda note: float(note["updated"]))


def _cost(notes: list[dict[str, Any]]) -> float | None:
    if not any(note.get("price") for note in notes):
        return None
    hours = [
        (note["updated"] - note["started"]) / 3600 * note.get("machines", 1) * note["price"]
        for note in notes
        if note.get("price")
    ]
    return float(sum(hours))
