"""Data for runs/mini.sh: `python runs/mini_data.py SHARED FOLDER` writes train and test there.

Only what may be passed on: Debian descriptions (free licences), MedQuAD and tldr-pages (CC BY 4.0),
Python documentation and library (PSF), SciTLDR (Apache-2.0), WordNet. Of the first, of the Python
documentation and of MedQuAD a part is held out, by source package, file and focus of the question:
FOLDER/test/DOMAIN are folders in the layout of BEIR.
"""

import csv
import gzip
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROWS = 12_000  # of a source
QUERIES, DOCUMENTS = 300, 5000  # of a held-out domain


class Pair(NamedTuple):
    """A query, its answer, and what must be on one side of the split."""

    query: str
    positive: str
    group: str


def opened(path: Path) -> Iterator[str]:
    """Yield the lines of a packed file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from file


def debian(data: Path) -> Iterator[Pair]:
    """Yield titles and bodies."""
    for line in opened(data / "debian-descriptions/en.jsonl.gz"):
        row = json.loads(line)
        yield Pair(row["title"], row["body"], row["source"] or row["package"])


def medquad(data: Path) -> Iterator[Pair]:
    """Yield questions and answers."""
    for line in opened(data / "medquad/qa.jsonl.gz"):
        row = json.loads(line)
        yield Pair(row["question"], row["answer"], str(row["focus"]).lower())


def python_docs(data: Path) -> Iterator[Pair]:
    """Yield paragraphs and those that follow them."""
    last = ("", "")
    for row in csv.DictReader(
        opened(data / "python-docs/en-zh_CN.tsv.gz"), delimiter="\t", quoting=csv.QUOTE_NONE
    ):
        if row["file"] == last[0] and len(last[1]) > 60 and len(row["en"]) > 80:
            yield Pair(last[1], row["en"], row["file"])
        last = (row["file"], row["en"])


def library(data: Path) -> Iterator[Pair]:
    """Yield docstrings and code."""
    for line in opened(data / "python-stdlib/docstring_code.jsonl.gz"):
        row = json.loads(line)
        yield Pair(row["docstring"], row["code"], row["module"])


def papers(data: Path) -> Iterator[Pair]:
    """Yield titles or summaries, and abstracts."""
    for line in opened(data / "scitldr/pairs.jsonl.gz"):
        row = json.loads(line)
        abstract = row["abstract"]
        text = abstract if isinstance(abstract, str) else " ".join(abstract)
        for query in (row["title"], *row["tldr"][:1]):
            if query:
                yield Pair(query, text, text)


def pages(data: Path) -> Iterator[Pair]:
    """Yield what commands do, and how they are used."""
    for line in opened(data / "tldr/en.jsonl.gz"):
        row = json.loads(line)
        uses = " ".join(f"{told}: {command}" for told, command in row["examples"])
        yield Pair(row["description"], uses, row["page"])


def words(data: Path) -> Iterator[Pair]:
    """Yield words and definitions."""
    for line in opened(data / "wordnet/synsets.jsonl.gz"):
        row = json.loads(line)
        yield Pair(", ".join(row["lemmas"][:3]).replace("_", " "), row["definition"], row["id"])


HELD_OUT: dict[str, Callable[[Path], Iterator[Pair]]] = {
    "debian": debian,
    "python-docs": python_docs,
    "medquad": medquad,
}
OTHERS = {"python-library": library, "papers": papers, "tldr": pages, "wordnet": words}


def is_held_out(group: str) -> bool:
    """Return whether a group is among the tenth that is held out."""
    return hashlib.sha256(group.encode()).digest()[0] < 26


def write(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_test(folder: Path, pairs: list[Pair], more: list[str], draw: random.Random) -> None:
    """Write held-out pairs as a collection, with other texts beside the answers."""
    chosen = draw.sample(pairs, min(QUERIES, len(pairs)))
    texts = list(dict.fromkeys([pair.positive for pair in pairs] + more))
    needed = dict.fromkeys(pair.positive for pair in chosen)
    corpus = list(dict.fromkeys([*needed, *texts]))[:DOCUMENTS]
    number = {text: f"d{i}" for i, text in enumerate(corpus)}
    answers: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.positive in number:
            answers.setdefault(pair.query, set()).add(number[pair.positive])
    queries = list(dict.fromkeys(pair.query for pair in chosen))
    write(folder / "corpus.jsonl", [{"_id": number[text], "text": text} for text in corpus])
    write(folder / "queries.jsonl", [{"_id": f"q{i}", "text": q} for i, q in enumerate(queries)])
    lines = ["query-id\tcorpus-id\tscore"]
    for i, query in enumerate(queries):
        lines += [f"q{i}\t{document}\t1" for document in sorted(answers[query])]
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "qrels/test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(shared: Path, folder: Path) -> None:
    """Write all files."""
    draw = random.Random(0)
    for name, read in (HELD_OUT | OTHERS).items():
        pairs = [pair for pair in read(shared / "train") if pair.query and pair.positive]
        draw.shuffle(pairs)
        kept = [p for p in pairs if name not in HELD_OUT or not is_held_out(p.group)]
        train = [{"query": p.query, "positive": p.positive} for p in kept[:ROWS]]
        write(folder / f"train/{name}.jsonl", train)
        sys.stdout.write(f"{name}: {len(train)} pairs\n")
        if name in HELD_OUT:
            test = [pair for pair in pairs if is_held_out(pair.group)]
            write_test(folder / "test" / name, test, [p.positive for p in kept], draw)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
