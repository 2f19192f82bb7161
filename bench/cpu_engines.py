"""OpenGTE's CPU engines beside their peers, on the same texts, in turn, in one run.

    python bench/cpu_engines.py [--quick] [--only native,openvino-int8] [--shapes minilm]

Makes an environment of its own for the peers, runs each engine in a process of its own, and prints
medians, ratios, fidelity and peak memory beside the figures to reach. docs/benchmarks.md explains.
"""

import argparse
import json
import platform
import signal
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from cpu_peers import environment, large_model, measure, report  # noqa: E402
from cpu_peers.catalog import ENGINES, SHAPES, Engine, Shape  # noqa: E402

PARTS = ("throughput", "start", "long", "big", "quality")
QUICK_TEXTS, QUICK_ROUNDS = 100, 2


def selected(names: str | None, known: list[str], what: str) -> list[str]:
    """Return the known names that start with one of the comma-separated ones."""
    if not names:
        return known
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if not any(k.startswith(name) for k in known):
            raise SystemExit(f"{what} has {name!r}, expected among {', '.join(known)}")
    return [k for k in known if k.startswith(tuple(wanted))]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", help="engines, by id or the beginning of it, comma-separated")
    parser.add_argument("--shapes", help=f"of {', '.join(s.id for s in SHAPES)}")
    parser.add_argument("--parts", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=1000, help="of the whole set")
    parser.add_argument("--quick", action="store_true", help="100 texts, 2 rounds, no judgement")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache" / "bench")
    parser.add_argument("--env", type=Path, default=HERE.parent / ".bench-venv")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data/mteb")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    return parser.parse_args()


def run(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measure everything that was asked for; results has what is done when this is interrupted."""
    parts = selected(options.parts, list(PARTS), "--parts")
    engine_ids = selected(options.only, [e.id for e in ENGINES], "--only")
    shape_ids = selected(options.shapes, [s.id for s in SHAPES], "--shapes")
    engines: tuple[Engine, ...] = tuple(e for e in ENGINES if e.id in engine_ids)
    shapes: list[Shape] = [s for s in SHAPES if s.id in shape_ids]
    options.cache.mkdir(parents=True, exist_ok=True)
    bench = measure.Bench(
        engines=engines,
        peers=environment.make(options.env.absolute()),
        cache=options.cache.absolute(),
        threads=options.threads,
        rounds=QUICK_ROUNDS if options.quick else options.rounds,
        quick=options.quick,
    )
    texts = measure.text_file(bench, QUICK_TEXTS if options.quick else options.texts)
    results |= {
        "machine": platform.platform(),
        "threads": options.threads,
        "rounds": bench.rounds,
        "quick": options.quick,
        "missing": bench.peers.missing,
        "gemm": measure.gemm(bench),
        "shapes": {},
        "long": {},
    }
    if "throughput" in parts:
        for shape in shapes:
            results["shapes"][shape.id] = measure.throughput(bench, shape, texts)
            print(report.throughput(results, shape.id), flush=True)
    if "start" in parts and shapes[0].id == "minilm":
        results["start"] = measure.start(bench, shapes[0])
    if "long" in parts:
        for shape in filter(lambda s: s.long_tokens, shapes):
            chosen = measure.quickly(shape) if options.quick else shape
            results["long"][shape.id] = measure.long(bench, chosen, texts)
    if "big" in parts and any(engine.ours for engine in engines):
        results["big"] = large_model.large_model(bench)
    if "quality" in parts and options.data.is_dir() and shapes[0].id == "minilm":
        results["quality"] = measure.quality(bench, options.data)


def main() -> None:
    """Run the benchmark and print its tables."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no child is left behind
    results: dict[str, Any] = {}
    try:
        run(options, results)
    finally:
        if "long" in results:
            print(report.rest(results))
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
