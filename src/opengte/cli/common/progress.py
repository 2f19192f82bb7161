"""A bar on stderr for long work, where stderr is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how much more was done."""
    from tqdm import tqdm

    def advance(count: int) -> None:
        bar.update(count)

    with tqdm(unit=unit, disable=None, leave=False, file=sys.stderr, delay=1) as bar:
        yield advance
