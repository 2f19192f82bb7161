"""A progress bar on long work, or nothing."""

import sys
from typing import Protocol, Self

PROGRESS_DELAY = 2.0  # seconds of work before a bar appears


class ProgressBar(Protocol):
    """What the façades need of a bar."""

    def update(self, texts: int, /) -> object:
        """Count texts that are done."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> object: ...


class NoProgressBar:
    """A bar that shows nothing."""

    def update(self, texts: int, /) -> None:
        """Show nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Have nothing to close."""


def progress_bar(total: int | None, progress: bool | None) -> ProgressBar:
    """Return a bar that appears on long work, and by default only on a terminal."""
    if not (sys.stderr.isatty() if progress is None else progress):
        return NoProgressBar()
    from tqdm import tqdm  # takes as long to import as a short text takes to embed

    delay = PROGRESS_DELAY if progress is None else 0.0
    shown: ProgressBar = tqdm(total=total, unit=" texts", delay=delay, leave=False)
    return shown
