"""A progress bar on stderr, if stderr is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(
    unit: str, *, total: int | None = None, label: str | None = None
) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances the bar by a number of units; bytes (`B`) are abbreviated."""
    from tqdm import tqdm

    def advance(count: int) -> None:
        bar.update(count)

    settings: Any = {"unit": unit, "unit_scale": unit == "B", "total": total, "desc": label}
    with tqdm(**settings, disable=None, leave=False, file=sys.stderr, delay=1) as bar:
        yield advance
