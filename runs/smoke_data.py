"""Data for runs/smoke.sh: `python runs/smoke_data.py FOLDER` writes pairs, raw and long texts.

From the training data beside the repository where there is some, else from examples/training.
"""

import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FULL = ROOT.parent / "shared/data/train/tldr/en.jsonl.gz"
SAMPLE = ROOT / "examples/training/tldr.jsonl.gz"
PAIRS, DEV, JOINED = 2400, 200, 3
FILLING = 400  # pages that stand around others, and that no long text is about


def lines(path: Path) -> Iterator[dict]:
    """Yield the rows of a packed JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def full() -> Iterator[dict]:
    """Yield description and uses of each page that has enough of both."""
    for page in lines(FULL):
        uses = " ".join(f"{told} {command}" for told, command in page["examples"][:4])
        if len(page["description"]) > 30 and len(page["examples"]) > 2:
            yield {"query": page["description"].split("\n")[0], "positive": uses[:360]}


def long(pairs: list[dict], filling: list[dict], draw: random.Random) -> Iterator[dict]:
    """One page among others: only those who read to the end find it."""
    for pair in pairs:
        others = [other["positive"] for other in draw.sample(filling, JOINED - 1)]
        others.insert(draw.randrange(JOINED), pair["positive"])
        yield {"query": pair["query"], "positive": " ".join(others)}


def write(path: Path, rows: Iterator[dict] | list[dict]) -> None:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(folder: Path) -> None:
    """Write all files."""
    folder.mkdir(parents=True, exist_ok=True)
    source = FULL if FULL.is_file() else SAMPLE
    pairs = list(full() if source == FULL else lines(source))
    draw = random.Random(0)
    draw.shuffle(pairs)
    dev, train = pairs[:DEV], pairs[DEV:PAIRS]
    write(folder / "pairs.jsonl", train)
    write(folder / "dev.jsonl", dev)
    texts = [{"text": text} for pair in train for text in pair.values()]
    write(folder / "texts.jsonl", texts)
    filling, about = train[:FILLING], train[FILLING:]
    write(folder / "long.jsonl", long(about, filling, draw))
    write(folder / "long-dev.jsonl", long(dev, filling, draw))
    sys.stdout.write(f"{len(train)} pairs from {source}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
