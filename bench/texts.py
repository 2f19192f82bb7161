"""The texts that benchmarks encode: half package descriptions, half docstrings, of real code.

    python bench/texts.py --tokenizer FOLDER/tokenizer.json --count 1000 > texts.json

Taken from the packages installed beside the running Python and from its standard library, so that
nothing is downloaded; the same environment gives the same texts in the same order. Lengths follow a
log-normal curve, as those of real passages do: mostly short, some of 512 tokens, 111 on average.
"""

import argparse
import ast
import importlib.metadata
import inspect
import json
import random
import re
import sysconfig
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

from tokenizers import Tokenizer

SEED = 20
LONGEST = 512  # tokens, special ones included
SHORTEST = 8
MEDIAN, SIGMA = 71.5, 1.0  # of the curve; clipped to 8..512 its mean is about 111
POOL = 12000  # candidates of a kind that are tokenised
RUNS = (1, 2, 3, 5, 8)  # paragraphs of a description that make one text
MODULES_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}


def descriptions() -> Iterator[str]:
    """Yield the summary and runs of paragraphs of every installed package."""
    found = {d.metadata["Name"].lower(): d for d in importlib.metadata.distributions()}
    for name in sorted(found):
        metadata: Any = found[name].metadata  # an email.message.Message at run time
        yield metadata.get("Summary") or ""
        body = metadata.get_payload() or metadata.get("Description") or ""
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", str(body))]
        for run in RUNS:
            for start in range(0, len(paragraphs), run):
                yield " ".join(paragraphs[start : start + run])


def docstrings() -> Iterator[str]:
    """Yield the docstrings of the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if MODULES_LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            yield from _docstrings_of(path)


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in old modules
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented):
            text = ast.get_docstring(node)
            if text:
                yield inspect.cleandoc(text)


def prose(texts: Iterable[str]) -> list[str]:
    """Return the distinct texts that are mostly words: no badges, tables or lists of links."""
    kept = dict.fromkeys(text.strip() for text in texts)
    return [text for text in kept if len(text) > 20 and _letters(text) > 0.7]


def _letters(text: str) -> float:
    plain = re.sub(r"\S*(://|\]\()\S*", "", text)
    return sum(c.isalpha() or c.isspace() for c in plain) / len(text)


def wanted_lengths(count: int) -> list[float]:
    """Return the lengths that count texts should have, in tokens."""
    normal = NormalDist()
    quantiles = ((i + 0.5) / count for i in range(count))
    lengths = (MEDIAN * 2.718281828 ** (SIGMA * normal.inv_cdf(q)) for q in quantiles)
    return [min(max(length, SHORTEST), LONGEST) for length in lengths]


def shaped(candidates: list[str], lengths: list[int], wanted: list[float]) -> list[str]:
    """Return for each wanted length, the longest first, the unused text that is nearest to it."""
    order = sorted(range(len(candidates)), key=lambda i: (lengths[i], i))
    sizes = [lengths[i] for i in order]
    chosen = []
    for length in sorted(wanted, reverse=True):
        place = bisect_left(sizes, length)
        near = [p for p in (place - 1, place) if 0 <= p < len(sizes)]
        best = min(near, key=lambda p: (abs(sizes[p] - length), p))
        chosen.append(candidates[order.pop(best)])
        sizes.pop(best)
    return chosen


def texts(count: int, tokenizer: Tokenizer, seed: int = SEED) -> list[str]:
    """Return count texts, descriptions and docstrings shuffled."""
    rng = random.Random(seed)
    result: list[str] = []
    for source, share in ((descriptions, count - count // 2), (docstrings, count // 2)):
        found = prose(source())
        candidates = rng.sample(found, min(POOL, len(found)))
        if len(candidates) < share:
            raise SystemExit(f"{len(candidates)} texts from {source.__name__}, expected {share}")
        lengths = token_counts(candidates, tokenizer)
        result += shaped(candidates, lengths, wanted_lengths(share))
    rng.shuffle(result)
    return result


def token_counts(texts: list[str], tokenizer: Tokenizer, longest: int = LONGEST) -> list[int]:
    """Return the tokens of each text, special ones included, at most `longest`."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [min(len(encoding), longest) for encoding in tokenizer.encode_batch(texts)]


def subset(texts: list[str], counts: list[int], size: int) -> list[str]:
    """Return size of the texts, evenly spaced by length, so that the mean length stays."""
    order = sorted(range(len(texts)), key=lambda i: (counts[i], i))
    kept = {order[int((i + 0.5) * len(order) / size)] for i in range(min(size, len(order)))}
    return [text for i, text in enumerate(texts) if i in kept]


def long_text(parts: list[str], tokenizer: Tokenizer, tokens: int) -> str:
    """Return a text of at least so many tokens, made of the given ones in turn."""
    counts = token_counts(parts, tokenizer)
    taken: list[str] = []
    total = 0
    while total < tokens:
        place = len(taken) % len(parts)
        taken.append(parts[place])
        total += max(counts[place] - 2, 1)
    return "\n\n".join(taken)


def main() -> None:
    """Print the texts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="tokenizer.json to measure by"
    )
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    print(json.dumps(texts(arguments.count, tokenizer)))


if __name__ == "__main__":
    main()
