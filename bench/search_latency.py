"""How long a question takes, and what an index costs: latency, recall, memory and disk by size.

    python bench/search_latency.py --documents 10000,100000,1000000

Vectors and texts go into the default store as `gte index` puts them there; questions go through the
whole search, embedding included, one after another, on as many threads as the machine has. Each
size is built and then asked in processes of their own; with --folder what was built is kept, and a
build that was stopped goes on. Prints a line of JSON for each size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from search_synthetic import BATCH, SyntheticDocuments

from opengte import Encoder
from opengte.search.retrieval import search
from opengte.search.stores.lancedb.store import LanceStore

MODEL = "minilm"
WIDTH = 384
WARM = 50  # questions before the clock counts
EXACT = 30  # questions that are also asked exactly


def build(folder: Path, documents: int) -> dict:
    """Build an index, or go on with one; return what it took."""
    done = folder / "built.json"
    if done.is_file():
        return json.loads(done.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    made, store = SyntheticDocuments(WIDTH), LanceStore(str(folder / "lance"))
    if store.settings() is None:
        store.save_settings({"dimension": WIDTH, "first_pass": None, "language": "English"})
    spent = folder / "seconds.json"
    seconds = json.loads(spent.read_text()) if spent.is_file() else 0.0
    for number in range(store.count() // BATCH, documents // BATCH):
        batch = made.batch(number)
        start = time.perf_counter()
        store.put(batch)
        seconds += time.perf_counter() - start
        spent.write_text(json.dumps(seconds))
    start = time.perf_counter()
    failed = store.optimize()
    found = {
        "write_s": round(seconds, 1),
        "index_s": round(time.perf_counter() - start, 1),
        "not_tidied": failed,
    }
    assert store.count() == documents
    done.write_text(json.dumps(found))
    return found


def measure(folder: Path, questions: int) -> dict:
    """Return the figures of an index that was built."""
    encoder, store = Encoder.load(MODEL), LanceStore(str(folder / "lance"))
    encoder.embed(["warm"], role="query", progress=False)
    asked = [
        search.EncodedQuery(text, vector)
        for text, vector in SyntheticDocuments(WIDTH).questions(questions + WARM)
    ]
    options = search.SearchOptions(k=10)

    def hybrid(one: search.EncodedQuery) -> object:
        encoder.embed([one.text], role="query", progress=False)
        return search.search(store, one, options)

    base = resident("VmRSS")
    first = timed(hybrid, asked[:1])[0]
    timed(hybrid, asked[1:WARM])
    found = {
        "first_ms": round(first, 1),
        **percentiles("hybrid", timed(hybrid, asked[WARM:])),
        **percentiles("dense", timed(lambda one: store.dense(one.vector, 10, None), asked[WARM:])),
        **percentiles("words", timed(lambda one: store.lexical(one.text, 200, None), asked[WARM:])),
        "memory_mib": round(resident("VmHWM")),
        "memory_before_mib": round(base),
        "disk_mib": round((store.health().bytes or 0) / 2**20),
    }
    exact = search.SearchOptions(k=10, exact=True)
    shares = {"recall@10": [], "hybrid_recall@10": []}
    for one in asked[-EXACT:]:
        true = {name for name, _ in store.dense(one.vector, 10, None, exact=True)}
        near = {name for name, _ in store.dense(one.vector, 10, None)}
        shares["recall@10"].append(len(true & near) / 10)
        best = {hit.id for hit in search.search(store, one, exact).hits}
        fast = {hit.id for hit in search.search(store, one, options).hits}
        shares["hybrid_recall@10"].append(len(best & fast) / max(1, len(best)))
    return found | {name: round(float(np.mean(values)), 4) for name, values in shares.items()}


def timed(
    work: Callable[[search.EncodedQuery], object], asked: list[search.EncodedQuery]
) -> list[float]:
    """Return the milliseconds of each question."""
    times = []
    for one in asked:
        start = time.perf_counter()
        work(one)
        times.append(1000 * (time.perf_counter() - start))
    return times


def percentiles(name: str, times: list[float]) -> dict:
    """Return the middle and the 99th hundredth of times."""
    return {f"{name}_p{part}_ms": round(float(np.percentile(times, part)), 2) for part in (50, 99)}


def resident(field: str) -> float:
    """Return the memory of this process, in MiB: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def size(folder: Path, documents: int, questions: int) -> dict:
    """Build and measure one size, in processes of their own."""
    found: dict = {"documents": documents}
    for step in ("build", "measure"):
        arguments = ["--step", step, "--folder", folder, "--questions", questions]
        command = [sys.executable, __file__, "--documents", documents, *arguments]
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True
        )
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print, a line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--documents", default="10000,100000", help="sizes, with commas between")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="keep what is built here")
    parser.add_argument("--step", choices=("build", "measure"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [int(number) for number in arguments.documents.split(",")]
    if wrong := [number for number in sizes if number < BATCH or number % BATCH]:
        parser.error(f"--documents has {wrong[0]}, expected multiples of {BATCH:,}")
    if arguments.step == "build":
        print(json.dumps(build(arguments.folder, sizes[0])))
    elif arguments.step == "measure":
        print(json.dumps(measure(arguments.folder, arguments.questions)))
    else:
        for number in sizes:
            with tempfile.TemporaryDirectory() as temporary:
                folder = (arguments.folder or Path(temporary)) / str(number)
                print(json.dumps(size(folder, number, arguments.questions)), flush=True)


if __name__ == "__main__":
    main()
