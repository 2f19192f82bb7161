"""Texts to measure speed with: real prose of known lengths, without a download."""

import ast
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from opengte.engine.precision import TEXTS
from opengte.types import Ints

MIXED = "mixed"
COUNT = 64
QUERY_TOKENS = 10
SHORTEST = 40  # characters of a paragraph
MODULES = (
    *("argparse", "asyncio", "collections", "concurrent.futures", "csv", "datetime", "decimal"),
    *("email", "functools", "heapq", "http", "inspect", "itertools", "json", "logging", "pathlib"),
    *("random", "re", "shutil", "sqlite3", "statistics", "string", "subprocess", "tempfile"),
    *("textwrap", "threading", "typing", "unittest", "urllib.parse", "zipfile"),
)

CountTokens = Callable[[Sequence[str]], Ints]


def mixed_texts(count: int = COUNT) -> list[str]:
    """Return texts of mixed lengths: hard cases of quantisation, and docstrings of the library.

    >>> len(mixed_texts(20))
    20
    """
    found = list(dict.fromkeys([*TEXTS, *_docstrings()]))
    step = max(1, len(found) // count)
    spread = found[::step] if len(found) >= count else found * (count // len(found) + 1)
    return spread[:count]


def texts_of_length(tokens: int, count: int, count_tokens: CountTokens) -> list[str]:
    """Return different texts that have `tokens` tokens each, or as near as a word allows."""
    words = " ".join(_docstrings()).split() or " ".join(TEXTS).split()
    step = max(1, len(words) // count)
    made = []
    for number in range(count):
        turned = words[number * step :] + words[: number * step]
        while len(turned) < tokens:
            turned += words
        made.append(_cut(turned[:tokens], tokens, count_tokens))
    return made


def _cut(words: list[str], tokens: int, count_tokens: CountTokens) -> str:
    """Return the longest beginning with at most `tokens` tokens, found by bisection."""
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens([" ".join(words[:middle])])[0] <= tokens:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low])


def _docstrings() -> Iterator[str]:
    """Yield the paragraphs of the docstrings of some modules of the standard library."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for name in MODULES:
        found = importlib.util.find_spec(name)
        if found is None or not found.origin or not found.origin.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(Path(found.origin).read_bytes())):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield from _paragraphs(inspect.cleandoc(text))


def _paragraphs(text: str) -> Iterator[str]:
    for part in text.split("\n\n"):
        plain = " ".join(part.split())
        if len(plain) >= SHORTEST:
            yield plain
