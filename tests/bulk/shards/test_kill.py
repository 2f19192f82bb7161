"""Workers and drivers that are killed: nothing is lost, nothing is there twice, same bytes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opengte.bulk.shards.driver import completed
from tests.support import bulk

DRIVER = """
import sys
from opengte.bulk.shards import driver, pools
from opengte.bulk.shards.plan import BulkPlan
from tests.support import bulk
plan = BulkPlan.open(sys.argv[1])
report = driver.run_plan(plan, lambda: pools.LocalPool(bulk.settings(plan), 2))
print(report.ended_workers, report.failed_shards)
"""
KILLS = 10
PATHS = os.pathsep.join(path for path in sys.path if path)


def start(place: str, delay: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, place],
        env={**os.environ, "PYTHONPATH": PATHS, "FAKE_DELAY": str(delay)},
        stdout=subprocess.PIPE,
        text=True,
    )


def workers(child) -> list[int]:
    """Return the workers of a driver: its children that are no resource tracker."""
    listed = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    pids = [int(pid) for pid in listed.read_text().split()] if listed.exists() else []
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_ten_kills_leave_the_bytes_of_an_undisturbed_run(tmp_path):
    rows = bulk.write_inputs(tmp_path / "in", rows=600)
    alone = bulk.plan(tmp_path / "in", tmp_path / "alone", shard_rows=8)
    bulk.run(alone)
    made = bulk.plan(tmp_path / "in", tmp_path / "out", shard_rows=8)

    def shards() -> int:
        return len(list(Path(made.place.root).glob("*/*/*.parquet")))

    kills, child = 0, start(made.place.url, 0.05)
    while kills < KILLS:
        before = shards()
        while shards() == before and child.poll() is None:
            time.sleep(0.005)
        assert child.poll() is None, "the run ended before all kills"
        victims = workers(child) if kills % 2 else []
        if victims:
            os.kill(victims[0], 9)
        else:
            child.kill()
            child.communicate()
            child = start(made.place.url, 0.05)
        kills += 1
    child.communicate(timeout=240)
    last = start(made.place.url, 0)
    said, _ = last.communicate(timeout=120)
    assert said == "0 []\n"
    assert completed(made) is not None
    assert bulk.contents(made) == bulk.contents(alone)
    assert bulk.written(made)["id"].to_pylist() == list(rows)
