"""The knowledge base against its targets: rates, latency, recall, quality. One command, one table.

    python bench/search.py                                  everything, about half an hour
    python bench/search.py --parts rate,latency --fresh
    python bench/search.py --data DATA --parts quality

Each part is a process of its own, whose results are kept as JSON in --out; a part that is there is
not run again, unless --fresh. The part `latency` keeps what it builds until all is measured, so a
run that was stopped goes on. `make bench-search` runs this.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent
SIZES = (10_000, 100_000, 1_000_000)
PARTS = ("rate", "latency", "quality", "files", "kill")


@dataclass(frozen=True)
class Line:
    """A figure, and what it should be."""

    name: str
    value: float
    target: str = ""
    met: bool | None = None
    unit: str = ""

    def __str__(self) -> str:
        """Return the line of the table."""
        verdict = {None: "", True: "reached", False: "missed"}[self.met]
        return f"{self.name:<58}{self.value:>10,.4g} {self.unit:<8}{self.target:<10}{verdict}"


def at_least(name: str, value: float, target: float, unit: str = "") -> Line:
    """Return a figure that should not be smaller."""
    return Line(name, value, f">= {target:g}", value >= target, unit)


def at_most(name: str, value: float, target: float, unit: str = "") -> Line:
    """Return a figure that should not be larger."""
    return Line(name, value, f"<= {target:g}", value <= target, unit)


# --- parts ---------------------------------------------------------------------------------------


def run(*command: object) -> list[dict]:
    """Run a benchmark; return its lines of JSON."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode and not lines:
        raise SystemExit(f"`{Path(str(command[0])).name}` failed with status {done.returncode}")
    return [json.loads(line) for line in lines]


def rate(arguments: argparse.Namespace) -> list[dict]:
    """Index the same texts in all ways."""
    return run(BENCH / "search_rate.py", "--texts", arguments.texts)


def latency(arguments: argparse.Namespace) -> list[dict]:
    """Build and ask indexes of each size, one size after the other; those that are done stay."""
    found, folder = [], arguments.out / "indexes"
    for size in arguments.sizes:
        kept = arguments.out / f"latency-{size}.json"
        if not kept.is_file():
            command = [BENCH / "search_latency.py", "--documents", size, "--folder", folder]
            kept.write_text(json.dumps(run(*command)[0]))
            shutil.rmtree(folder / str(size), ignore_errors=True)
        found.append(json.loads(kept.read_text()))
    return found


def quality(arguments: argparse.Namespace) -> list[dict]:
    """Measure nDCG@10 on judged questions."""
    if arguments.data is None:
        print("quality is left out: --data names the folder of data sets", file=sys.stderr)
        return []
    written = arguments.out / "quality-table.json"
    run_quietly(BENCH / "search_quality.py", "--data", arguments.data, "--json", written)
    table: list[dict] = json.loads(written.read_text())
    return table


def run_quietly(*command: object) -> None:
    """Run a benchmark whose lines are for people."""
    subprocess.run([sys.executable, *map(str, command)], stdout=sys.stderr, check=True)


def files(arguments: argparse.Namespace) -> list[dict]:
    """Index very many tiny files."""
    return run(BENCH / "search_files.py", "--files", arguments.files)


def kill(arguments: argparse.Namespace) -> list[dict]:
    """Kill what writes."""
    return run(BENCH / "search_kill.py", "--kills", arguments.kills)


WORK: dict[str, Callable[[argparse.Namespace], list[dict]]] = {
    "rate": rate,
    "latency": latency,
    "quality": quality,
    "files": files,
    "kill": kill,
}

# --- the table -----------------------------------------------------------------------------------


def rate_lines(rows: list[dict]) -> Iterator[Line]:
    """Yield the figures of rates."""
    for row in rows:
        for name, value in row["texts_per_s"].items():
            yield Line(
                f"{name}, texts of {row['tokens'] / row['texts']:.0f} tokens", value, "", None, "/s"
            )
        yield at_least("index / engine alone", row["index / engine"], 0.9)
        yield Line("add / engine alone", row["add / engine"])
        for name in ("lancedb", "chroma"):
            if f"index / {name}" in row:
                yield at_least(f"index / {name}", row[f"index / {name}"], 4.0)


def latency_lines(rows: list[dict]) -> Iterator[Line]:
    """Yield the figures of questions."""
    for row in rows:
        size = row["documents"]
        name = f"{size:,} documents"
        middle, last = row["hybrid_p50_ms"], row["hybrid_p99_ms"]
        if size == 100_000:
            yield at_most(f"{name}: hybrid query, p50", middle, 15, "ms")
            yield at_most(f"{name}: hybrid query, p99", last, 60, "ms")
            yield at_least(f"{name}: hybrid recall@10 of exact", row["hybrid_recall@10"], 0.98)
        else:
            yield Line(f"{name}: hybrid query, p50", middle, "", None, "ms")
            yield Line(f"{name}: hybrid query, p99", last, "", None, "ms")
            yield Line(f"{name}: hybrid recall@10 of exact", row["hybrid_recall@10"])
        if size == 1_000_000:
            yield at_most(f"{name}: vectors alone, p50", row["dense_p50_ms"], 25, "ms")
            yield at_least(f"{name}: vectors, recall@10", row["recall@10"], 0.95)
        else:
            yield Line(f"{name}: vectors alone, p50", row["dense_p50_ms"], "", None, "ms")
            yield Line(f"{name}: vectors, recall@10", row["recall@10"])
        yield Line(f"{name}: first question", row["first_ms"], "", None, "ms")
        yield Line(f"{name}: memory of the process", row["memory_mib"], "", None, "MiB")
        yield Line(f"{name}: disk", row["disk_mib"], "", None, "MiB")
        yield Line(f"{name}: written, and indexes", row["write_s"] + row["index_s"], "", None, "s")


def quality_lines(rows: list[dict]) -> Iterator[Line]:
    """Yield the figures of quality."""
    values = {(row["set"], row["name"]): row["ndcg@10"] for row in rows}
    base = {name: value for (name, way), value in values.items() if way.startswith("beginning")}
    for (name, way), value in values.items():
        label = f"{name}: {way}"
        if name == "SciFact" and way == "late: fused, default (RRF)":
            yield at_least(label, value, 71.2)
        elif name == "SciFact" and way.startswith("late: fused, fitted"):
            yield at_least(label, value, 73.0)
        elif name == "LEMBQMSum" and way == "late: dense":
            yield at_least(f"{label}, above the beginning only", value - base[name], 10.0)
        else:
            yield Line(label, value)


def files_lines(rows: list[dict]) -> Iterator[Line]:
    """Yield the figures of many files."""
    for row in rows:
        yield Line(f"{row['files']:,} tiny files: indexed", row["new"])
        yield Line(f"{row['files']:,} tiny files: time", row["seconds"], "", None, "s")
        yield Line(
            f"{row['files']:,} tiny files: again, nothing changed", row["again_s"], "", None, "s"
        )
        yield Line(f"{row['files']:,} tiny files: most memory", row["memory_mib"], "", None, "MiB")


def kill_lines(rows: list[dict]) -> Iterator[Line]:
    """Yield the figures of what was killed."""
    for row in rows:
        name = f"{row['what']}, {row['kills']} kills" if row.get("kills") else row["what"]
        if "left_out" in row:
            continue
        wrong = row["lost"] + row["twice"] + len(row["errors"])
        yield at_most(f"{name}: lost, repeated, errors", wrong, 0)
        yield Line(f"{name}: slowest opening and answer", row["slowest_open_s"], "", None, "s")


LINES: dict[str, Callable[[list[dict]], Iterator[Line]]] = {
    "rate": rate_lines,
    "latency": latency_lines,
    "quality": quality_lines,
    "files": files_lines,
    "kill": kill_lines,
}


def main() -> None:
    """Run what is missing, and print the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="names, with commas between")
    parser.add_argument("--out", type=Path, default=BENCH.parent / ".cache" / "bench-search")
    parser.add_argument("--fresh", action="store_true", help="run parts again that are there")
    parser.add_argument("--data", type=Path, help="folder of judged data sets, for quality")
    parser.add_argument("--texts", type=int, default=2000, help="of the part rate")
    parser.add_argument("--files", type=int, default=100_000, help="of the part files")
    parser.add_argument("--kills", type=int, default=20, help="of each kind, of the part kill")
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(one) for one in text.split(",")],
        default=list(SIZES),
        help="documents, of the part latency, with commas between",
    )
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts has {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.fresh and "latency" in parts:
        for old in arguments.out.glob("latency-*.json"):
            old.unlink()
    for part in parts:
        kept = arguments.out / f"{part}.json"
        if kept.is_file() and not arguments.fresh:
            continue
        start = time.perf_counter()
        rows = WORK[part](arguments)
        if rows:
            kept.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    for part in PARTS:
        kept = arguments.out / f"{part}.json"
        if kept.is_file():
            print(f"\n{part}")
            for line in LINES[part](json.loads(kept.read_text())):
                print(f"  {line}")


if __name__ == "__main__":
    main()
