"""The texts of the load: half short, half long, of real packages; and the words that vary them."""

import json
import random
from pathlib import Path

from texts import SEED, descriptions, docstrings, prose, token_counts
from tokenizers import Tokenizer

SHORT = (5, 24)  # tokens, special ones included: what a query or a summary has
LONG = (64, 250)  # no server's limit cuts them, so that all compute the same
COUNT = 2000  # of a kind, where there are so many


def write(tokenizer_file: Path, out: Path) -> None:
    """Write the texts as JSON, where they are not there yet."""
    if out.is_file():
        return
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    rng = random.Random(SEED)
    described, documented = prose(descriptions()), prose(docstrings())
    firsts = prose(text.split("\n\n")[0].replace("\n", " ") for text in documented)
    short = _of_lengths([*described, *firsts], SHORT, tokenizer, rng)
    long = _of_lengths(documented, LONG, tokenizer, rng)
    found = {"short": short, "long": long, "words": _words(tokenizer, rng)}
    out.write_text(json.dumps(found))


def _of_lengths(
    texts: list[str], bounds: tuple[int, int], tokenizer: Tokenizer, rng: random.Random
) -> list[str]:
    candidates = rng.sample(texts, min(6 * COUNT, len(texts)))
    counts = token_counts(candidates, tokenizer)
    fitting = [t for t, n in zip(candidates, counts, strict=True) if bounds[0] <= n <= bounds[1]]
    return fitting[:COUNT]


def _words(tokenizer: Tokenizer, rng: random.Random) -> list[str]:
    """Return words that are one token each."""
    whole = [w for w in tokenizer.get_vocab() if w.isascii() and w.isalpha() and 4 <= len(w) <= 8]
    return rng.sample(sorted(whole), 2003)
