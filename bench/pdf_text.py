"""How much of the text of PDFs is read right, by kind, and how long it takes, before and after.

    apt-get download debian-policy maint-guide maint-guide-ja installation-guide-amd64 ...
    for file in *.deb; do dpkg-deb -x $file DOCS; done
    python bench/pdf_text.py DOCS [--before 5ec1ca7] [--keep FOLDER]

It needs rapidfuzz; LaTeX (texlive-latex-recommended, lmodern), Chromium, LibreOffice (writer) and
Tesseract from Debian make or read the documents that are not manuals.
"""

import argparse
import importlib.util
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import pdf_documents as documents
from opengte.search.parse.base import ParsedDocument, ParseLimits
from opengte.search.parse.pdf import parse_pdf

PASSAGES = 60  # of a manual that are looked for in what was read
SEED, MARGIN = 24, 60  # characters by which a passage is found, and that are looked at around it

Reader = Callable[[bytes], str]


def read_now(content: bytes) -> str:
    """Return the text of a PDF as it is read now."""
    items = parse_pdf(content, ParseLimits())
    return next(item.text for item in items if isinstance(item, ParsedDocument))


def reader_of(commit: str) -> Reader:
    """Return the reader of a commit whose parser of PDFs was one file."""
    source = subprocess.run(
        ["git", "show", f"{commit}:src/opengte/search/parse/pdf.py"],
        capture_output=True,
        check=True,
    ).stdout.decode()
    spec = importlib.util.spec_from_loader("pdf_before", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(source, "pdf_before", "exec"), module.__dict__)  # our own, of an earlier commit

    def read(content: bytes) -> str:
        return str(next(module.parse_pdf(content, 1 << 30)).text)

    return read


def plain(text: str) -> str:
    """Return a text without what no two readers agree on: spaces, and shapes of one character."""
    return " ".join(unicodedata.normalize("NFKC", text).replace("\u00ad", "").split())


def errors(found: str, right: str) -> tuple[float, float, float]:
    """Return the share of characters that are wrong, of words lost, and of words out of order."""
    from rapidfuzz.distance import Indel, Levenshtein

    characters = Levenshtein.distance(found, right) / max(len(right), 1)
    ours, theirs = found.split(), right.split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    ordered = Indel.similarity(ours, theirs) / 2  # length of the longest common subsequence
    return characters, 1 - shared / max(len(theirs), 1), 1 - ordered / max(shared, 1)


def matched(found: str, right: str) -> tuple[str, str]:
    """Return passages of the text of a manual, and what stands in their places in what was read.

    Headers, contents and notes differ between the two forms of a manual, so its passages are
    compared; one of which no part is found counts as lost.
    """
    from rapidfuzz.fuzz import partial_ratio_alignment

    passages = [" ".join(one.split()) for one in re.split(r"\n\s*\n", right)]
    passages = [one for one in passages if 120 < len(one) < 900 and ". . ." not in one]
    windows, chosen = [], random.Random(0).sample(passages, min(PASSAGES, len(passages)))
    if sum(map(str.isspace, found)) < len(found) / 12:  # a script without blanks
        found, chosen = found.replace(" ", ""), [one.replace(" ", "") for one in chosen]
    for passage in chosen:
        starts = range(0, len(passage) - SEED, SEED)
        places = ((found.find(passage[at : at + SEED]), at) for at in starts)
        place, at = next(((one, at) for one, at in places if one >= 0), (-1, 0))
        low = max(place - at - MARGIN, 0)
        window = found[low : place - at + len(passage) + MARGIN] if place >= 0 else ""
        aligned = partial_ratio_alignment(passage, window) if len(window) > len(passage) else None
        windows.append(window[aligned.dest_start : aligned.dest_end] if aligned else window)
    return "\n".join(windows), "\n".join(chosen)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("docs", type=Path, help="folder with manuals as PDF and text")
    parser.add_argument("--before", default="5ec1ca7", metavar="COMMIT")
    parser.add_argument("--keep", type=Path, help="folder for the documents, kept")
    parser.add_argument("--rounds", type=int, default=3, help="of the times")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = options.keep or Path(folder)
        made.mkdir(parents=True, exist_ok=True)
        samples = [sample for sample in _samples(options.docs, made) if sample.path.exists()]
        before = reader_of(options.before)
        _quality(samples, before)
        _times([one for one in samples if one.kind != "scan"], before, options.rounds)


def _samples(docs: Path, made: Path) -> list[documents.Sample]:
    articles = list(documents.two_columns(docs, made))
    return [
        *documents.manuals(docs, made),
        *articles,
        *documents.slides(docs, made),
        *documents.web_pages(docs, made),
        *documents.drawn(docs, made),
        *documents.scans(articles, made),
    ]


def _quality(samples: list[documents.Sample], before: Reader) -> None:
    scores = defaultdict(list)
    for sample in samples:
        content, pair = sample.path.read_bytes(), []
        for read in (before, read_now):
            found, right = plain(read(content)), sample.text
            if sample.kind.startswith("manual"):
                found, right = matched(found, unicodedata.normalize("NFKC", right))
            pair.append(errors(found, plain(right)))
        scores[sample.kind].append(pair)
        print(f"# {sample.path.name}: {pair[0][0]:.3f} -> {pair[1][0]:.3f}", file=sys.stderr)
    print("| kind | PDFs | characters wrong, % | words lost, % | words out of order, % |")
    print("|---|---|---|---|---|")
    for kind, pairs in scores.items():
        cells = []
        for measure in range(3):
            old, new = (statistics.mean(one[when][measure] for one in pairs) for when in (0, 1))
            cells.append(f"{100 * old:.1f} -> {100 * new:.1f}")
        print(f"| {kind} | {len(pairs)} | {' | '.join(cells)} |")
    print(f"\n{len(samples)} PDFs")


def _times(samples: list[documents.Sample], before: Reader, rounds: int) -> None:
    """Print the processor time of both readers, in turn, file by file."""
    spent: dict[str, list[list[float]]] = defaultdict(list)
    for sample in samples:
        content = sample.path.read_bytes()
        runs: list[list[float]] = [[], []]
        for _ in range(rounds):
            for times, read in zip(runs, (before, read_now), strict=True):
                start = time.process_time()
                read(content)
                times.append(time.process_time() - start)
        medians = [statistics.median(times) for times in runs]
        spent[sample.kind].append(medians)
        spent["all"].append(medians)
    print("\n| kind | PDFs | processor seconds before | after | ratio |\n|---|---|---|---|---|")
    for kind, pairs in spent.items():
        old, new = (sum(one[when] for one in pairs) for when in (0, 1))
        print(f"| {kind} | {len(pairs)} | {old:.2f} | {new:.2f} | {new / old:.2f} |")


if __name__ == "__main__":
    main()
