"""How fast texts are indexed: beside the engine alone, and beside what others do with them.

    python bench/search_rate.py --texts 1000 --rounds 3

The same texts go through `Encoder.embed` (dense vectors, nothing kept), through `KnowledgeBase.add`
and, as a file of JSON Lines, through `KnowledgeBase.index` (parsed, cut, embedded, committed,
indexes brought up to date), in turn; medians of the rounds. Peers run once, in an environment of
their own. All texts are as long as the model reads or shorter: of longer ones the engine alone
would read the beginning, and the knowledge base everything. Prints a line of JSON: texts a second.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from search_peers import environment
from texts import texts as real_texts

from opengte import Encoder, hub
from opengte.search.kb import KnowledgeBase

ROOT = Path(__file__).resolve().parents[1]
MODEL = "minilm"
PEERS = ("lancedb", "chroma")


def engine(encoder: Encoder, texts: list[str]) -> float:
    """Return the seconds that the vectors alone take."""
    start = time.perf_counter()
    encoder.embed(texts, role="document", progress=False)
    return time.perf_counter() - start


def added(encoder: Encoder, texts: list[str]) -> float:
    """Return the seconds of indexing texts under ids."""
    with tempfile.TemporaryDirectory() as folder:
        kb = KnowledgeBase.create(folder + "/kb", encoder)
        start = time.perf_counter()
        report = kb.add(texts, [str(number) for number in range(len(texts))])
        seconds = time.perf_counter() - start
        assert report.new == len(texts), report
    return seconds


def indexed(encoder: Encoder, texts: list[str]) -> float:
    """Return the seconds of indexing a file."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
        Path(folder, "texts.jsonl").write_text("\n".join(rows))
        kb = KnowledgeBase.create(folder + "/kb", encoder)
        start = time.perf_counter()
        report = kb.index([folder + "/texts.jsonl"])
        seconds = time.perf_counter() - start
        assert report.new == len(texts), report
    return seconds


def peer(name: str, python: Path, texts: list[str], threads: int) -> float:
    """Return the seconds that a peer's pipeline takes."""
    command = [str(python), "-m", "search_peers.pipeline", name]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    env |= {"PYTHONPATH": str(ROOT / "bench"), "PYTHONWARNINGS": "ignore", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [*command, str(hub.fetch_model(MODEL).folder), str(threads)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr.strip()[-500:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def measure(count: int, rounds: int, peers: list[str], folder: Path) -> dict:
    """Return texts a second of each way, and ratios."""
    encoder = Encoder.load(MODEL)
    candidates = real_texts(2 * count, encoder.tokenizer.backend)
    sizes = encoder.tokenizer.count(candidates)
    fitting = zip(candidates, sizes, strict=True)
    texts = [text for text, size in fitting if size <= encoder.card.max_length][:count]
    ways = {"engine": engine, "add": added, "index": indexed}
    engine(encoder, texts[:50])
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(way(encoder, texts))
    rates = {name: count / statistics.median(seconds) for name, seconds in times.items()}
    if peers:
        python = environment.python(folder)
        threads = os.cpu_count() or 1
        for name in peers:
            rates[name] = count / peer(name, python, texts, threads)
    tokens = int(encoder.tokenizer.count(texts).sum())
    found = {
        "texts": count,
        "tokens": tokens,
        "texts_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "add / engine": round(rates["add"] / rates["engine"], 3),
        "index / engine": round(rates["index"] / rates["engine"], 3),
    }
    for name in peers:
        found[f"index / {name}"] = round(rates["index"] / rates[name], 2)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS), help="names, with commas between")
    parser.add_argument("--environment", type=Path, default=ROOT / ".search-bench-venv")
    arguments = parser.parse_args()
    peers = [name for name in arguments.peers.split(",") if name]
    found = measure(arguments.texts, arguments.rounds, peers, arguments.environment)
    json.dump(found, sys.stdout)
    print()


if __name__ == "__main__":
    main()
