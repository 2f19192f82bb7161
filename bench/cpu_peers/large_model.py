"""gte-Qwen2-7B-instruct's shape: prepared once, then loaded, each in a process of its own."""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from random_checkpoint import SHAPES, write

from cpu_peers.child_processes import Child, ChildError, environment
from cpu_peers.measure import Bench, say

SHAPE, SHARDS = "gte-Qwen2-7B-instruct", 4
QUICK_LAYERS = 2
SECONDS = 1800
LOADS = 3
NEEDS_BYTES = 26 << 30  # the checkpoint, the prepared weights, and some room


def large_model(bench: Bench) -> dict[str, Any]:
    """Return the seconds and the peak memory from process start to a vector, first and later."""
    if shutil.disk_usage(bench.cache).free < NEEDS_BYTES and not bench.quick:
        return {"not_run": f"{bench.cache} has less than {NEEDS_BYTES >> 30} GiB free"}
    with tempfile.TemporaryDirectory(dir=bench.cache) as folder:
        say("7B: writing random weights")
        model = Path(folder) / "model"
        config = dict(SHAPES[SHAPE]) | ({"num_hidden_layers": QUICK_LAYERS} if bench.quick else {})
        parameters = write(model, config, SHARDS, "BF16")
        try:
            prepared = _vector(bench, model, "prepared")
            loaded = [_vector(bench, model, "loaded") for _ in range(LOADS)]
        except ChildError as error:
            return {"not_run": str(error)}
    return {
        "title": f"{SHAPE} shape, random weights",
        "parameters": parameters,
        "prepared": prepared,
        "loaded": sorted(loaded, key=lambda row: float(row["seconds"]))[LOADS // 2],
    }


def _vector(bench: Bench, model: Path, what: str) -> dict[str, Any]:
    say(f"7B: {what}")
    options = {"folder": str(model.absolute()), "precision": "int8", "threads": bench.threads}
    env = environment(bench.threads, own=True) | {
        "OPENGTE_CACHE": str(model.absolute().with_name("cache"))
    }
    log = bench.cache / "logs" / f"big-{what}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["native", json.dumps(options)]
    begun = time.perf_counter()
    with Child(Path(sys.executable), "cpu_peers.first_vector", arguments, env, log) as child:
        child.line(SECONDS)
        return {"seconds": time.perf_counter() - begun, "peak_mb": child.peak_mb()}
